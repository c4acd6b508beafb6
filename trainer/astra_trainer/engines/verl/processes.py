"""A stage as a process tree of its own: started, followed, and ended for good, whatever becomes of it.

verl, Ray and vLLM start processes in sessions of their own. All inherit the environment variable that names the job,
and by that they are found.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from astra_api.errors import RunFailed
from astra_trainer.engines.verl.job import JOB

DIAGNOSIS, HEARTBEAT, METRICS = "diagnosis.json", "heartbeat.json", "metrics.jsonl"  # in the spool
_POLL_SECONDS = 0.5
_LINES = 12  # of the log, in an error
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
_TELLING = re.compile(r"(Error|Exception|Failed)\b")
_NOISE = re.compile(r"Warning|Traceback|Error executing job with overrides")  # verl warns of each engine it lacks


async def run_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    job: Path,
    log: Path,
    follow: Callable[[], None],
    stall_seconds: float,
) -> None:
    """Runs `command` to its end; calls `follow` all the time, and once more at the end.

    Raises RunFailed when it ends badly, when the watchdog leaves a diagnosis, or when nothing is heard of it for
    `stall_seconds`. Nothing of it is left running, also when this is cancelled.
    """
    end_all(job)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "astra_trainer.engines.verl.launch",
            *command,
            env={**os.environ, **environment, JOB: str(job)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    spool = job.parent
    try:
        while process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), _POLL_SECONDS)
            except TimeoutError:
                follow()
                _check(spool, log, stall_seconds)
        follow()
    finally:
        if process.returncode is None:
            process.kill()
        end_all(job)
        await process.wait()
    if process.returncode != 0:
        raise RunFailed(_explain(spool, f"{command[0]} ended with exit code {process.returncode}", log))


def _check(spool: Path, log: Path, stall_seconds: float) -> None:
    if (spool / DIAGNOSIS).exists():
        raise RunFailed(_explain(spool, "the run was ended by its watchdog", log))
    silent = time.time() - max(map(_changed, (spool, spool / METRICS, spool / "steps")))
    if silent > stall_seconds:
        raise RunFailed(_explain(spool, f"nothing was heard of it for {silent:.0f} s", log))


def _explain(spool: Path, what: str, log: Path) -> str:
    """What happened, the watchdog's diagnosis, and the end of the log."""
    said = [what]
    if (spool / DIAGNOSIS).exists():
        said = [json.loads((spool / DIAGNOSIS).read_bytes())["message"]]
    if (spool / HEARTBEAT).exists():
        beat = json.loads((spool / HEARTBEAT).read_bytes())
        said.append(f"it last waited for {beat['under_way']} groups of rollouts, {beat['ready']} were ready")
    lines = [line for line in _PAINT.sub("", log.read_text(errors="replace")).splitlines() if line.strip()]
    telling = [line for line in lines[-400:] if _TELLING.search(line) and not _NOISE.search(line)][-3:]
    tail = telling or lines[-_LINES:]
    return "; ".join(said) + f"\nthe end of {log}:\n  " + "\n  ".join(line.strip()[:300] for line in tail)


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def end_all(job: Path) -> None:
    """Kills every process of a job on this machine, and waits until they are gone."""
    for _ in range(100):
        left = list(_of_job(job))
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    raise RunFailed(f"processes {left} cannot be ended")


def _of_job(job: Path) -> Iterator[int]:
    marker = f"{JOB}={job}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker in (entry / "environ").read_bytes().split(b"\0") and _alive(entry):
                yield int(entry.name)
        except (OSError, ValueError):
            continue


def _alive(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
