"""Keys of objects to reconcile: each once in the queue, and in one worker at a time, with back-off on failure."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)
Key = TypeVar("Key")
_FIRST, _LONGEST = 0.5, 60.0  # seconds of back-off


class WorkQueue(Generic[Key]):
    """Calls `reconcile(key)`; what it returns is when to call it again, in seconds (None: when the key is added)."""

    def __init__(self, reconcile: Callable[[Key], Awaitable[float | None]], workers: int) -> None:
        self._reconcile, self._workers = reconcile, workers
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._busy: set[Key] = set()
        self._dirty: set[Key] = set()  # added while a worker had them
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return self._queue.qsize() + len(self._busy)

    def add(self, key: Key) -> None:
        """Has it reconciled soon."""
        if key in self._busy:
            self._dirty.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

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
            key = await self._queue.get()
            self._queued.discard(key)
            self._busy.add(key)
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
                self._busy.discard(key)
            if key in self._dirty:
                self._dirty.discard(key)
                if again is None or not self._failures.get(key):
                    self.add(key)
            if again is not None:
                self.add_after(key, again)
