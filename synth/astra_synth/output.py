"""The output directory of a run, whatever makes its environments: what is complete stays, what is not is made again.

run.json                     which run and which source it belongs to
environments/NNNN.yaml       the verified Environments of batch NNNN
done/NNNN.json               written after it: batch NNNN is complete; holds its rejects and its record
rejects.jsonl                every astra_api.records.Reject, in order
unasked.txt                  of a run over tables: what no environment asks about, and why, a line each
status.json                  the run's status, as SynthesisRun.status
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astra_api.canonical import digest
from astra_api.differences import differences
from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.files import replace
from astra_api.manifests import load_manifests
from astra_api.records import Reject
from astra_api.synthesis_run import SynthesisRun, SynthesisRunStatus
from astra_api.yaml_writing import manifest_text

_OPERATIONAL = ("baseUrl", "apiKeySecret", "concurrency", "timeoutSeconds", "retries", "budget", "price")
_UNASKED = "unasked.txt"


def read_unasked(path: Path) -> list[str]:
    """What the environments of an output directory never ask about, a line each; empty before the run has ended."""
    file = path / _UNASKED
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@dataclass(frozen=True)
class Batch:
    """What became of one toolset, or of one item: environments, rejects, and what else is worth keeping of it."""

    number: int
    environments: tuple[Environment, ...]
    rejects: tuple[Reject, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A complete batch, as its marker tells it."""

    number: int
    produced: int
    rejects: list[Reject]
    record: dict[str, Any]


class Output:
    """An output directory that belongs to one run."""

    def __init__(self, path: Path, run: SynthesisRun, source: Mapping[str, Any]) -> None:
        """Takes the directory for the run, or finds that it is the run's already. Raises BadInput."""
        self.path = path
        mine = {"name": run.metadata.name, "spec": _identity(run), **source}
        file = path / "run.json"
        try:
            (path / "environments").mkdir(parents=True, exist_ok=True)
            (path / "done").mkdir(exist_ok=True)
            if not file.exists():
                _replace(file, json.dumps(mine, ensure_ascii=False, indent=2) + "\n")
                return
            theirs = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"--out {path}: cannot be used: {error}") from None
        if digest(theirs) != digest(mine):
            where = ", ".join(sorted(field for field, _, _ in differences(theirs, mine)))
            problem = f"holds another run, which differs in {where}"
            raise BadInput(f"--out {path}: {problem}; choose another directory or remove it")

    def completed(self) -> list[int]:
        """The numbers of the complete batches, in order."""
        return sorted(int(file.stem) for file in (self.path / "done").glob("*.json") if file.stem.isdigit())

    def write(self, batch: Batch) -> None:
        """First the environments, then the marker: a marker vouches for its file."""
        if batch.environments:
            _replace(self._environments(batch.number), manifest_text(batch.environments))
        rejects = [reject.model_dump(mode="json") for reject in batch.rejects]
        content: dict[str, Any] = {"produced": len(batch.environments), "rejects": rejects}
        if batch.record:
            content["record"] = dict(batch.record)
        _replace(self._marker(batch.number), json.dumps(content, ensure_ascii=False) + "\n")

    def read(self, number: int) -> Done:
        """A complete batch. Raises BadInput when its marker is damaged."""
        file = self._marker(number)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            rejects = [Reject.model_validate(reject) for reject in content["rejects"]]
            return Done(number, int(content["produced"]), rejects, dict(content.get("record", {})))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file}: cannot be read back: {error}; remove the file to make this batch again") from None

    def environments(self, number: int) -> list[Environment]:
        """The environments of a complete batch."""
        file = self._environments(number)
        found = [manifest.resource for manifest in load_manifests([file])] if file.exists() else []
        return [resource for resource in found if isinstance(resource, Environment)]

    def finish(self, produced: int, rejects: Iterable[Reject], complete: bool) -> SynthesisRunStatus:
        """Writes the status that the run ends with."""
        by_reason = Counter(reject.reason for reject in rejects)
        status = SynthesisRunStatus(
            phase="Succeeded" if complete else "Failed",
            produced=produced,
            rejected=by_reason.total(),
            rejected_by=dict(sorted(by_reason.items())),
        )
        _replace(self.path / "status.json", status.model_dump_json(by_alias=True, indent=2) + "\n")
        return status

    def write_rejects(self, rejects: Iterable[Reject]) -> None:
        _replace(self.path / "rejects.jsonl", "".join(reject.model_dump_json() + "\n" for reject in rejects))

    def write_unasked(self, lines: Iterable[str]) -> None:
        _replace(self.path / _UNASKED, "".join(f"{line}\n" for line in lines))

    def _marker(self, number: int) -> Path:
        return self.path / "done" / f"{number:04d}.json"

    def _environments(self, number: int) -> Path:
        return self.path / "environments" / f"{number:04d}.yaml"


def _replace(file: Path, text: str) -> None:
    replace(file, text.encode())


def _identity(run: SynthesisRun) -> dict[str, Any]:
    """What decides the output: not where it is kept, where a teacher is reached, how fast, or for how much."""
    spec = run.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"volume"})
    for role in ("teacher", "judge"):
        if role in spec:
            spec[role] = {name: value for name, value in spec[role].items() if name not in _OPERATIONAL}
    return spec
