"""`astra train` of the example for engine verl, and what befalls it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import children

EXAMPLE = Path(__file__).parents[2] / "examples" / "verl-cpu.yaml"
SFT_STEPS, RL_STEPS = 40, 5
GROUPS = 2  # a step


@dataclass
class Farm:
    """A run directory, and the command that runs or resumes it."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self) -> subprocess.Popen[bytes]:
        astra = Path(sys.executable).with_name("astra")
        command = [astra, "train", "-f", EXAMPLE, "--out", self.out]
        with (self.folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def said(self) -> str:
        return (self.folder / "said.txt").read_text(errors="replace")

    def lines(self, kind: str = "train") -> list[dict[str, Any]]:
        file = self.out / "metrics.jsonl"
        if not file.exists():
            return []
        found = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        return [line for line in found if line["kind"] == kind]

    def rl_steps(self) -> int:
        return max((line["step"] for line in self.lines() if line["stage"] == "rl"), default=0)

    def draws(self) -> list[int]:
        """The numbers of the environments that RL drew and rolled out, in order of the numbers."""
        files = (self.out / "trajectories").glob("rl-*-train.jsonl")
        steps = [{json.loads(line)["group"] for line in file.read_text().splitlines()} for file in files]
        return sorted(number for step in steps for number in step)

    def wait(self, process: subprocess.Popen[bytes], until: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert process.poll() is None, f"ended with {process.returncode}:\n{self.said()}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.said()}\n{self.log()}"
            time.sleep(0.2)

    def log(self) -> str:
        logs = sorted((self.out / "logs").glob("*.log"), key=lambda file: file.stat().st_mtime)
        return logs[-1].read_text(errors="replace")[-3000:] if logs else ""

    def workers(self) -> Iterator[tuple[int, str]]:
        """(pid, name) of each living process of the run's stages."""
        marker = f"ASTRA_VERL_JOB={self.out}/".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (entry / "environ").read_bytes():
                    name = (entry / "comm").read_text().strip()
                    if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        yield int(entry.name), name
            except OSError:
                continue

    def kill(self, name: str) -> None:
        """SIGKILL to each worker whose name holds `name`; at least one must be there."""
        found = [pid for pid, comm in self.workers() if name in comm]
        assert found, f"no worker {name} among {sorted({comm for _, comm in self.workers()})}"
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def kill_sandboxes(self) -> None:
        """SIGKILL to the sandbox servers of this run, with all that they started."""
        servers = (b"astra_sandbox", b"runsc")
        everything = _descendants(self.processes[-1].pid)
        found = [pid for pid in everything if any(name in _command(pid) for name in servers)]
        assert found, "no sandbox server"
        for pid in found:
            with contextlib.suppress(ProcessLookupError):  # it may have ended with the server that started it
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
