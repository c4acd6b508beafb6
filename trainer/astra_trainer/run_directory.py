"""The directory of a run: what it has written, where it stands, and how it goes on after any interruption.

    run.yaml                                    the TrainingRun as resolved
    README.md                                   what the lines below hold, for `datasets.load_dataset`
    metrics.jsonl                               one line per kind, stage and step
    trajectories/<stage>-<step>-<split>.jsonl   what was demonstrated and rolled out
    checkpoints/<stage>-<step>/                 weights and tokenizer: a Hugging Face model folder
    state/<number>/                             what the next unit of work depends on

A unit of work (a training step, an evaluation) is committed when its state is renamed into place, and not before. What
an uncommitted unit wrote is undone when the directory is opened: `metrics.jsonl` is cut back to the length that the
newest state names, and later trajectories are deleted. So a process that is killed loses the unit it was in, and
nothing is ever written twice. Deleting the newest states by hand goes back to the one before them.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from astra_api.differences import differences
from astra_api.errors import BadInput
from astra_api.files import share
from astra_api.records import Record, Trajectory
from astra_api.training_run import FREE, TrainingRun
from astra_api.yaml_documents import documents
from astra_api.yaml_writing import yaml_text
from astra_trainer.batch_filling import BatchFilling
from astra_trainer.compute import at_rest
from astra_trainer.overlap import FILE as OVERLAP
from astra_trainer.overlap import Overlap
from astra_trainer.trajectory_lines import dataset_card, dump_lines, read_lines

Stage = Literal["base", "sft", "rl"]
_STAGES = ("base", "sft", "rl")
CONTAINMENT = "astra.farm/containment"  # annotation: how the sandboxes of the run are contained
ENVIRONMENTS = "astra.farm/environments"  # annotation: the digest of what the run trains and is evaluated on
_PATIENCE = 5.0  # seconds that a commit under way has when a run is given up
_HELD: list[TextIO] = []  # locks that go with the process
_GUESTS = (".lock", "environments")  # may stand in a directory before its run begins: `astra demo` puts them there


class Position(Record):
    """How far a run has come: `step` of `stage` is done, and so is the evaluation after it if `evaluated`."""

    stage: Stage
    step: int
    evaluated: bool = False
    cursor: int = 0  # how many environments RL has drawn so far
    filling: BatchFilling | None = None  # what RL carries over to its next step


class _Committed(Record):
    position: Position
    metrics_bytes: int


class RunDirectory:
    """An open, locked run directory. Made by `open_run`."""

    def __init__(self, path: Path, keep_states: int):
        self.path = path
        self._keep_states = keep_states
        self._metrics = path / "metrics.jsonl"
        for folder in ("trajectories", "checkpoints", "state"):
            (path / folder).mkdir(exist_ok=True)
        self._undo()

    @property
    def position(self) -> Position | None:
        """Where the run stands; None before its first commit."""
        newest = self._newest()
        return self._committed(newest).position if newest else None

    @property
    def engine_state(self) -> Path | None:
        """The engine's part of the newest state, if it has one."""
        newest = self._newest()
        file = newest / "engine.pt" if newest else None
        return file if file and file.exists() else None

    def completed(self, stage: Stage) -> bool:
        """Whether a stage is trained and evaluated."""
        position = self.position
        if position is None:
            return False
        return _STAGES.index(position.stage) > _STAGES.index(stage) or (position.stage == stage and position.evaluated)

    def last_checkpoint(self, stage: Stage) -> Path:
        """The snapshot that ended a stage. Raises BadInput when it was removed."""
        found = {int(folder.name.split("-")[1]): folder for folder in (self.path / "checkpoints").glob(f"{stage}-*")}
        if not found:
            raise BadInput(f"{self.path}/checkpoints: the last {stage} checkpoint is gone; begin in a new directory")
        return found[max(found)]

    def checkpoint(self, stage: Stage, step: int) -> Path:
        """Where the snapshot of a step stands, or would stand."""
        return self.path / "checkpoints" / f"{stage}-{step}"

    def save_snapshot(self, stage: Stage, step: int, write: Callable[[Path], None]) -> None:
        """Puts what `write` makes of an empty folder in place of the step's snapshot, whole."""
        target = self.checkpoint(stage, step)
        building = _emptied(target.with_name(f".{target.name}"))
        write(building)
        share(building)
        _sync_folder(building)
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)

    def adopt_snapshot(self, stage: Stage, step: int, folder: Path) -> None:
        """Moves a whole snapshot that another process made into its place."""
        target = self.checkpoint(stage, step)
        share(folder)
        _sync_folder(folder)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)

    def save_trajectories(self, stage: Stage, step: int, split: str, trajectories: Iterable[Trajectory]) -> None:
        """Writes the trajectories of a step, one line each, in place of what may be there."""
        _write(self._trajectories(stage, step, split), dump_lines(trajectories))
        if not (card := self.path / "README.md").exists():
            _write(card, dataset_card())

    def load_trajectories(self, stage: Stage, step: int, split: str) -> list[Trajectory] | None:
        """What `save_trajectories` wrote; None if it did not."""
        file = self._trajectories(stage, step, split)
        return read_lines(file) if file.exists() else None

    def save_overlap(self, found: Overlap) -> None:
        """Writes how much of what is held out stands in what is trained on."""
        _write(self.path / OVERLAP, found.model_dump_json(indent=1).encode())

    def evaluation_before(self, stage: Stage) -> list[Trajectory] | None:
        """The held-out trajectories of the last stage before `stage` that was evaluated; None for the first."""
        for earlier in reversed(_STAGES[: _STAGES.index(stage)]):
            files = sorted((self.path / "trajectories").glob(f"{earlier}-*-holdout.jsonl"))
            if files:
                return read_lines(files[-1])
        return None

    def commit(
        self, position: Position, line: Mapping[str, Any], save_engine: Callable[[Path], None] | None = None
    ) -> None:
        """Appends a line to the metrics and makes `position` what a resume begins with.

        `save_engine` writes the engine's state to a file; without it the engine's state is that of the commit before.
        """
        length = self.record(line)
        before, engine = self._newest(), self.engine_state
        number = int(before.name) + 1 if before else 1
        building = _emptied(self.path / "state" / ".building")
        if save_engine is not None:
            save_engine(building / "engine.pt")
        elif engine is not None:
            os.link(engine, building / "engine.pt")
        committed = _Committed(position=position, metrics_bytes=length)
        (building / "position.json").write_text(committed.model_dump_json(), encoding="utf-8")
        share(building)
        _sync_folder(building)
        building.rename(self.path / "state" / f"{number:06}")
        _sync(self.path / "state")
        for old in self._states()[: -self._keep_states]:
            shutil.rmtree(old)

    def record(self, line: Mapping[str, Any]) -> int:
        """Appends a line to the metrics, for the next commit to keep; returns their length in bytes."""
        with self._metrics.open("ab") as metrics:
            metrics.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            metrics.flush()
            os.fsync(metrics.fileno())
            return metrics.tell()

    def _undo(self) -> None:
        """Takes back what was written after the newest commit."""
        newest = self._newest()
        committed = self._committed(newest) if newest else None
        if self._metrics.exists():
            os.truncate(self._metrics, committed.metrics_bytes if committed else 0)
        done = _order(committed.position) if committed else (-1, 0, False)
        for file in (self.path / "trajectories").glob("*.jsonl"):
            stage, step, split = file.stem.split("-")
            # demonstrations are written whole before the first step of SFT, and are the same at every attempt
            if split != "demonstrations" and (_STAGES.index(stage), int(step), split == "holdout") > done:
                file.unlink()
        _sweep(self.path)

    def _trajectories(self, stage: Stage, step: int, split: str) -> Path:
        return self.path / "trajectories" / f"{stage}-{step:06}-{split}.jsonl"

    def _states(self) -> list[Path]:
        return sorted((self.path / "state").glob("[0-9]*"))

    def _newest(self) -> Path | None:
        return states[-1] if (states := self._states()) else None

    def _committed(self, state: Path) -> _Committed:
        try:
            return _Committed.model_validate_json((state / "position.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"{state}: not a state of this version: {error}; delete it to go back a step") from None


@contextlib.contextmanager
def open_run(path: Path, run: TrainingRun, environments: str) -> Iterator[RunDirectory]:
    """Opens the directory of a run, new or begun, for this process alone.

    `environments` is a digest of the environments. Raises BadInput when another process has it, when it belongs to
    another run, or when `run` or the environments changed in a way that the steps so far do not fit.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BadInput(f"{path}: another process is training in this directory") from None
    with contextlib.ExitStack() as stack:
        stack.callback(_leave, lock, path)
        _write(path / "run.yaml", yaml_text(claim(path, run, environments)).encode())
        yield RunDirectory(path, run.spec.checkpoint.keep_states)


def _leave(lock: TextIO, path: Path) -> None:
    """Ends what was begun and frees the directory; while a step that was given up is still under way in its thread, it
    may yet write, and the directory stays this process's until that has ended."""
    resting = at_rest(_PATIENCE)
    if not resting:
        _HELD.append(lock)
    with contextlib.suppress(OSError):
        _sweep(path, only_empty=not resting)
    if resting:
        lock.close()


def _sweep(path: Path, *, only_empty: bool = False) -> None:
    """Removes what is half written in a run's directory, or of that only the folders that hold nothing yet."""
    for folder in ("trajectories", "checkpoints", "state"):
        for unfinished in (path / folder).glob(".*"):
            if not only_empty:
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
            elif unfinished.is_dir() and not any(unfinished.iterdir()):
                unfinished.rmdir()


def claim(path: Path, run: TrainingRun, environments: str) -> dict[str, Any]:
    """The run as its directory would record it. Raises BadInput where the directory is another run's, or none."""
    file = path / "run.yaml"
    resolved = run.model_copy(update={"status": None}).model_dump(mode="json", by_alias=True, exclude_none=True)
    resolved["metadata"].setdefault("annotations", {})[ENVIRONMENTS] = environments
    if file.exists():
        begun = next(iter(documents(file.read_text(encoding="utf-8")))).value
        was = (begun["metadata"].get("annotations") or {}).get(ENVIRONMENTS)
        if was is None:
            raise BadInput(f"{path}: its run.yaml is a manifest, and no record of a run; give another output directory")
        if was != environments:
            raise BadInput(f"{path}: was begun with other environments; give those, or begin in a new directory")
        for field, old, new in differences(_bound(begun["spec"]), _bound(resolved["spec"]), "spec"):
            before, now = json.dumps(old), json.dumps(new)
            raise BadInput(
                f"{field}: {path} was begun with {before}, not {now}; restore it, or begin in a new directory"
            )
    elif path.exists() and any(child.name not in _GUESTS for child in path.iterdir()):
        raise BadInput(f"{path}: not empty and not the directory of a run; give another output directory")
    return resolved


def _bound(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in FREE}


def _order(position: Position) -> tuple[int, int, bool]:
    return _STAGES.index(position.stage), position.step, position.evaluated


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write(file: Path, content: bytes) -> None:
    """Replaces a file, whole or not at all."""
    building = file.with_name(f".{file.name}")
    building.write_bytes(content)
    _sync(building)
    building.rename(file)


def _sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
