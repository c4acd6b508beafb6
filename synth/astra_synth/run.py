"""A SynthesisRun on this machine: generate, verify in a sandbox, write; and go on where an earlier attempt stopped.

An output directory holds

    run.json                     which run and which tables it belongs to
    environments/NNNN.yaml       the verified Environments of toolset NNNN
    done/NNNN.json               written after it: toolset NNNN is complete; holds its rejects
    rejects.jsonl                every astra_api.records.Reject, in order
    status.json                  the run's status, as SynthesisRun.status

What is written is a function of the run and its tables, whenever and however often it was interrupted.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from astra_api.canonical import digest
from astra_api.environment import Environment, EnvironmentStatus
from astra_api.errors import BadInput
from astra_api.records import Reject
from astra_api.synthesis_run import EnvironmentSynthesis, SynthesisRun, SynthesisRunStatus, TablesSource
from astra_api.yaml_writing import manifest_text
from astra_sandbox.interface import Sandbox, SandboxError
from astra_sandbox.verification import Verdict, verify_all
from astra_synth.tables import Generator, Recipe, ToolsetShape, open_tables
from astra_synth.tables.toolset import ALL_KINDS

_RETRIES = 3  # times that an environment a verifier rejected is replaced by the next one of its index
_AHEAD = 4  # toolsets under way at once
_SPARE = 20  # toolsets that may come to nothing, besides three for each that is needed


@dataclass(frozen=True)
class Batch:
    """What became of one toolset."""

    number: int
    environments: tuple[Environment, ...]
    rejects: tuple[Reject, ...]


Progress = Callable[[int, int], None]  # environments so far, rejects so far


def open_run(run: SynthesisRun, folder: Path) -> Generator:
    """The generator that a run asks for; paths are relative to `folder`. Raises BadInput."""
    wanted = _environments(run)
    source = wanted.source
    if not isinstance(source, TablesSource):
        raise BadInput(f"spec.environments.source.type: {source.type} is not built yet; use type: tables")
    path = folder / source.path if source.path is not None else None
    dataset = open_tables(source.pack, path)
    shape = ToolsetShape(
        source.toolset.tools.min,
        source.toolset.tools.max,
        source.toolset.rows,
        source.toolset.environments,
        tuple(source.toolset.kinds or ALL_KINDS),
    )
    hops = wanted.hops
    recipe = Recipe(run.spec.seed, hops.min, hops.max, shape, run.metadata.name, dict(wanted.labels))
    return Generator(dataset, recipe)


async def synthesize(
    run: SynthesisRun, generator: Generator, sandbox: Sandbox, out: Path, progress: Progress, *, concurrency: int = 16
) -> SynthesisRunStatus:
    """Makes, verifies and writes what is missing of a run; the status it ends with.

    Raises BadInput when `out` belongs to another run, SandboxError when the sandbox fails: what was complete stays.
    """
    _claim(out, run, generator)
    count, size = run.spec.count, generator.recipe.shape.environments
    last = 4 * -(-count // size) + _SPARE
    produced, rejects = 0, []
    pool = ThreadPoolExecutor(max_workers=1)
    gate = asyncio.Semaphore(concurrency)
    pending: dict[int, asyncio.Task[Batch]] = {}
    try:
        for number in range(last):
            for ahead in range(number, min(number + _AHEAD, last)):
                if ahead not in pending and not _marker(out, ahead).exists():
                    pending[ahead] = asyncio.create_task(_make(generator, ahead, sandbox, pool, gate))
            if number in pending:
                _write(out, _cut(await pending.pop(number), count - produced))
            done = _read(out, number)
            produced += done.produced
            rejects += done.rejects
            progress(produced, len(rejects))
            if produced >= count:
                break
    finally:
        for task in pending.values():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*pending.values(), return_exceptions=True)
        pool.shutdown(wait=True, cancel_futures=True)
        _replace(out / "rejects.jsonl", "".join(reject.model_dump_json() + "\n" for reject in rejects))
    status = SynthesisRunStatus(
        phase="Succeeded" if produced >= count else "Failed",
        produced=produced,
        rejected=len(rejects),
        rejected_by=dict(sorted(Counter(reject.reason for reject in rejects).items())),
    )
    _replace(out / "status.json", status.model_dump_json(by_alias=True, indent=2) + "\n")
    return status


async def _make(
    generator: Generator, number: int, sandbox: Sandbox, pool: ThreadPoolExecutor, gate: asyncio.Semaphore
) -> Batch:
    """The verified environments of one toolset. An environment that is rejected is replaced, a few times."""
    loop = asyncio.get_running_loop()
    size = generator.recipe.shape.environments
    kept: dict[int, Environment] = {}
    rejects: list[Reject] = []
    missing = list(range(number * size, (number + 1) * size))
    for skip in range(_RETRIES + 1):
        made = [await loop.run_in_executor(pool, generator.make, index, skip) for index in missing]
        rejects += [reject for item in made for reject in item.rejects]
        found = {item.index: item.environment for item in made if item.environment is not None}
        async with gate:
            verdicts = await verify_all(found.values(), sandbox, concurrency=size)
        for (index, environment), verdict in zip(found.items(), verdicts, strict=True):
            if verdict.phase == "Pending":
                raise SandboxError(f"{verdict.name} could not be verified: {verdict.message}")
            if verdict.verified:
                kept[index] = environment.model_copy(update={"status": _status(verdict)})
            else:
                reason = verdict.reason or "Rejected"
                rejects.append(Reject(name=verdict.name, stage="verify", reason=reason, message=verdict.message))
        missing = [index for index in found if index not in kept]
        if not missing:
            break
    return Batch(number, tuple(kept[index] for index in sorted(kept)), tuple(rejects))


def _status(verdict: Verdict) -> EnvironmentStatus:
    return EnvironmentStatus(
        phase="Verified", digest=verdict.digest, toolset=verdict.toolset, checks=dict(verdict.checks)
    )


def _environments(run: SynthesisRun) -> EnvironmentSynthesis:
    if run.spec.environments is None:
        raise BadInput("spec.environments: required; say what environments to make")
    return run.spec.environments


def _cut(batch: Batch, room: int) -> Batch:
    return Batch(batch.number, batch.environments[:room], batch.rejects)


@dataclass(frozen=True)
class _Done:
    produced: int
    rejects: list[Reject]


def _claim(out: Path, run: SynthesisRun, generator: Generator) -> None:
    """Takes a directory for a run, or finds that it is the run's already."""
    spec = run.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    mine = {"name": run.metadata.name, "spec": spec, "tables": generator.dataset.fingerprint}
    file = out / "run.json"
    try:
        (out / "environments").mkdir(parents=True, exist_ok=True)
        (out / "done").mkdir(exist_ok=True)
        if not file.exists():
            _replace(file, json.dumps(mine, ensure_ascii=False, indent=2) + "\n")
            return
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"--out {out}: cannot be used: {error}") from None
    if digest(theirs) != digest(mine):
        changed = sorted(_differences("", theirs, mine))
        where = ", ".join(changed)
        raise BadInput(
            f"--out {out}: holds another run, which differs in {where}; choose another directory or remove it"
        )


def _differences(path: str, left: object, right: object) -> set[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        keys = {*left, *right}
        return set().union(
            *(_differences(f"{path}.{key}" if path else str(key), left.get(key), right.get(key)) for key in keys)
        )
    return set() if left == right else {path}


def _marker(out: Path, number: int) -> Path:
    return out / "done" / f"{number:04d}.json"


def _write(out: Path, batch: Batch) -> None:
    """First the environments, then the marker: a marker vouches for its file."""
    if batch.environments:
        _replace(out / "environments" / f"{batch.number:04d}.yaml", manifest_text(batch.environments))
    rejects = [reject.model_dump(mode="json") for reject in batch.rejects]
    content = {"produced": len(batch.environments), "rejects": rejects}
    _replace(_marker(out, batch.number), json.dumps(content, ensure_ascii=False) + "\n")


def _read(out: Path, number: int) -> _Done:
    file = _marker(out, number)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _Done(int(content["produced"]), [Reject.model_validate(reject) for reject in content["rejects"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: cannot be read back: {error}; remove the file to make this toolset again") from None


def _replace(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    draft = file.with_suffix(f"{file.suffix}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
