"""The trainer's side of copying snapshots: it starts the process, listens to it, and waits for it at the end."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from astra_api.errors import BadInput, RunFailed
from astra_api.files import replace
from astra_api.training_run import TrainingRun
from astra_trainer.progress import Progress

FILE = "uploads.json"
PATIENCE = 300.0  # seconds at the end of a run in which nothing works, until it is given up
_UID = "ASTRA_RUN_UID"  # environment variable: the run's in a cluster
_CRASHES = 5


class UploadFailed(RunFailed):
    """The run is done and on its volume, but not all of its snapshots are in object storage."""


@contextlib.asynccontextmanager
async def uploading(run: TrainingRun, out: Path, progress: Progress) -> AsyncIterator[None]:
    """Copies the run's snapshots to its object store while the body runs, and waits for them after it.

    Raises BadInput where the store refuses from the start, RunFailed where it cannot be reached, and UploadFailed
    after the body when not all could be copied. When the body fails or is cancelled, copying ends at once: the next
    start goes on from there.
    """
    store = run.spec.checkpoint.object_store
    if store is None:
        yield
        return
    uploads = _Uploads(f"{store.url.rstrip('/')}/{run.metadata.name}", out, progress)
    try:
        await uploads.begin()
        yield
        with progress.doing("copying checkpoints to the object store"):
            await uploads.finish()
    finally:
        await uploads.end()


class _Uploads:
    """The process that copies, as its parent sees it."""

    def __init__(self, url: str, out: Path, progress: Progress):
        self._url, self._out, self._progress = url, out, progress
        before = _read(out / FILE)
        run = before.get("run") or os.environ.get(_UID) or secrets.token_hex(16)
        kept = before.get("snapshots", {}) if before.get("url") == url else {}
        self._record: dict[str, Any] = {"url": url, "run": run, "snapshots": kept}
        self._ready, self._finishing = asyncio.Event(), False
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._verdict: Exception | None = None
        self._said = ""  # its last words that are no news
        self._crashes = 0

    async def begin(self) -> None:
        """Returns when the store was found to take objects. Raises BadInput, RunFailed."""
        replace(self._out / FILE, json.dumps(self._record, indent=1).encode())
        self._following = asyncio.create_task(self._follow())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({ready, self._following}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._verdict is not None:
            raise self._verdict

    async def finish(self) -> None:
        """Waits until all snapshots are there. Raises UploadFailed."""
        assert self._following is not None
        self._finishing = True
        self._close_input()
        await self._following
        if self._verdict is not None:
            raise self._verdict

    async def end(self) -> None:
        """Leaves nothing running."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    async def _follow(self) -> None:
        """Keeps the process running, whatever becomes of it, until it is done or has given up."""
        while (code := await self._run()) != 0 and self._verdict is None:
            self._crashes += 1
            what = f"{self._url}: the process that copies snapshots ended with exit code {code}: {self._said}"
            if self._crashes == _CRASHES:
                self._verdict = UploadFailed(what)
                self._progress.note(what)
                return
            self._progress.note(f"{what}; starting it again")
            await asyncio.sleep(2**self._crashes)

    async def _run(self) -> int:
        arguments = (self._url, str(self._record["run"]), str(self._out), str(PATIENCE), str(os.getpid()))
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "astra_trainer.object_store.upload",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # an interrupt on the terminal is for this process, which ends that one
        )
        if self._finishing:
            self._close_input()
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._hear(line)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _hear(self, line: bytes) -> None:
        try:
            news = json.loads(line)
        except ValueError:
            news = None
        if not isinstance(news, dict):
            self._said = line.decode(errors="replace").strip()
            return
        begun = self._ready.is_set()
        for kind, said in news.items():
            match kind:
                case "ready":
                    self._ready.set()
                case "uploaded":
                    self._uploaded(said, news)
                case "refused" if not begun:
                    self._verdict = BadInput(said)
                case "unreachable" if not begun:
                    self._verdict = RunFailed(said)
                case "failed":
                    rest = f"the run is done and its checkpoints are in {self._out}; start it again to copy the rest"
                    self._verdict = UploadFailed(f"{said}; {rest}")
                case "note" | "refused" | "unreachable":
                    self._said = said
                    self._progress.note(said)

    def _uploaded(self, name: str, news: dict[str, Any]) -> None:
        self._crashes = 0
        size, sent, seconds = news["bytes"], news["sent"], news["seconds"]
        self._record["snapshots"][name] = size
        replace(self._out / FILE, json.dumps(self._record, indent=1).encode())
        how = f"{sent / 1e6:.1f} MB in {seconds:.1f} s" if sent else "was there"
        self._progress.note(f"{self._url}/checkpoints/{name}: {size / 1e6:.1f} MB, checked ({how})")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadInput(f"{file}: {error}; remove it") from None
    if not isinstance(found, dict):
        raise BadInput(f"{file}: not a record of uploads; remove it")
    return found
