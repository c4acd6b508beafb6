"""What a run directory says about its run, read without opening or locking it: a run under way can be read too."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from astra_api.errors import BadInput
from astra_api.records import Trajectory
from astra_api.training_run import TrainingRun
from astra_api.yaml_documents import documents
from astra_trainer.object_store.uploading import FILE as UPLOADS
from astra_trainer.overlap import FILE as OVERLAP
from astra_trainer.overlap import Overlap
from astra_trainer.run_directory import ENVIRONMENTS, Stage

STAGES: tuple[Stage, ...] = ("base", "sft", "rl")
_NAME_AT = len('{"environment":')  # a trajectory's first field is its environment's name

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a stage was trained on: trajectories in all, and the names of their environments."""

    trajectories: int
    environments: frozenset[str]


@dataclass(frozen=True)
class RunRecord:
    """A run as its directory tells it. `lines` are those of metrics.jsonl, in order."""

    directory: Path
    run: TrainingRun
    lines: Sequence[Line]

    def steps(self, stage: Stage) -> list[Line]:
        """The training steps of a stage, in order."""
        return [line for line in self.lines if line.get("kind") == "train" and line.get("stage") == stage]

    @cached_property
    def evaluations(self) -> dict[Stage, Line]:
        """The last held-out evaluation of each stage that has one, in the order of the stages."""
        found = {line["stage"]: line for line in self.lines if line.get("kind") == "evaluation"}
        return {stage: found[stage] for stage in STAGES if stage in found}

    @property
    def seconds(self) -> float:
        """Spent in steps and evaluations."""
        return math.fsum(second for second in series(self.lines, "seconds") if math.isfinite(second))

    @property
    def uploads(self) -> str | None:
        """How many snapshots are in object storage, and where; None if none were to go there."""
        file = self.directory / UPLOADS
        if self.run.spec.checkpoint.object_store is None or not file.exists():
            return None
        found = json.loads(file.read_bytes())
        here = len(list((self.directory / "checkpoints").glob("[!.]*")))
        return f"{len(found['snapshots'])} of {here} checkpoints in {found['url']}"

    @property
    def overlap(self) -> str | None:
        """How much of what is held out training holds; None where a run has not said so. Raises BadInput."""
        file = self.directory / OVERLAP
        if not file.exists():
            return None
        try:
            return Overlap.model_validate_json(file.read_bytes()).sentence()
        except ValidationError as error:
            raise BadInput(f"{file}: {_first(error)}; delete it, and the same command makes it again") from None

    def held_out(self, stage: Stage) -> list[Trajectory]:
        """The rollouts of a stage's last evaluation; none if it has none. Raises BadInput for a damaged file."""
        line = self.evaluations.get(stage)
        file = self.directory / "trajectories" / f"{stage}-{line['step']:06}-holdout.jsonl" if line else None
        return [] if file is None or not file.exists() else list(_trajectories(file))

    def trained(self, stage: Stage) -> Trained:
        """What a stage was trained on. Reads names only: the files of a long run are large."""
        split = "demonstrations" if stage == "sft" else "train"
        count, names = 0, set()
        for file in sorted((self.directory / "trajectories").glob(f"{stage}-*-{split}.jsonl")):
            with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8") as lines:  # undone by a resume
                for number, line in enumerate(lines, start=1):
                    count += 1
                    names.add(_environment(line, file, number))
        return Trained(count, frozenset(names))


def read_run(directory: Path) -> RunRecord:
    """Raises BadInput when `directory` is not the directory of a run, or a file of it is damaged."""
    run = _run(directory / "run.yaml")
    if ENVIRONMENTS not in run.metadata.annotations:
        raise BadInput(f"{directory}: not the directory of a run: its run.yaml is a manifest, and no record of a run")
    return RunRecord(directory, run, list(_lines(directory / "metrics.jsonl")))


def series(lines: Sequence[Line], name: str) -> list[float]:
    """A figure of each line; NaN where it is null, absent or no number."""
    values = (line.get(name) for line in lines)
    return [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else math.nan for v in values]


def _run(file: Path) -> TrainingRun:
    try:
        return TrainingRun.model_validate(next(iter(documents(file.read_text(encoding="utf-8")))).value)
    except FileNotFoundError:
        raise BadInput(
            f"{file.parent}: not the directory of a run (it has no run.yaml); give --out of astra train"
        ) from None
    except StopIteration:
        raise BadInput(f"{file}: empty; it should hold the run as resolved") from None
    except ValidationError as error:
        raise BadInput(f"{file}: {_first(error)}; not a TrainingRun of this version") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: {error}") from None


def _lines(file: Path) -> Iterator[Line]:
    """The whole lines; the last may be half written when the run is under way or was killed."""
    if not file.exists():
        return
    with file.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.endswith("\n"):
                return
            try:
                line = json.loads(text)
            except ValueError as error:
                raise BadInput(f"{file}: line {number}: {error}; remove the line") from None
            if not isinstance(line, dict) or not isinstance(line.get("step"), int) or line.get("stage") not in STAGES:
                raise BadInput(f"{file}: line {number}: not a line of a stage and a step; remove the line")
            yield line


def _trajectories(file: Path) -> Iterator[Trajectory]:
    """Without their tokens: the report shows none."""
    untold: dict[str, list[int]] = {"tokens": [], "mask": [], "logprobs": []}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield Trajectory.model_validate_json(json.dumps({**json.loads(line), **untold}))
            except ValidationError as error:
                raise BadInput(f"{file}: line {number}: {_first(error)}; not a trajectory of this version") from None
            except (ValueError, TypeError) as error:
                raise BadInput(f"{file}: line {number}: {error}; remove the line") from None


def _first(error: ValidationError) -> str:
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc']))}: {details['msg']}"


def _environment(line: str, file: Path, number: int) -> str:
    try:
        name, _ = json.JSONDecoder().raw_decode(line, _NAME_AT)
    except ValueError as error:
        raise BadInput(f"{file}: line {number}: not a trajectory: {error}; remove the line") from None
    return str(name)
