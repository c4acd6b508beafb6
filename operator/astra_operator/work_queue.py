"""Keys of objects to reconcile: each once in the queue, and in one worker at a time, with back-off on failure.

Namespaces share the workers, as `turns` says.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic

from astra_operator.turns import Key, Turns

logger = logging.getLogger(__name__)
_FIRST, _LONGEST = 0.5, 60.0  # seconds of back-off


class WorkQueue(Generic[Key]):
    """Calls `reconcile(key)`; what it returns is when to call it again, in seconds (None: when the key is added)."""

    def __init__(self, reconcile: Callable[[Key], Awaitable[float | None]], workers: int) -> None:
        self._reconcile, self._workers = reconcile, workers
        self._turns: Turns[Key] = Turns()
        self._added = asyncio.Event()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, key: Key) -> None:
        """Has it reconciled soon."""
        self._turns.add(key)
        self._added.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Has it reconciled after a while; an earlier date wins."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Cancels them: reconciliation may be cut anywhere."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def _work(self) -> None:
        while True:
            key = await self._next()
            try:
                again = await self._reconcile(key)
            except Exception as error:  # the boundary: whatever goes wrong with one object is tried again
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                again = random.uniform(0.5, 1.0) * min(_LONGEST, _FIRST * 2**failures)
                logger.warning("%s: %s: %s; again in %.1f s", key, type(error).__name__, error, again)
                if failures == 1:
                    logger.debug("%s", key, exc_info=True)
            else:
                self._failures.pop(key, None)
            finally:
                added = self._turns.done(key)
            if added and not self._failures.get(key):  # one that failed waits
                self.add(key)
            if again is not None:
                self.add_after(key, again)

    async def _next(self) -> Key:
        while (key := self._turns.take()) is None:
            self._added.clear()
            await self._added.wait()
        return key
