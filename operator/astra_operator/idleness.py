"""Whether something that serves on demand should run: while it is in use, and for some time after. Pure."""

import time
from collections.abc import Callable
from math import inf


class Idleness:
    """Awake from its making; asleep once nobody has used it for some seconds (0: never), until somebody does."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds or inf, clock
        self._users = 0
        self._used = clock()
        self.asleep = False

    def begin(self) -> bool:
        """Somebody uses it from now until `end`; whether that wakes it."""
        self._users += 1
        woke, self.asleep = self.asleep, False
        return woke

    def end(self) -> None:
        self._users -= 1
        self._used = self._clock()

    def touch(self) -> bool:
        """Somebody is about to use it; whether that wakes it."""
        woke = self.begin()
        self.end()
        return woke

    def left(self) -> float:
        """Seconds until it may fall asleep."""
        if self.asleep:
            return inf
        return self._seconds if self._users else max(0.0, self._used + self._seconds - self._clock())

    def nod(self) -> bool:
        """Falls asleep where it is time; whether it did so just now."""
        if self.asleep or self._users or self.left() > 0:
            return False
        self.asleep = True
        return True
