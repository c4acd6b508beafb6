"""Keeps the machine, or the pod, alive: who uses too much memory or disk dies, and not its neighbours.

Sessions may be promised more memory together than there is (capacity times a session's limit): that is the overcommit.
Above six tenths of the memory, templates without sessions are ended, one at a time. When less than a tenth is left,
the session that uses most of it is ended with OUT_OF_MEMORY, and new ones wait. Where sessions write to a disk that
nothing else bounds, what each keeps is looked at during its calls and between them; the session looks after each.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from astra_sandbox.server.sessions import ServerSession

HIGH_WATER = 0.9  # of the memory limit
_SHED = (
    0.6  # of the memory limit: what is only kept warm goes (a sandbox's own kernel uses memory that it does not show)
)
_EVERY = 0.1  # seconds
_DISK_EVERY = 0.3
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CGROUP = Path("/sys/fs/cgroup")


class Memory:
    """How much memory there is, and how much of it is used: of the control group, else of the machine that one sees.

    `limit`: bytes, where the limit is known better from outside (a pod's manifest).
    """

    def __init__(self, limit: int | None = None) -> None:
        own = _read_number(_CGROUP / "memory.max")
        total, _ = _machine()
        self.grouped = own is not None
        self.limit = min(value for value in (limit, own, total) if value is not None)

    def used(self) -> int:
        """Bytes in use that cannot be had back."""
        current = _read_number(_CGROUP / "memory.current") if self.grouped else None
        if current is not None:
            return current - _inactive_files()
        total, available = _machine()
        return total - available

    def share(self) -> float:
        """Used, of the limit."""
        return self.used() / self.limit


class Guard:
    """Watches one server's sessions. `watch` runs until it is cancelled. `disks`: whether nothing else bounds those."""

    def __init__(
        self, sessions: "dict[str, ServerSession]", memory: Memory, shed: Callable[[], bool], *, disks: bool
    ) -> None:
        self._sessions, self._memory, self._shed, self._disks = sessions, memory, shed, disks
        self.memory_scarce = False

    async def watch(self) -> None:
        """Looks at memory ten times a second, at disks three times."""
        loop = asyncio.get_running_loop()
        disk_due = 0.0
        while True:
            await asyncio.sleep(_EVERY)
            share = self._memory.share()
            self.memory_scarce = share > HIGH_WATER
            shed = share > _SHED and self._shed()
            if self.memory_scarce and not shed:
                self._end_greediest()
            if self._disks and loop.time() >= disk_due:
                start = loop.time()
                self._look_at_disks()
                disk_due = loop.time() + max(_DISK_EVERY, 4 * (loop.time() - start))  # a fifth of a core at most

    def _end_greediest(self) -> None:
        sizes = {session: _resident(session.process_id) for session in self._sessions.values() if session.process_id}
        if sizes:
            greediest = max(sizes, key=lambda session: sizes[session])
            greediest.end_process("memory", "the pod ran short of memory, and this session used most of it")

    def _look_at_disks(self) -> None:
        for session in list(self._sessions.values()):
            if session.called and (fault := session.disk_fault()):
                session.end_process("disk", fault)


def _resident(pid: int) -> int:
    """Bytes that a process holds in memory, but for files that others share."""
    try:
        _, resident, shared = (int(part) for part in Path(f"/proc/{pid}/statm").read_text().split()[:3])
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE


def _machine() -> tuple[int, int]:
    """(bytes of memory, bytes of it that are available)."""
    found = dict(_lines(Path("/proc/meminfo").read_text().replace(":", "").splitlines()))
    return found["MemTotal"] << 10, found.get("MemAvailable", found["MemFree"] + found.get("Cached", 0)) << 10


def _inactive_files() -> int:
    with contextlib.suppress(OSError):
        return dict(_lines((_CGROUP / "memory.stat").read_text().splitlines())).get("inactive_file", 0)
    return 0


def _lines(lines: Iterable[str]) -> Iterable[tuple[str, int]]:
    for line in lines:
        name, value, *_ = line.split()
        yield name, int(value)


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None
