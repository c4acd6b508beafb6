"""How much memory there is, and who holds how much of it."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

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


def resident(pid: int | None) -> int:
    """Bytes that a process holds in memory, but for files that others share; 0 if it is gone."""
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
