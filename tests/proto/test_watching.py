"""What watchers of a run see: lines in a log, also while one long step runs, and bars that fit a narrow terminal."""

import contextlib
import io
import re
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from astra_api.display import share
from astra_api.watching import BEAT, Bars, Display, Lines, Unseen, display


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(act: Any, beat: float = BEAT) -> list[str]:
    """What `act` writes into a log; no time passes but what it lets pass."""
    clock, stream = Clock(), io.StringIO()
    act(Lines(stream, beat, clock), clock)
    return stream.getvalue().splitlines()


def test_a_long_step_is_told_of_in_time() -> None:
    def act(log: Lines, clock: Clock) -> None:
        log.begin("rl", 60, unit="step")
        clock.now += 100
        log.advance("rl", 1, "reward_mean 0.500")
        with log.doing("rolling out", 8) as count:
            count()
            for _ in range(120):
                clock.now += 1
                log.beat()

    first, *beats = lines(act)
    assert first == "rl: step 1 of 60, 1 min 40 s each, 1 h 38 min left; reward_mean 0.500"
    assert len(beats) == 6
    assert beats[0] == (
        "rl: step 1 of 60, 1 min 40 s each, 1 h 38 min left; reward_mean 0.500 | rolling out: 1 of 8, 50 s left"
    )
    assert BEAT < 30


@pytest.mark.parametrize("what", ["preparing the model", "base: evaluating"])
def test_what_has_no_steps_says_for_how_long_it_runs(what: str) -> None:
    def act(log: Lines, clock: Clock) -> None:
        with log.doing(what):
            clock.now += 45
            log.beat()

    assert lines(act) == [f"{what}: 45 s so far"]


def test_quick_steps_do_not_flood_a_log_and_the_last_is_told() -> None:
    def act(log: Lines, clock: Clock) -> None:
        log.begin("sft", 4000, unit="step")
        for step in range(1, 4001):
            clock.now += 0.01
            log.advance("sft", step)

    found = lines(act)
    assert len(found) == 5
    assert found[-1] == "sft: step 4000 of 4000, 100.0 a second, done in 40 s"


def test_a_run_that_goes_on_counts_its_pace_from_there() -> None:
    def act(log: Lines, clock: Clock) -> None:
        log.begin("rl", 100, done=90, unit="step")
        clock.now += 10
        log.advance("rl", 91)

    assert lines(act) == ["rl: step 91 of 100, 10 s each, 1 min 30 s left"]


def test_a_heart_beats_while_the_thread_computes() -> None:
    stream, heard = io.StringIO(), threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            heard.set()
            return stream.write(text)

    with Lines(Stream(), beat=0.05) as log, log.doing("preparing the model"):
        assert heard.wait(10)
    assert stream.getvalue().startswith("preparing the model: 0.")
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def last_frame(width: int, rows: int, act: Any) -> list[str]:
    """The bars of a terminal when all is over, as a person sees them."""
    clock, screen = Clock(), io.StringIO()
    with Bars(Console(file=screen, width=width, force_terminal=True), clock=clock) as bars:
        act(bars, clock)
    frames = _ESCAPE.sub("", screen.getvalue().replace("\r", "\n"))
    return [line for line in frames.splitlines() if line.strip()][-rows:]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_bars_keep_step_and_time_left(width: int) -> None:
    def act(bars: Bars, clock: Clock) -> None:
        bars.begin("a-synthesis-with-a-name-that-is-far-too-long", 2000)
        clock.now += 60
        bars.advance("a-synthesis-with-a-name-that-is-far-too-long", 2000, "verified environments; 1200 rejects")
        bars.end("a-synthesis-with-a-name-that-is-far-too-long")
        bars.begin("rl", 1200, done=3, unit="step")
        clock.now += 100
        bars.advance("rl", 43, "loss 0.123  reward_mean 0.512  tool_calls 2.250  discarded_share 0.125")

    made, rl = last_frame(width, 2, act)
    assert max(len(made), len(rl)) <= width
    assert "2000/2000" in made
    assert "43/1200" in rl
    assert "48 min 12 s left" in rl
    assert ("loss 0.123" in rl) == (width >= 80)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_what_goes_on_inside_a_step_stands_beside_its_bar(width: int) -> None:
    def act(bars: Bars, clock: Clock) -> None:
        bars.begin("rl", 1200, unit="step")
        inside.enter_context(bars.doing("rolling out", 8))()

    inside = contextlib.ExitStack()  # it goes on
    (rl,) = last_frame(width, 1, act)
    assert "rolling out 1/8" in rl
    assert "0/1200" in rl


def test_an_evaluation_has_a_bar_of_its_own_and_leaves_none() -> None:
    def act(bars: Bars, clock: Clock) -> None:
        bars.begin("sft", 1, unit="step")
        bars.advance("sft", 1)
        with bars.doing("sft: evaluating", 1) as count:
            count()

    (sft,) = last_frame(80, 1, act)
    assert sft.startswith("sft ")
    assert "1/1" in sft


def test_notes_are_shown_as_they_are_whatever_brackets_they_hold() -> None:
    said = "[red]give [holdout][/nonsense] in /a/folder/whose/name/is/longer/than/any/terminal/of/sixty/columns"
    screen = io.StringIO()
    with Bars(Console(file=screen, width=60, force_terminal=True)) as bars:
        bars.note(said)
    text = _ESCAPE.sub("", screen.getvalue())
    assert f"{said}\n" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "quiet", "kind"),
    [
        (Terminal, "xterm", False, Bars),
        (Terminal, "dumb", False, Lines),
        (io.StringIO, "xterm", False, Lines),
        (Terminal, "xterm", True, Unseen),
    ],
)
def test_a_display_fits_its_stream(
    stream: type[io.StringIO], term: str, quiet: bool, kind: type[Display], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI sets it
    assert type(display(stream(), quiet=quiet)) is kind


@pytest.mark.parametrize(
    ("part", "whole", "says"),
    [(0, 0, "–"), (0, 5, "0%"), (5, 5, "100%"), (999, 1000, ">99%"), (1, 1000, "<1%"), (1, 3, "33%")],
)
def test_a_share_of_nothing_is_a_dash_and_only_all_is_all(part: int, whole: int, says: str) -> None:
    assert share(part, whole) == says


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(0, 2))
def test_no_share_says_all_or_nothing_that_is_not(part: int, more: int, digits: int) -> None:
    whole = part + more
    said = share(part, whole, digits)
    assert said != f"{1:.{digits}%}"
    assert (said == f"{0:.{digits}%}") == (part == 0)
