"""What a run tells whoever watches it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self


class Progress(Protocol):
    """Hears of a run as it goes. A line is a line of `metrics.jsonl`, told after it was committed."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage begins, or goes on after an interruption: `base`, `sft`, `rl`; `total` steps, `done` of them done."""
        ...

    def line(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        """Something happened that a person should know."""
        ...


class Silence:
    """A Progress for nobody."""

    def stage(self, name: str, done: int, total: int) -> None: ...

    def line(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


class Bars:
    """A Progress on the terminal: one bar a stage with its latest figures. A context manager."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._stages: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        self._stages[name] = self._bars.add_task(name, total=total, completed=done, figures="")

    def advance(self, name: str, done: int, figures: str = "") -> None:
        """Moves the bar of a stage that has no lines."""
        self._bars.update(self._stages[name], completed=done, figures=figures)

    def line(self, line: Mapping[str, Any]) -> None:
        stage = str(line["stage"])
        if line["kind"] == "evaluation":
            held_out = {name.removeprefix("holdout_"): line[name] for name in _HELD_OUT}
            self._bars.console.print(f"{stage:<10} held-out  {_figures(held_out)}")
        elif stage in self._stages:
            shown = {name: line[name] for name in _SHOWN if line.get(name) is not None}
            self._bars.update(self._stages[stage], completed=line["step"], figures=_figures(shown))

    def note(self, text: str) -> None:
        self._bars.console.print(text)


_HELD_OUT = ("holdout_f1", "holdout_recall", "holdout_precision", "holdout_calls")
_SHOWN = ("loss", "reward_mean", "tool_calls", "discarded_share")


def _figures(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
