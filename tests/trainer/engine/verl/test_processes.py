"""A stage as a process tree: followed to its end, and nothing of it left, however it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from astra_api.errors import RunFailed
from astra_trainer.engines.verl.processes import end_all, run_process

HERE = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": str(HERE)}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "spool" / "job.json"
    file.parent.mkdir()
    file.write_text("{}")
    yield file
    end_all(file)


def running(job: Path) -> list[int]:
    marker = f"ASTRA_VERL_JOB={job}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def begun(job: Path) -> None:
    """Waits for the stage and for what it puts into another session."""
    deadline = time.monotonic() + 60
    while len(running(job)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def run(job: Path, what: str, follow: list[bool], stall_seconds: float = 60.0) -> None:
    await run_process(
        ["stage_program", what],
        ENVIRONMENT,
        job=job,
        log=job.parent.parent / "log",
        follow=lambda: follow.append((job.parent / "metrics.jsonl").exists()),
        stall_seconds=stall_seconds,
    )


async def test_it_is_followed_to_its_end(job: Path) -> None:
    seen: list[bool] = []
    await run(job, "finish", seen)
    assert seen[-1], "what it wrote last is read"
    assert not running(job), "also what it left in another session"


async def test_a_failure_names_the_exit_code_and_what_was_said(job: Path) -> None:
    with pytest.raises(RunFailed, match=r"exit code 3(.|\n)*the learning rate is a fish"):
        await run(job, "fail", [])
    assert not running(job)


async def test_a_diagnosis_ends_it(job: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunFailed, match="the worker Bob died"):
        await run(job, "diagnosed", [])
    assert time.monotonic() - began < 30
    assert not running(job)


async def test_silence_ends_it(job: Path) -> None:
    with pytest.raises(RunFailed, match="nothing was heard of it for"):
        await run(job, "hang", [], stall_seconds=3.0)
    assert not running(job)


async def test_cancelling_ends_it(job: Path) -> None:
    task = asyncio.create_task(run(job, "hang", []))
    await asyncio.to_thread(begun, job)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running(job)


def test_it_does_not_outlive_who_started_it(job: Path) -> None:
    """The process of the run is killed: the kernel ends its stage, and the next attempt what the stage left."""
    script = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from astra_trainer.engines.verl.processes import run_process\n"
        "job = Path(sys.argv[2])\n"
        "asyncio.run(run_process(['stage_program', 'hang'], {'PYTHONPATH': sys.argv[1]}, job=job,"
        " log=job.parent.parent / 'log', follow=lambda: None, stall_seconds=600))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(HERE), str(job)])
    begun(job)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while len(running(job)) > 1:  # the stage itself; what it put into another session is left
        assert time.monotonic() < deadline
        time.sleep(0.1)
    end_all(job)
    assert not running(job)
