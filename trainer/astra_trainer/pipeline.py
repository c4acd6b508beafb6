"""A TrainingRun on this machine, in its order: base evaluation -> SFT -> evaluation -> RL -> evaluation.

Each step and each evaluation is one unit of work, committed before the next begins; a run goes on where it stood.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.training_run import FilesDataset, Rl, Sft, TrainingRun
from astra_sandbox.interface import Isolation, Sandbox, SandboxStatus, SandboxUnavailable
from astra_trainer.chat import ChatFormat, ChatTemplateError
from astra_trainer.compute import compute
from astra_trainer.evaluation import Evaluation, evaluate
from astra_trainer.mixing import ToolMixer
from astra_trainer.object_store.uploading import uploading
from astra_trainer.outcomes import paired
from astra_trainer.overlap import overlap
from astra_trainer.progress import Progress, Silence
from astra_trainer.reinforcement import reinforce
from astra_trainer.run_directory import CONTAINMENT, Position, RunDirectory, Stage, open_run
from astra_trainer.split import EnvironmentSplit, split_environments
from astra_trainer.supervision import demonstrations, supervise
from astra_trainer.workplace import Value, Workplace, mixing_settings

if TYPE_CHECKING:
    from astra_trainer.batched_generation import BatchedGenerator


async def train(
    run: TrainingRun,
    environments: Sequence[Environment],
    out: Path,
    *,
    sandbox: Sandbox,
    progress: Progress | None = None,
) -> Path:
    """Runs or resumes a TrainingRun in `out`; returns the folder of its last checkpoint.

    Raises BadInput for what the user can mend, SandboxError when the sandboxes fail for good, and UploadFailed when all
    is done but not all snapshots are in object storage. Cancelling it is safe at any moment: the unit of work that was
    under way is done again by the next call.
    """
    stages, split = _stages(run.spec.engine), split_of(run, environments)
    run = _contained(run, await sandbox.status())
    heard = progress or Silence()
    with open_run(out, run, digest_of(environments)) as directory:
        found = overlap(split)
        directory.save_overlap(found)
        heard.note(found.sentence())
        async with uploading(run, out, heard):
            work, start = await _prepare(run, split, directory, sandbox, heard)
            return await _finish(work, start, stages)


def split_of(run: TrainingRun, environments: Sequence[Environment]) -> EnvironmentSplit:
    """What the run trains on and what it holds out. Raises BadInput for a run that cannot begin."""
    spec = run.spec
    if spec.suspend:
        raise BadInput("spec.suspend: the run is suspended; set it to false to train")
    _stages(spec.engine)
    if unbuilt := [name for name in spec.evaluation.benchmarks if name != "holdout"]:
        raise BadInput(f"spec.evaluation.benchmarks: {', '.join(unbuilt)} cannot be run yet; give [holdout]")
    try:
        return split_environments(environments, spec.environments.selector, spec.environments.holdout, spec.seed)
    except ValueError as error:
        raise BadInput(f"spec.{error}") from None


@dataclass(frozen=True)
class _Stages:
    """How an engine trains a stage (returning the number of its last step), and how it evaluates a checkpoint."""

    supervise: Callable[[Workplace, Path, Sft], Awaitable[int]]
    reinforce: Callable[[Workplace, Path, Rl], Awaitable[int]]
    evaluate: Callable[[Workplace, Stage, int, Path], Awaitable[Evaluation]]


def _stages(engine: str) -> _Stages:
    if engine == "embedded":
        return _Stages(supervise, reinforce, _evaluate_here)
    for package in ("ray", "vllm"):
        if find_spec(package) is None:
            raise BadInput(
                f"spec.engine: verl needs the package {package}, which is not installed; run `make init-verl` "
                "(or pip install astra-farm[verl]), or use engine: embedded"
            )
    from astra_trainer.engines.verl import stages

    return _Stages(stages.supervise, stages.reinforce, stages.evaluate)


def _contained(run: TrainingRun, servers: Sequence[SandboxStatus]) -> TrainingRun:
    """The run with the containment in force written on it. Raises SandboxUnavailable below `minimumIsolation`."""
    weakest = min(server.isolation for server in servers)
    minimum = Isolation[run.spec.sandboxes.minimum_isolation.upper()]
    if weakest < minimum:
        raise SandboxUnavailable(
            f"spec.sandboxes.minimumIsolation: {minimum.name.lower()} is asked, {weakest.name.lower()} is in force"
        )
    annotations = {**run.metadata.annotations, CONTAINMENT: weakest.name.lower()}
    return run.model_copy(update={"metadata": run.metadata.model_copy(update={"annotations": annotations})})


async def _prepare(
    run: TrainingRun, split: EnvironmentSplit, directory: RunDirectory, sandbox: Sandbox, progress: Progress
) -> tuple[Workplace, Path]:
    """What the stages share, and the folder of the model that they start from."""
    from astra_trainer.models import load_tokenizer, prepare_model

    made = directory.checkpoint("base", 0)
    if not made.exists():
        progress.note("preparing the model")
    with progress.doing("preparing the model"):
        start = await compute(prepare_model, run.spec.model, made, split.train, run.spec.seed)
    try:
        chat = ChatFormat(load_tokenizer(start))
    except ChatTemplateError as error:
        raise BadInput(f"spec.model: {error}") from None
    work = Workplace(
        run=run,
        directory=directory,
        split=split,
        mixer=ToolMixer([*split.train, *split.holdout], mixing_settings(run), pool=split.train),
        chat=chat,
        sandbox=sandbox,
        progress=progress,
        capacity=sum(server.capacity for server in await sandbox.status()),
    )
    return work, start


async def _finish(work: Workplace, start: Path, stages: _Stages) -> Path:
    """Does what is left of the run."""
    spec, directory = work.run.spec, work.directory
    if not directory.completed("base"):
        if spec.sft is not None and isinstance(spec.sft.dataset, FilesDataset):
            await demonstrations(work, spec.sft)  # what is wrong with them is told before anything is evaluated
        await _evaluate(work, stages, "base", 0, start)
    if spec.sft is not None:
        if not directory.completed("sft"):
            last = await stages.supervise(work, start, spec.sft)
            await _evaluate(work, stages, "sft", last, directory.checkpoint("sft", last))
        start = directory.last_checkpoint("sft")
    if spec.rl is not None:
        if not directory.completed("rl"):
            last = await stages.reinforce(work, start, spec.rl)
            await _evaluate(work, stages, "rl", last, directory.checkpoint("rl", last))
        start = directory.last_checkpoint("rl")
    return start


async def _evaluate(work: Workplace, stages: _Stages, stage: Stage, step: int, folder: Path) -> None:
    """Rolls out the held-out environments with the checkpoint in `folder`, and commits the line."""
    began = time.monotonic()
    work.progress.note(f"{stage}: evaluating on {len(work.split.holdout)} held-out environments")
    found = await stages.evaluate(work, stage, step, folder)
    work.directory.save_trajectories(stage, step, "holdout", found.trajectories)
    line: dict[str, Value] = {
        "kind": "evaluation",
        "stage": stage,
        "step": step,
        **_outcomes(work.directory, stage, found),
        "holdout_f1": found.f1,
        "holdout_recall": found.recall,
        "holdout_precision": found.precision,
        "holdout_calls": found.calls,
        "domain_f1": found.domain_f1,
        "excluded": len(found.excluded),
        "seconds": time.monotonic() - began,
    }
    work.directory.commit(Position(stage=stage, step=step, evaluated=True), line)
    work.progress.line(line)


def _outcomes(directory: RunDirectory, stage: Stage, found: Evaluation) -> dict[str, Value]:
    """How often the job was done: shares with intervals, by domain and hops, and against the stage before."""
    line: dict[str, Value] = {f"holdout_{name}": share for name, share in found.shares.items()}
    line |= {f"holdout_{name}_interval": list(interval) for name, interval in found.intervals.items()}
    line |= {"domain_success": found.domain_success, "hops_success": found.hops_success}
    before = directory.evaluation_before(stage)
    if before is not None:
        gained, lost, p = paired(before, found.trajectories)
        line |= {"success_gained": gained, "success_lost": lost, "success_p": p}
    return line


async def _evaluate_here(work: Workplace, stage: Stage, step: int, folder: Path) -> Evaluation:
    spec = work.run.spec.evaluation
    with work.progress.doing(f"{stage}: evaluating", len(work.split.holdout)) as count:
        return await evaluate(
            work.split.holdout,
            stage=stage,
            step=step,
            samples=spec.samples,
            seed=work.run.spec.seed,
            mixer=work.mixer,
            sandbox=work.sandbox,
            generator=await compute(_generator, folder, work.chat),
            chat=work.chat,
            settings=work.settings(spec.temperature),
            concurrency=work.groups_at_once(spec.samples),
            on_done=count,
        )


def _generator(folder: Path, chat: ChatFormat) -> "BatchedGenerator":
    from astra_trainer.batched_generation import BatchedGenerator
    from astra_trainer.engines.embedded import DEVICE
    from astra_trainer.models import load_policy

    return BatchedGenerator(load_policy(folder, DEVICE), chat.stop_ids)


def digest_of(environments: Sequence[Environment]) -> str:
    """Of the environments and their labels, whatever their order."""
    entries = sorted(f"{e.name} {e.digest} {sorted(e.metadata.labels.items())}" for e in environments)
    return "sha256:" + hashlib.sha256("\n".join(entries).encode()).hexdigest()
