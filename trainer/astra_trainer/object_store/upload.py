"""The process that copies a run's snapshots: `python -m astra_trainer.object_store.upload URL RUN OUT PATIENCE PARENT`.

    URL/run.json                            whose folder this is
    URL/checkpoints/<stage>-<step>/...      the files of a snapshot
    URL/checkpoints/<stage>-<step>/snapshot.json
                                            their sizes and digests, written last: a snapshot is there if it says
                                            `whole: true`. Nothing is ever deleted

Snapshots go one at a time, in the order of training, each as soon as it is in the run directory. Each object is read
back and its digest compared before it counts. What is there from an earlier process is not sent again: a whole
snapshot is known by its snapshot.json, an object of an unfinished one by its digest.

What it has to say are lines of JSON on its standard output. When its standard input ends, it goes on until all
snapshots are there, or until nothing worked for PATIENCE seconds; when the process that started it is gone, it ends.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from astra_api.errors import BadInput
from astra_trainer.object_store.store import URL, Content, Moved, Store, connect, is_unreachable, reason

MANIFEST = "snapshot.json"
OWNER = "run.json"
_STAGES = ("base", "sft", "rl")
_POLL_SECONDS = 1.0
_LONGEST_PAUSE = 60.0
_FIRST_TRIES = 5
_NEWS_SECONDS = 10.0
_NICENESS = 10  # a tenth of a core where training takes all

Tell = Callable[[Mapping[str, Any]], None]
Stamps = dict[str, tuple[int, int]]  # size and time of change of each file


class SnapshotChanged(OSError):
    """A file of a snapshot changed while it was copied."""


class WrongDigest(OSError):
    """An object does not hold what was sent."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in the run directory."""

    folder: Path

    @property
    def name(self) -> str:
        return f"checkpoints/{self.folder.name}"

    def stamps(self) -> Stamps:
        """The files by their path in the folder. They change when the snapshot is made again."""
        found = {}
        for file in sorted(file for file in self.folder.rglob("*") if file.is_file()):
            status = file.stat()
            found[str(file.relative_to(self.folder))] = (status.st_size, status.st_mtime_ns)
        return found


def snapshots(out: Path) -> list[Snapshot]:
    """The whole snapshots of a run directory, in the order of training."""
    ordered = []
    for folder in (out / "checkpoints").glob("[!.]*-*"):
        stage, _, step = folder.name.rpartition("-")
        if stage in _STAGES and step.isdecimal():
            ordered.append((_STAGES.index(stage), int(step), folder))
    return [Snapshot(folder) for *_, folder in sorted(ordered)]


def take(store: Store, run: str) -> None:
    """Makes the folder the run's, and finds out whether objects can be written and read there.

    Raises BadInput when it is another run's, OSError.
    """
    found = store.read(OWNER)
    if found is not None and _json(found).get("run") != run:
        raise BadInput("it holds the snapshots of another run of that name; give another folder, or remove them")
    owner = json.dumps({"run": run}).encode()
    store.write(OWNER, owner)
    if store.read(OWNER) != owner:
        raise WrongDigest(f"{OWNER} does not hold what was written")


class Copier:
    """Brings snapshots to a store; remembers what it has brought."""

    def __init__(self, store: Store, moved: Moved, skipped: Moved):
        self._store, self._moved, self._skipped = store, moved, skipped
        self._brought: dict[str, tuple[tuple[int, int], Content]] = {}
        self.brought = 0  # files that came to stand in the store

    def copy(self, snapshot: Snapshot) -> Stamps:
        """Brings a snapshot as far as it is not there; it is whole there when this returns.

        Raises SnapshotChanged, WrongDigest and OSError; another call goes on from there.
        """
        stamps = snapshot.stamps()
        manifest = f"{snapshot.name}/{MANIFEST}"
        found = self._store.read(manifest)
        if found is not None and self._is_whole(snapshot, stamps, found):
            self._skipped(2 * sum(size for size, _ in stamps.values()))
            return stamps
        if found is not None:
            self._store.write(manifest, _manifest(snapshot, None))
        contents = {name: self._bring(snapshot, name, stamp) for name, stamp in stamps.items()}
        if snapshot.stamps() != stamps:
            raise SnapshotChanged(f"{snapshot.name} was made again meanwhile")
        files = {name: {**asdict(content), "modified": stamps[name][1]} for name, content in contents.items()}
        self._store.write(manifest, _manifest(snapshot, files))
        return stamps

    def _is_whole(self, snapshot: Snapshot, stamps: Stamps, manifest: bytes) -> bool:
        """Whether the store has all files at their sizes, and recorded them as they are here now."""
        found = _json(manifest)
        recorded = found.get("files", {}) if found.get("whole") is True else {}
        known = {name: (entry.get("size"), entry.get("modified")) for name, entry in recorded.items()}
        sizes = ((f"{snapshot.name}/{name}", size) for name, (size, _) in stamps.items())
        return known == stamps and all(self._store.size(target) == size for target, size in sizes)

    def _bring(self, snapshot: Snapshot, name: str, stamp: tuple[int, int]) -> Content:
        target, (size, _) = f"{snapshot.name}/{name}", stamp
        earlier = self._brought.get(target)
        there = self._store.size(target) == size
        if there and earlier is not None and earlier[0] == stamp:
            self._skipped(2 * size)
            return earlier[1]
        content = self._compared(target, snapshot.folder / name) if there else None
        if content is None:
            content = self._store.put(target, snapshot.folder / name, self._moved)
            if self._store.content(target, self._moved) != content:
                raise WrongDigest(f"{target}: read back, it is not what was sent")
        self._brought[target] = (stamp, content)
        self.brought += 1
        return content

    def _compared(self, target: str, file: Path) -> Content | None:
        """What an object and a file both hold; None when they differ."""
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        content = Content(file.stat().st_size, digest)
        if self._store.content(target, lambda _: None) != content:
            return None
        self._skipped(2 * content.size)
        return content


def _manifest(snapshot: Snapshot, files: Mapping[str, Any] | None) -> bytes:
    """What snapshot.json says of a whole snapshot with these files, or of one that is not whole."""
    said = {"snapshot": snapshot.folder.name, "whole": files is not None, "files": files or {}}
    return json.dumps(said, indent=1).encode()


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Upload:
    """The copying of one run, from its start to its end."""

    def __init__(self, url: str, out: Path, patience: float, finishing: threading.Event, tell: Tell):
        self._url, self._out, self._patience = url, out, patience
        self._finishing, self._tell = finishing, tell
        self._done: dict[str, Stamps] = {}
        self._moved = self._expected = 0  # bytes: all are sent, then read back
        self._finishing_since: tuple[float, int] | None = None
        self._told = 0.0

    def run(self, run: str) -> int:
        """Exit codes: 0 all is there, 1 it cannot be brought there, 2 the store refuses from the start."""
        try:
            store = self._begin(run)
        except BadInput as error:
            self._tell({"refused": str(error)})
            return 2
        except (OSError, ValueError) as error:
            if is_unreachable(error):
                self._tell({"unreachable": f"{self._url} cannot be reached: {reason(error)}"})
                return 1
            fix = "mend the URL, or the credentials in the environment (checkpoint.objectStore.secret in a cluster)"
            self._tell({"refused": f"{URL}: {self._url}: {reason(error)}; {fix}"})
            return 2
        self._tell({"ready": True})
        os.nice(_NICENESS)  # training waits no more
        return self._copy_all(store)

    def _begin(self, run: str) -> Store:
        store = connect(self._url)
        for attempt in range(_FIRST_TRIES):
            try:
                take(store, run)
                break
            except BadInput as error:
                raise BadInput(f"{URL}: {self._url}: {error}") from None
            except OSError as error:
                if attempt == _FIRST_TRIES - 1 or not is_unreachable(error):
                    raise
                self._tell({"note": f"{self._url} cannot be reached ({reason(error)}); trying again"})
                time.sleep(2**attempt)
        return store

    def _copy_all(self, store: Store) -> int:
        copier, failures = Copier(store, self._count, self._skip), _Failures(self._patience)
        while True:
            finishing, name = self._finishing.is_set(), "checkpoints"
            try:
                waiting = [snapshot for snapshot in snapshots(self._out) if self._lacks(snapshot)]
                if not waiting and finishing:
                    return 0
                if not waiting:
                    self._finishing.wait(_POLL_SECONDS)
                    continue
                name = waiting[0].name
                self._expected = self._moved + sum(2 * _size(snapshot) for snapshot in waiting)
                self._copy(copier, waiting[0])
            except OSError as error:
                pause = failures.pause(copier.brought, finishing)
                if pause is None:
                    self._tell({"failed": f"{self._url}: {name} could not be copied: {reason(error)}"})
                    return 1
                self._tell({"note": f"{self._url}: {name}: {reason(error)}; trying again in {pause:.0f} s"})
                time.sleep(pause) if finishing else self._finishing.wait(pause)

    def _lacks(self, snapshot: Snapshot) -> bool:
        return self._done.get(snapshot.name) != snapshot.stamps()

    def _copy(self, copier: Copier, snapshot: Snapshot) -> None:
        began, before = time.monotonic(), self._moved
        self._done[snapshot.name] = copier.copy(snapshot)
        sent, seconds = (self._moved - before) // 2, time.monotonic() - began
        size = sum(size for size, _ in self._done[snapshot.name].values())
        self._tell({"uploaded": snapshot.folder.name, "bytes": size, "sent": sent, "seconds": round(seconds, 3)})

    def _count(self, moved: int) -> None:
        self._moved += moved
        now = time.monotonic()
        if not self._finishing.is_set() or now - self._told < _NEWS_SECONDS:
            return
        if self._finishing_since is None:
            self._finishing_since = (now, self._moved)
        self._told = now
        self._tell({"note": f"{self._url}: {_how_far(self._moved, self._expected, now, self._finishing_since)}"})

    def _skip(self, skipped: int) -> None:
        self._expected -= skipped


class _Failures:
    """How long to wait after a failure, and when to give up: only at the end, when nothing works for long."""

    def __init__(self, patience: float):
        self._patience = patience
        self._brought = 0
        self._since: float | None = None
        self._finishing_since: float | None = None
        self._pause = 0.5

    def pause(self, brought: int, finishing: bool) -> float | None:
        """Seconds until the next try; None when it is time to give up. `brought`: files that came to the store."""
        now = time.monotonic()
        if finishing and self._finishing_since is None:
            self._finishing_since, self._pause = now, 0.5
        if self._since is None or brought > self._brought:
            self._since, self._brought, self._pause = now, brought, 0.5
        if self._finishing_since is not None and now - max(self._since, self._finishing_since) >= self._patience:
            return None
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return self._pause


def _size(snapshot: Snapshot) -> int:
    return sum(size for size, _ in snapshot.stamps().values())


def _how_far(moved: int, expected: int, now: float, since: tuple[float, int]) -> str:
    """Progress in words: all bytes are sent, then read back."""
    seconds, done = now - since[0], moved - since[1]
    left = max(0, expected - moved)
    text = f"{left / 2e9:.2f} GB of snapshots are still to be sent and read back"
    if seconds <= 0 or done <= 0:
        return text
    rate = done / seconds
    return f"{text}, {rate / 1e6:.1f} MB/s, about {left / rate:.0f} s left"


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone: another may take its place."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _until_closed(finishing: threading.Event) -> None:
    sys.stdin.buffer.read()
    finishing.set()


def main(arguments: list[str]) -> int:
    """The process; PARENT is the process id of the one that started it."""
    url, run, out, patience, parent = arguments
    finishing = threading.Event()
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    threading.Thread(target=_until_closed, args=(finishing,), daemon=True).start()
    return Upload(url, Path(out), float(patience), finishing, _tell).run(run)


def _tell(news: Mapping[str, Any]) -> None:
    print(json.dumps(news), flush=True)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the threads of the store's client need not end first
