"""The time that a call, or the loading of a source, has taken of its own: what a limit is about.

A server that stood still (a throttled pod, a paused machine) and a processor that was busy with others are no doing of
a tool. So time is counted in slices: a look that comes late counts as one slice, and what the process waited for a
processor, as the kernel accounts it, counts as nothing. A tool that sleeps or waits spends its own time.
"""

import asyncio
from collections.abc import Callable

from astra_sandbox.server.processes import waited_seconds

_SLICES = 20  # of a limit: what a standstill may count at most is one of them
_SHORTEST_SLICE = 0.1  # seconds: calls that are shorter cost no look
_LAST_LOOK = 0.01  # seconds: a loop that stood still reads first what was answered meanwhile


class OwnTime:
    """A timer that calls `expired` once a process has had `seconds` of its own; `pid` may not be known at first."""

    def __init__(self, seconds: float, pid: Callable[[], int | None], expired: Callable[[], None]) -> None:
        self._left, self._pid, self._expired = seconds, pid, expired
        self._slice = max(seconds / _SLICES, _SHORTEST_SLICE)
        self._waited: float | None = None
        self._loop = asyncio.get_running_loop()
        self._plan(self._look)

    def cancel(self) -> None:
        """Stops counting; nothing is called any more."""
        self._timer.cancel()

    def _plan(self, look: Callable[[], None]) -> None:
        self._planned = min(self._slice, self._left)
        self._began = self._loop.time()
        self._timer = self._loop.call_later(self._planned, look)

    def _look(self) -> None:
        passed = min(self._loop.time() - self._began, self._planned)
        waited = waited_seconds(self._pid())
        if self._waited is not None:
            passed -= min(max(waited - self._waited, 0.0), passed)
        self._waited = waited
        self._left -= passed
        if self._left > 1e-6:
            self._plan(self._look)
        else:
            self._timer = self._loop.call_later(_LAST_LOOK, self._expired)
