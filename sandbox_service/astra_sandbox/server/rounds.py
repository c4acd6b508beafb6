"""Rounds: the server's looks into the mailboxes of sessions, where system calls are dear.

Under gVisor a system call costs more than most tools do. While many calls are under way, sessions are asked to leave
their replies in memory, and one look a millisecond finds them all. While few are, a frame is sooner there.
"""

import asyncio
import fcntl
import mmap
import os
from typing import Protocol

from astra_sandbox.server.disks import Changes
from astra_sandbox.worker.mailbox import SIZE, Mailbox

_MANY = 8  # calls under way, from which on replies go to mailboxes
_SHORTEST, _LONGEST = 0.001, 0.02  # seconds between two looks
_LATE = 0.05  # a slow call is found later than it could be, by this share of its time at most
_F_ADD_SEALS, _F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 1, 2, 4  # Python 3.11 does not name them


class Called(Protocol):
    """A process that was called, and has a mailbox."""

    @property
    def answered(self) -> bool:
        """Whether its reply lies there."""

    def collect(self) -> None:
        """Takes the reply, if it is whole."""


def new_mailbox() -> tuple[int, Mailbox]:
    """(a file that is a mailbox, to be handed over and closed; the server's end of it). Raises OSError.

    It holds nothing else, as who maps a part of a file can reach for the rest. Its size is sealed: a session that could
    cut it short would end whoever looks.
    """
    file = os.memfd_create("mailbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, SIZE)
        fcntl.fcntl(file, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
        return file, Mailbox(mmap.mmap(file, SIZE))
    except OSError:
        os.close(file)
        raise


class Rounds:
    """Which calls are under way, and which of them are looked for. `many`: from how many on they are."""

    def __init__(self, changes: Changes, many: int = _MANY) -> None:
        self._changes, self._many = changes, many
        self._loop = asyncio.get_running_loop()
        self._under_way: set[Called] = set()
        self._quiet: dict[Called, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _SHORTEST
        self._moved = 0.0  # when a reply was found last, or a call begun

    def join(self, process: Called) -> bool:
        """A call begins; whether its reply will be looked for."""
        self._under_way.add(process)
        if len(self._under_way) < self._many:
            return False
        self._quiet[process] = None
        self._moved = self._loop.time()
        if self._timer is None or self._pause > _SHORTEST:
            self._plan()
        return True

    def leave(self, process: Called) -> None:
        """The call is answered, or its process is gone."""
        self._under_way.discard(process)
        self._quiet.pop(process, None)

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pause = min(max(_LATE * (self._loop.time() - self._moved), _SHORTEST), _LONGEST)
        self._timer = self._loop.call_later(self._pause, self._look) if self._quiet else None

    def _look(self) -> None:
        self._timer = None
        found = [process for process in self._quiet if process.answered]
        try:
            if found:
                self._moved = self._loop.time()
                with self._changes.read_once():
                    for process in found:
                        process.collect()
        finally:
            self._plan()
