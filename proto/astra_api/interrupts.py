"""Signals that ask a process to end: it cleans up behind itself, says which signal it was, and exits with 130."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

EXIT_CODE = 130  # of a process that was interrupted, by whichever signal
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the process to end; `EXIT_CODE` is that of all of them."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)

    @property
    def word(self) -> str:
        """The signal in a word that people know: interrupted, terminated or hung up."""
        return {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}.get(self.signal, "interrupted")


def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end. HUP, INT or TERM cancels it, once: what comes while it cleans up is not heeded.

    A signal that the process was started to ignore (`nohup`) stays ignored. Raises Interrupted when cancelled so.
    """
    heard: list[int] = []

    async def listening() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in heeded:
            asyncio.get_running_loop().add_signal_handler(number, stop, task, number)
        return await work

    def stop(task: "asyncio.Task[Any]", number: int) -> None:
        if not heard:
            task.cancel()
        heard.append(number)

    heeded = _heeded()
    with _restoring():
        try:
            return asyncio.run(listening())
        except (Exception, asyncio.CancelledError) as error:
            if not heard:
                raise
            raise Interrupted(heard[0]) from error


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """A signal raises Interrupted in the main thread within this block, where no coroutine runs."""

    def interrupt(number: int, _: object) -> NoReturn:
        raise Interrupted(number)

    heeded = _heeded()
    with _restoring():
        for number in heeded:
            signal.signal(number, interrupt)
        yield


def _heeded() -> list[signal.Signals]:
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def _restoring() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
