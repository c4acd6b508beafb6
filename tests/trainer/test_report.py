"""The report of a run directory: what it says and draws, of any run, whatever tools and models wrote."""

import base64
import json
import math
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.errors import BadInput
from astra_api.plotting import chart, styled
from astra_api.records import CallRecord, Message, Reward, ToolCall, ToolError, ToolErrorKind, ToolResult, Trajectory
from astra_api.training_run import TrainingRun
from astra_trainer.overlap import Overlap, Seen
from astra_trainer.report import write_report
from astra_trainer.report.plots import PLOTS, STYLE
from astra_trainer.report.reading import choose, turns
from astra_trainer.report.run_record import read_run
from astra_trainer.report.wording import duration, visible
from astra_trainer.run_directory import Position, Stage, open_run

SFT_STEPS, RL_STEPS = 60, 24
DOMAINS = ("astronomy", "chemistry", "geography", "languages")
HOSTILE = "<script>alert('x')</script> & \"quoted\" $\\frac{1}{$ \x00\x1b[31m \u202eevil {{ 7 * 7 }}</pre>"
ALL_PLOTS = {
    *("held_out", "domains", "reward", "recall_precision", "calls", "length", "loss", "discarded", "seconds"),
    *("mismatch", "success", "hops", "outcomes"),
}


def rollout(stage: Stage, number: int, solved: int, text: str = "", response: str = "2148000") -> Trajectory:
    """Held-out rollout `number`, with three steps to solve, `solved` calls that did and one that failed."""
    asked = [ToolCall(tool=f"population_{n}", arguments_json='{"city": "Paris"}') for n in range(solved + 1)]
    outcomes = [ToolResult(json_text=response)] * solved
    failure = ToolError(kind=ToolErrorKind.RAISED, message=f"KeyError: {response}")
    calls = [
        CallRecord(call_id=f"{n}-0", tool=call.tool, arguments_json=call.arguments_json, outcome=outcome)
        for n, (call, outcome) in enumerate(zip(asked, [*outcomes, failure], strict=True))
    ]
    recall, precision = solved / 3, solved / (solved + 1)
    f1 = 2 * recall * precision / (recall + precision) if solved else 0.0
    messages = [Message(role="user", content=f"How many people live in city {number}? {text}")]
    for call, record in zip(asked, calls, strict=True):
        messages += [
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content=record.outcome.observation()),
        ]
    return Trajectory(
        environment=f"city-{number:03}",
        digest="sha256:0",
        domain=DOMAINS[number % len(DOMAINS)],
        split="holdout",
        stage=stage,
        step=0,
        group=number,
        index=0,
        messages=(*messages, Message(role="assistant", content=f"After {stage}: {text or 'twelve'}")),
        tools=("population_0", "population_1", "mass"),
        tokens=(1, 2, 3),
        mask=(0, 1, 1),
        logprobs=(0.0, -0.5, -0.5),
        turns=solved + 2,
        calls=tuple(calls),
        ended="answered",
        reward=Reward(
            value=f1,
            recall=recall,
            precision=precision,
            f1=f1,
            solved=tuple(f"s{n}" for n in range(solved)),
            needed=3,
            calls=len(calls),
        ),
    )


def sft_line(step: int) -> dict[str, Any]:
    return {"kind": "train", "stage": "sft", "step": step, "loss": 6 * math.exp(-step / 12) + 0.1, "seconds": 0.5}


def rl_line(step: int) -> dict[str, Any]:
    """A step's line; every seventh step found no group to learn from."""
    rising = 0.45 + 0.4 * (1 - math.exp(-step / 10)) + 0.03 * math.sin(step * 2.4)
    line = {
        **{"kind": "train", "stage": "rl", "step": step, "loss": -0.02, "reward_mean": rising, "reward_std": 0.3},
        **{"success": rising / 2, "early": 0.1, "cut": 0.05, "scraps": 0.02},
        **{"f1": rising, "recall": rising + 0.05, "precision": rising - 0.05, "tool_calls": 4 - rising},
        **{"response_tokens": 90 - 30 * rising, "discarded_share": 0.2 + 0.5 * rising, "rollout_seconds": 4 - rising},
        **{"update_seconds": 1.5, "seconds": 6.0, "logprob_mismatch_mean": 4e-7, "logprob_mismatch_max": 8e-6},
    }
    nothing = {"loss": None, "discarded_share": 1.0, "update_seconds": 0.0001}
    mismatch = ("logprob_mismatch_mean", "logprob_mismatch_max")
    return {k: v for k, v in {**line, **nothing}.items() if k not in mismatch} if step % 7 == 0 else line


def evaluation_line(stage: Stage, step: int, f1: float) -> dict[str, Any]:
    return {
        **{"kind": "evaluation", "stage": stage, "step": step, "holdout_f1": f1, "holdout_recall": f1 + 0.04},
        **{"holdout_precision": max(0.0, f1 - 0.03), "holdout_calls": 2.5, "excluded": 0, "seconds": 5.0},
        **{"holdout_success": f1 / 2, "holdout_success_interval": [f1 / 4, f1], "holdout_answer": f1 / 2},
        **{"holdout_answer_interval": [f1 / 4, f1], "holdout_solved": f1, "holdout_solved_interval": [f1 / 2, f1]},
        **{"hops_success": {"1": f1, "3": f1 / 3}, "success_gained": 5, "success_lost": 1, "success_p": 0.21875},
        "domain_f1": {domain: max(0.0, f1 - 0.05 * number) for number, domain in enumerate(DOMAINS)},
    }


def write_run(
    path: Path, *, stages: tuple[Stage, ...] = ("sft", "rl"), rl_steps: int = RL_STEPS, text: str = ""
) -> Path:
    """A run directory as the pipeline leaves one; RL is cut short when it has fewer than all steps."""
    sft = {"dataset": {"type": "gold"}, "epochs": 2}
    rl = {"steps": RL_STEPS}
    spec = {"model": {"preset": "tiny"}, "seed": 7}
    spec |= {name: given for name, given in (("sft", sft), ("rl", rl)) if name in stages}
    annotations = {"astra.farm/containment": "sandbox containment: gvisor (runsc)"}
    metadata = {"name": "cities", "annotations": annotations}
    run = TrainingRun.model_validate({"metadata": metadata, "spec": spec})
    with open_run(path, run, "sha256:0") as directory:

        def evaluate(stage: Stage, step: int, f1: float, solved: int) -> None:
            rollouts = [rollout(stage, number, min(3, (number + solved) % 4), text) for number in range(8)]
            directory.save_trajectories(stage, step, "holdout", rollouts)
            directory.commit(Position(stage=stage, step=step, evaluated=True), evaluation_line(stage, step, f1))

        nothing, half = Seen(seen=0, of=2), Seen(seen=1, of=2)
        directory.save_overlap(
            Overlap(gold_calls=half, arguments=half, tools=half, templates=half, answers=nothing, questions=nothing)
        )
        evaluate("base", 0, 0.02, 0)
        if "sft" in stages:
            directory.save_trajectories("sft", 0, "demonstrations", [rollout("sft", n, 3) for n in range(100, 130)])
            for step in range(1, SFT_STEPS + 1):
                directory.commit(Position(stage="sft", step=step), sft_line(step))
            directory.save_snapshot("sft", SFT_STEPS, lambda folder: (folder / "model").write_text("") and None)
            evaluate("sft", SFT_STEPS, 0.48, 1)
        if "rl" in stages:
            for step in range(1, rl_steps + 1):
                directory.save_trajectories("rl", step, "train", [rollout("rl", n, 2) for n in (100, 101, 140)])
                directory.commit(Position(stage="rl", step=step), rl_line(step))
            if rl_steps == RL_STEPS:
                evaluate("rl", RL_STEPS, 0.81, 2)
    return path


class Page(HTMLParser):
    """What a browser would take from a page: its text, images, and every tag."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.shown: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {name: value or "" for name, value in attrs}
        assert not [name for name in found if name.startswith("on")]
        if tag == "img":
            self.images.append(found["src"])
        self.links += [found[name] for name in ("href", "action", "data") if name in found]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())


def drawn(path: Path) -> set[str]:
    """The plots on disk, which must be those inside of the page."""
    files = {file.read_bytes(): file.stem for file in (path / "plots").iterdir()}
    images = [image.removeprefix("data:image/png;base64,") for image in Page(path / "report.html").images]
    assert {base64.b64decode(image, validate=True) for image in images} == set(files)
    assert all(picture.startswith(b"\x89PNG") for picture in files)
    return set(files.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_run(tmp_path_factory.mktemp("report") / "run")
    assert write_report(path) == path / "report.html"
    yield path
    shutil.rmtree(path)


def test_the_page_tells_what_the_run_was_and_came_to(whole: Path) -> None:
    text = Page(whole / "report.html").text
    for fact in (
        "cities",
        "tiny, from scratch",
        "Seed 7",
        "Sandboxes gvisor (runsc)",
        "31 trained on · 8 held out, 4 domains",
        "3 min 9 s",
    ):
        assert fact in text
    tiles = [
        "Base, held-out success 0.010 95%: 0.01 to 0.02", "SFT, held-out success 0.240 95%: 0.12 to 0.48",
        "RL, held-out success 0.405 95%: 0.20 to 0.81 SFT → RL +0.165 5 gained, 1 lost, p = 0.22",
    ]  # fmt: skip
    assert " → ".join(tiles) in text
    assert "What is held out of what is held out, training holds: gold calls 50%" in text
    assert f"RL {RL_STEPS} of {RL_STEPS} {3 * RL_STEPS} rollouts" in text
    assert f"SFT {SFT_STEPS} 30 demonstrations" in text
    assert f"checkpoints/sft-{SFT_STEPS}" in text
    assert "checkpoints/rl" not in text, "a checkpoint that is not there is not named"
    assert "Unfinished" not in text


def test_every_plot_is_drawn_and_nothing_comes_from_elsewhere(whole: Path) -> None:
    page = Page(whole / "report.html")
    assert drawn(whole) == ALL_PLOTS
    assert not page.links
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "url(" not in (whole / "report.html").read_text()


def test_trajectories_stand_beside_those_of_the_stage_before(whole: Path) -> None:
    text = Page(whole / "report.html").text
    for label in ("Best", "Worst", "Typical"):
        assert label in text
    assert "After SFT F1" in text
    assert "After RL F1" in text
    assert "After rl: twelve" in text
    assert "After sft: twelve" in text
    assert 'population_0 {"city": "Paris"} 2148000' in text
    assert "error: RAISED: KeyError: 2148000" in text
    solved = "Solved 3 of 3 steps ( s0, s1, s2 ) with 4 calls: recall 1.00, precision 0.75, reward 0.86"
    assert f"{solved}; the answer is wrong; answered" in text


def test_the_same_run_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    write_report(again)
    for file in (*(whole / "plots").iterdir(), whole / "report.html"):
        assert (again / file.relative_to(whole)).read_bytes() == file.read_bytes()


def test_what_tools_and_models_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", text=HOSTILE)
    for file in (path / "trajectories").glob("*-holdout.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["domain"] = HOSTILE[:63]
            row["tools"] = [HOSTILE]
            row["reward"]["solved"] = [HOSTILE]
            for call in row["calls"]:
                call["outcome"] = {"type": "result", "json_text": HOSTILE}
            for message in row["messages"]:
                for call in message["tool_calls"]:
                    call |= {"tool": HOSTILE, "arguments_json": HOSTILE}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    hostile = [{**line, "domain_f1": {HOSTILE: 0.5, "市 $x^{": None}} for line in metrics]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in hostile))
    page = Page(write_report(path))
    assert "script" not in page.tags
    assert "<script>alert('x')</script> & \"quoted\"" in page.text
    assert "{{ 7 * 7 }}</pre>" in page.text
    raw = (path / "report.html").read_text()
    assert not {"\x00", "\x1b", "\u202e"} & set(raw)
    assert "⟨U+202E⟩" in raw
    assert "domains" in drawn(path)


@pytest.mark.parametrize(
    ("stages", "rl_steps", "says", "missing"),
    [
        (("sft",), 0, "SFT, held-out success 0.240", {"reward", "mismatch", "seconds"}),
        (("rl",), RL_STEPS, "Base → RL +0.395", {"loss"}),
        (("sft", "rl"), 5, f"Unfinished: RL at step 5 of {RL_STEPS}.", set()),
        (("sft", "rl"), 1, f"Unfinished: RL at step 1 of {RL_STEPS}.", set()),
        (("sft", "rl"), 0, f"Unfinished: RL at step 0 of {RL_STEPS}.", {"reward", "calls", "length", "discarded"}),
    ],
)
def test_a_run_without_a_stage_or_cut_short_is_reported_as_far_as_it_came(
    tmp_path: Path, stages: tuple[Stage, ...], rl_steps: int, says: str, missing: set[str]
) -> None:
    path = write_run(tmp_path / "run", stages=stages, rl_steps=rl_steps)
    assert says in Page(write_report(path)).text
    assert not missing & drawn(path)
    assert {"held_out", "domains"} <= drawn(path)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = TrainingRun.model_validate({"metadata": {"name": "new"}, "spec": {"model": {"name": "a/b"}, "rl": {}}})
    with open_run(tmp_path, run, "sha256:0"):
        pass
    text = Page(write_report(tmp_path)).text
    assert "a/b" in text
    assert "Unfinished: Base; RL at step 0 of 140" in text
    assert drawn(tmp_path) == set()


def test_nulls_and_a_half_written_line_are_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    kept = ("kind", "stage", "step", "domain_f1")
    nulls = [{name: value if name in kept else None for name, value in line.items()} for line in lines]
    text = "".join(json.dumps(line) + "\n" for line in nulls) + '{"kind": "train", "sta'
    (path / "metrics.jsonl").write_text(text)
    page = Page(write_report(path)).text
    assert "RL, held-out success – Held-out environments" in page
    assert "nan" not in page.split()
    assert drawn(path) <= {"held_out", "domains"}
    for line in nulls:
        line.pop("domain_f1", None)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in nulls))
    write_report(path)
    assert "domains" not in drawn(path), "an earlier report's plot is removed"


def test_a_report_does_not_disturb_a_run(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    spec = {"model": {"preset": "tiny"}, "seed": 7, "sft": {"dataset": {"type": "gold"}}, "rl": {"steps": RL_STEPS}}
    run = TrainingRun.model_validate({"metadata": {"name": "cities"}, "spec": spec})
    before = (path / "metrics.jsonl").read_bytes()
    with open_run(path, run, "sha256:0") as directory:
        write_report(path)  # while the run holds its lock
        assert directory.completed("rl")
    assert (path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.yaml", None, r"not the directory of a run"),
        ("run.yaml", "", r"run\.yaml: empty"),
        ("run.yaml", "kind: TrainingRun\n", r"run\.yaml: metadata: Field required"),
        ("run.yaml", "a: [", r"run\.yaml: "),
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl: line 1: not a line of a stage and a step"),
        ("metrics.jsonl", "nonsense\n", r"metrics\.jsonl: line 1: "),
        (
            f"trajectories/rl-{RL_STEPS:06}-holdout.jsonl",
            "{}\n",
            r"holdout\.jsonl: line 1: environment: Field required",
        ),
        (f"trajectories/rl-{RL_STEPS:06}-holdout.jsonl", "[]\n", r"holdout\.jsonl: line 1: "),
        (f"trajectories/rl-{RL_STEPS:06}-train.jsonl", "nonsense\n", r"train\.jsonl: line 1: not a trajectory"),
    ],
)
def test_a_damaged_file_is_named(whole: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_text(content)
    with pytest.raises(BadInput, match=message):
        write_report(path)


def test_choices_are_by_f1_and_never_of_one_environment_twice() -> None:
    before = [rollout("sft", 0, 0), rollout("sft", 1, 1), rollout("sft", 2, 3), rollout("sft", 3, 0)]
    after = [rollout("rl", 0, 3), rollout("rl", 1, 1), rollout("rl", 2, 2), rollout("rl", 3, 1)]
    found = {choice.label: choice for choice in choose(after, before)}
    assert {label: choice.after.environment for label, choice in found.items()} == {
        "Best": "city-000",
        "Worst": "city-001",
        "Typical": "city-002",
        "Gained most": "city-003",
    }
    assert found["Best"].before == before[0]
    assert [choice.before for choice in choose(after, [])] == [None] * 3
    assert choose([], before) == []


def test_calls_of_a_turn_that_was_cut_have_no_response() -> None:
    whole = rollout("rl", 0, 2)
    cut = whole.model_copy(update={"calls": whole.calls[:1]})
    assert [[call.response for call in turn.calls] for turn in turns(cut)] == [["2148000"], [None], [None], []]
    assert [call.failed for turn in turns(whole) for call in turn.calls] == [False, False, True]


@given(st.text())
def test_visible_text_has_no_invisible_characters_and_can_be_written(text: str) -> None:
    shown = visible(text)
    assert shown.encode().decode() == shown
    assert all(
        character.isprintable() or character in "\n\t\u200c\u200d" or ord(character) > 0x9F for character in shown
    )
    if text.isascii() and text.isprintable():
        assert shown == text


def test_long_text_says_how_much_is_left_out() -> None:
    assert visible("x" * 5000).endswith("x … (3,000 more characters)")


@pytest.mark.parametrize(
    ("seconds", "says"), [(0.25, "0.2 s"), (42, "42 s"), (59.6, "1 min 0 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, says: str) -> None:
    assert duration(seconds) == says


def with_lines(path: Path, *lines: dict[str, Any]) -> Path:
    """A run of RL with these lines of metrics."""
    run = TrainingRun.model_validate({"metadata": {"name": "x"}, "spec": {"model": {"preset": "tiny"}, "rl": {}}})
    with open_run(path, run, "sha256:0"):
        pass
    told = [{"kind": "train", "stage": "rl", "step": n, "seconds": 1.0, **line} for n, line in enumerate(lines, 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return path


def test_discarded_groups_are_told_before_the_figures_and_why(tmp_path: Path) -> None:
    lines = [
        {"offered": 16, "discarded_share": 0.25, "groups": 8, "discarded_unsolved": 3, "discarded_solved": 1},
        {"offered": 16, "discarded_share": 1.0, "groups": 0, "discarded_unsolved": 16, "discarded_solved": 0},
    ]
    text = Page(write_report(with_lines(tmp_path / "run", *lines))).text
    said = (
        "62% of the groups of RL (20 of 32) were discarded: all rollouts of such a group earned the same, so it "
        "teaches nothing. In 19 no rollout solved anything (too hard as yet: more SFT, or easier environments), in 1 "
        "all solved everything (too easy: harder environments)."
    )
    assert said in text
    assert "In 1 of 2 steps of RL no group was left, and nothing was learned." in text
    assert text.index(said) < text.index("Stages")


def test_a_run_that_discarded_nothing_has_nothing_to_tell(tmp_path: Path) -> None:
    line = {"offered": 16, "discarded_share": 0.0, "groups": 8, "excluded": 0}
    text = Page(write_report(with_lines(tmp_path / "run", line, line))).text
    assert "were discarded" not in text
    assert "left out" not in text


def test_lines_of_earlier_versions_tell_the_share_alone(tmp_path: Path) -> None:
    text = Page(write_report(with_lines(tmp_path / "run", {"offered": 16, "discarded_share": 1 / 16}))).text
    assert "6% of the groups of RL (1 of 16) were discarded" in text
    assert "so it teaches nothing. " in text
    assert "too hard" not in text


@pytest.mark.parametrize("name", sorted(ALL_PLOTS))
def test_no_legend_covers_what_it_explains(name: str, whole: Path) -> None:
    record = read_run(whole)
    with styled(STYLE):
        figure = chart(next(plot for plot in PLOTS if plot.name == name), record)
        assert figure is not None
        figure.canvas.draw()
        (axes,) = figure.axes
        taken = axes.get_tightbbox()
        assert taken is not None
        assert axes.get_legend() is None
        for legend in figure.legends:
            assert not legend.get_window_extent().overlaps(taken)
            assert figure.bbox.containsx(legend.get_window_extent().x0)
            assert figure.bbox.containsx(legend.get_window_extent().x1)
        assert bool(figure.legends) == bool(axes.get_legend_handles_labels()[1])


def test_a_reward_that_rises_while_success_falls_is_told_first(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    worse = [{**line, "holdout_success": 0.1} if line.get("holdout_f1") == 0.81 else line for line in lines]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in worse))
    text = Page(write_report(path)).text
    alarm = "After RL held-out F1 rose from 0.480 to 0.810 while success fell from 0.240 to 0.100"
    assert f"{alarm} (5 gained, 1 lost, p = 0.22)" in text


def test_runs_of_earlier_versions_have_f1_in_their_headline(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    old = [{name: value for name, value in line.items() if "success" not in name} for line in lines]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert "SFT, held-out F1 0.480 → RL, held-out F1 0.810 SFT → RL +0.330" in Page(write_report(path)).text


def test_a_damaged_overlap_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "overlap.json").write_text("{}")
    with pytest.raises(BadInput, match=r"overlap\.json: gold_calls: Field required; delete it"):
        write_report(path)
