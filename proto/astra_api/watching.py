"""Work under way as whoever watches it sees it: bars on a terminal, and in a log a line now and then.

A log hears of every stage's end, and at least every `BEAT` seconds where the work stands (stage, step, rate, time
left), also while one long step runs: silence in a log is read as a standstill, and some CI ends what is silent.
"""

import contextlib
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

from astra_api.display import duration

BEAT = 20.0  # seconds: people ask for a line every 30, and machines may be slow
_PACE = 10.0  # seconds between lines of a log that only move a stage on
_NAME = 24  # columns of a stage's name beside its bar
_BAR = 24


@dataclass
class Work:
    """A piece of work, of `total` steps where that is known; `first` of them were done before it was begun here."""

    name: str
    total: int | None
    first: int
    unit: str
    began: float
    passing: bool  # a part of something, or a preparation: once over it is of no interest
    done: int = field(init=False)
    moved: float = field(init=False)  # when the last step was done
    figures: str = ""

    def __post_init__(self) -> None:
        self.done, self.moved = self.first, self.began

    @property
    def ended(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def pace(self) -> float | None:
        """Seconds a step, so far; None before the first."""
        return (self.moved - self.began) / (self.done - self.first) if self.done > self.first else None

    def left(self, now: float) -> float | None:
        """Seconds until the last step, at that pace, or a slower one where the step under way shows it. None where it
        cannot be told, as of a last step that takes longer than any before."""
        if self.total is None or self.pace is None:
            return None
        pace = max(self.pace, (now - self.began) / (self.done - self.first + 1))
        left = pace * (self.total - self.done) - (now - self.moved)
        return left if left > 0 else None

    def when(self, now: float) -> str:
        """How much longer; how long so far, where that cannot be told."""
        left = self.left(now)
        if self.ended or left is None:
            return duration((self.moved if self.ended else now) - self.began)
        return f"{duration(left)} left"

    def said(self, now: float) -> str:
        """Where it stands, on a line: `rl: step 12 of 60, 4.1 s each, 3 min 16 s left; reward_mean 0.512`."""
        pace, parts = self.pace, []
        if self.total is not None:
            parts.append(f"{self.unit} {self.done} of {self.total}".strip())
        if pace is not None and pace > 0:
            parts.append(f"{duration(pace)} each" if pace >= 1 else f"{1 / pace:.1f} a second")
        if self.ended:
            parts.append(f"done in {self.when(now)}")
        else:
            parts.append(self.when(now) if self.left(now) is not None else f"{self.when(now)} so far")
        return f"{self.name}: {', '.join(parts)}" + (f"; {self.figures}" if self.figures else "")


class Display(ABC):
    """Shows work as it goes. A context manager; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[str, Work] = {}  # in the order that they were begun: what is inside comes after

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def note(self, text: str) -> None:
        """Something happened that a person should know."""

    def begin(self, name: str, total: int | None = None, done: int = 0, unit: str = "") -> None:
        """A piece of work begins, or goes on with `done` steps of it behind it."""
        self._begin(Work(name, total, done, unit, self._clock(), passing=False))

    def advance(self, name: str, done: int, figures: str = "") -> None:
        """So much of it is done."""
        with self._lock:
            work = self._open[name]
            if done > work.done:
                work.done, work.moved = done, self._clock()
            work.figures = figures
            self._moved(work)

    def end(self, name: str) -> None:
        """It is over, whether or not it came to its end."""
        with self._lock:
            self._ended(self._open.pop(name))

    @contextlib.contextmanager
    def doing(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Work that ends with the body, which calls what it is given after every step."""
        work = Work(name, total, 0, "", self._clock(), passing=True)
        self._begin(work)

        def count() -> None:
            self.advance(name, work.done + 1)

        try:
            yield count
        finally:
            self.end(name)

    def _begin(self, work: Work) -> None:
        with self._lock:
            self._open[work.name] = work
            self._begun(work)

    def _is_part(self, work: Work) -> bool:
        """Whether it is a part of a stage that is under way."""
        return work.passing and any(not other.passing and not other.ended for other in list(self._open.values()))

    @abstractmethod
    def _begun(self, work: Work) -> None: ...

    @abstractmethod
    def _moved(self, work: Work) -> None: ...

    @abstractmethod
    def _ended(self, work: Work) -> None: ...


class Unseen(Display):
    """A Display for nobody."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, text: str) -> None: ...

    def _begun(self, work: Work) -> None: ...

    def _moved(self, work: Work) -> None: ...

    def _ended(self, work: Work) -> None: ...


class Lines(Display):
    """A Display in a log."""

    def __init__(
        self, stream: TextIO | None = None, beat: float = BEAT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._stream, self._beat = stream if stream is not None else sys.stdout, beat
        self._last = clock()  # when a line was written
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._beating.join()

    def note(self, text: str) -> None:
        self._write(text)

    def _begun(self, work: Work) -> None: ...

    def _ended(self, work: Work) -> None: ...

    def _moved(self, work: Work) -> None:
        if self._is_part(work):
            return  # the beat tells of it
        if work.ended or work.done == work.first + 1 or self._clock() - self._last >= min(_PACE, self._beat):
            self._write(work.said(self._clock()))

    def beat(self) -> None:
        """Says where the work stands, if nothing was said for long."""
        with self._lock:
            if self._clock() - self._last >= self._beat:
                under_way = [work.said(self._clock()) for work in self._open.values() if not work.ended]
                self._write(" | ".join(under_way) or "at work")

    def _keep_beating(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: whoever writes next is told
            while not self._over.wait(min(1.0, self._beat / 4)):
                self.beat()

    def _write(self, text: str) -> None:
        with self._lock:
            self._last = self._clock()
            self._stream.write(f"{text}\n")
            self._stream.flush()


class Bars(Display):
    """A Display on a terminal: a bar for each piece of work; what is inside of it stands beside its bar."""

    def __init__(self, console: Any, *, keep: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """`console` is rich's; with `keep`, the bars stay when all is over."""
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.table import Column
        from rich.text import Text

        super().__init__(clock)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=_NAME)

        class Beside(ProgressColumn):
            def __init__(self, text: Callable[[Work], str], column: Column) -> None:
                super().__init__(column)
                self._text = text

            def render(self, task: Task) -> Text:
                return Text(self._text(task.fields["work"]), no_wrap=True, overflow="ellipsis")

        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=None, table_column=Column(max_width=_BAR)),
            Beside(_count, Column(no_wrap=True, justify="right")),
            Beside(lambda work: work.when(clock()), Column(no_wrap=True, justify="right")),
            Beside(self._beside, Column()),  # the first to give way on a narrow terminal
            console=console,
            transient=not keep,
        )
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal was hung up
            self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _begun(self, work: Work) -> None:
        if not self._is_part(work):
            bar = self._progress.add_task(work.name, total=work.total, completed=work.done, work=work)
            self._bars[work.name] = bar

    def _moved(self, work: Work) -> None:
        if work.name in self._bars:
            self._progress.update(self._bars[work.name], completed=work.done)

    def _ended(self, work: Work) -> None:
        bar = self._bars.pop(work.name, None)
        if bar is not None and (work.passing or not work.ended):
            self._progress.remove_task(bar)

    def _beside(self, work: Work) -> str:
        """What is going on inside, then the figures of the last step."""
        inner = [other for other in list(self._open.values()) if self._is_part(other)]
        parts = [f"{other.name} {_count(other)}".strip() for other in inner if not work.ended]
        return "  ".join([*parts, *([work.figures] if work.figures else [])])


def display(stream: TextIO, *, quiet: bool = False, keep: bool = True) -> Display:
    """What fits a stream: bars if a terminal takes them, else lines; nothing if `quiet`."""
    if quiet:
        return Unseen()
    from rich.console import Console

    console = Console(file=stream)
    return Bars(console, keep=keep) if stream.isatty() and not console.is_dumb_terminal else Lines(stream)


def _count(work: Work) -> str:
    return f"{work.done}/{work.total}" if work.total is not None else ""
