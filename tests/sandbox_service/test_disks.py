"""What a process keeps in files, seen by a server that is not root: it may not list what the process holds open."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from astra_sandbox.server.disks import Changes, SessionFiles

MIB = 1 << 20
HOLD = """
import os, sys
held = []
for _ in range(int(sys.argv[1])):
    file = open("f", "wb", buffering=0)
    os.unlink("f")
    file.write(bytes(1 << 20))
    held.append(file)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """(files of one MiB without a name) -> the id of a process that holds them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(files: int) -> int:
        command = [sys.executable, "-c", HOLD, str(files)]
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process.pid

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionFiles]:
    real = os.listdir

    def refused(path: str) -> list[str]:
        if path.startswith("/proc/"):
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr("astra_sandbox.server.disks.os.listdir", refused)
    changes = Changes()
    yield SessionFiles(str(tmp_path), changes)
    changes.close()


def test_files_without_a_name_are_seen_through_copies(holding: Callable[[int], int], files: SessionFiles) -> None:
    before = os.listdir("/dev/fd")
    assert files.fault(MIB, holding(4)) is None
    fault = files.fault(MIB, holding(5))
    assert fault is not None
    assert "more than 4 MiB" in fault
    assert len(os.listdir("/dev/fd")) - len(before) == 2 * 2, "two processes' pipes, and no copy"


def test_a_process_that_is_gone_holds_nothing(files: SessionFiles) -> None:
    assert files.fault(MIB, None) is None
    assert files.fault(MIB, 2**22 + 1) is None
