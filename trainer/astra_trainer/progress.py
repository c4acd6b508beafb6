"""What a run tells whoever watches it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from astra_api.watching import Display


class Progress(Protocol):
    """Hears of a run as it goes. A line is a line of `metrics.jsonl`, told after it was committed."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage begins, or goes on after an interruption: `base`, `sft`, `rl`; `total` steps, `done` of them done."""
        ...

    def line(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        """Something happened that a person should know."""
        ...

    def doing(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        """Something that takes a while, as long as the body runs; what it gives is called after each of `total`."""
        ...


class Silence:
    """A Progress for nobody."""

    def stage(self, name: str, done: int, total: int) -> None: ...

    def line(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def doing(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(lambda: None)


class Shown:
    """A Progress on a Display: its stages with their latest figures, and a line for each evaluation."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._stage: str | None = None

    def stage(self, name: str, done: int, total: int) -> None:
        if self._stage is not None:
            self._display.end(self._stage)
        self._stage = name
        self._display.begin(name, total, done, unit="step")

    def line(self, line: Mapping[str, Any]) -> None:
        stage = str(line["stage"])
        if line["kind"] == "evaluation":
            held_out = {name.removeprefix("holdout_"): line[name] for name in _HELD_OUT if line.get(name) is not None}
            self._display.note(f"{stage:<10} held-out  {_figures(held_out)}")
        elif stage == self._stage:
            shown = {name: line[name] for name in _SHOWN if line.get(name) is not None}
            self._display.advance(stage, int(line["step"]), _figures(shown))

    def note(self, text: str) -> None:
        self._display.note(text)

    def doing(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        return self._display.doing(what, total)


_HELD_OUT = ("holdout_success", "holdout_f1", "holdout_recall", "holdout_precision", "holdout_calls")
_SHOWN = ("loss", "reward_mean", "success", "tool_calls", "discarded_share")


def _figures(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
