"""Notices a dead watch: the operator marks an object of its own from time to time, and the watch must tell of it.

A watch can hang with its connection open, and then nothing is reconciled though every request succeeds.
"""

import time

BEAT_SECONDS = 20.0
_SILENCE = 75.0  # a mark that is not seen for so long: kopf gives a silent watch up after 70 s by itself
_START = 120.0  # for the first mark


class Heartbeat:
    """Marks made, and marks seen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._unseen: dict[str, float] = {}  # mark -> when it was made
        self._seen_any = False

    def made(self, mark: str) -> None:
        self._unseen[mark] = time.monotonic()

    def seen(self, mark: str) -> None:
        """The watch told of a mark: it also saw, or skipped, those before."""
        if mark in self._unseen:
            self._seen_any = True
            made = self._unseen[mark]
            self._unseen = {other: when for other, when in self._unseen.items() if when > made}

    def fault(self) -> str | None:
        """What is wrong; None while all is well."""
        now = time.monotonic()
        waited = max((now - when for when in self._unseen.values()), default=0.0)
        if waited > (_SILENCE if self._seen_any else _START):
            return f"the watch has told nothing for {waited:.0f} s"
        if not self._seen_any and now - self._began > _START and not self._unseen:
            return "no heartbeat was ever made"
        return None
