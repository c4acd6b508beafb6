"""The SFT stage: demonstrations, then epochs of shuffled batches, a committed step at a time."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import Trajectory
from astra_api.training_run import FilesDataset, Sft
from astra_trainer.compute import compute
from astra_trainer.demonstrations import DemonstrationSettings, demonstrate_all
from astra_trainer.file_dataset import load_demonstrations
from astra_trainer.run_directory import Position
from astra_trainer.seeds import derive_seed
from astra_trainer.workplace import Value, Workplace

if TYPE_CHECKING:
    from astra_trainer.engines.embedded.engine import EmbeddedEngine

_WARMUP = 0.05  # share of the steps (METHOD section 3)


async def supervise(work: Workplace, start: Path, sft: Sft) -> int:
    """Trains from the model in `start` until the stage's last step; returns its number."""
    data = await demonstrations(work, sft)
    total = sft.epochs * -(-len(data) // sft.batch_size)
    position = work.directory.position
    began = position if position is not None and position.stage == "sft" else None
    done = began.step if began else 0
    work.progress.stage("sft", done, total)
    if done == total:
        return total
    from astra_trainer.engines.embedded.engine import Schedule

    engine = await work.engine(start, Schedule(sft.learning_rate, total, "cosine", _WARMUP), began)
    for step in range(done + 1, total + 1):
        await _step(work, engine, sft, data, step, last=step == total)
    return total


async def _step(
    work: Workplace, engine: "EmbeddedEngine", sft: Sft, data: Sequence[Trajectory], step: int, *, last: bool
) -> None:
    began = time.monotonic()
    batch = batch_of_step(data, sft.batch_size, work.run.spec.seed, step)
    metrics = await compute(engine.sft_step, batch)
    line: dict[str, Value] = {
        "kind": "train",
        "stage": "sft",
        "step": step,
        **metrics,
        "seconds": time.monotonic() - began,
    }
    await work.commit(engine, Position(stage="sft", step=step), line, last=last)


def batch_of_step(data: Sequence[Trajectory], size: int, seed: int, step: int) -> list[Trajectory]:
    """The trajectories of a step (from 1): a function of (data, size, seed, step). Each epoch has its own order."""
    steps = -(-len(data) // size)
    epoch, part = divmod(step - 1, steps)
    return [data[number] for number in epoch_order(len(data), seed, epoch)[part * size : (part + 1) * size]]


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """In which order an epoch (from 0) takes `count` demonstrations."""
    return random.Random(derive_seed(seed, "sft", epoch)).sample(range(count), count)


async def demonstrations(work: Workplace, sft: Sft) -> list[Trajectory]:
    """What the stage learns from: made once, then read back from the run directory."""
    kept = work.directory.load_trajectories("sft", 0, "demonstrations")
    data = await _made(work, sft) if kept is None else kept
    short = short_enough(data, sft)
    if kept is None:
        work.directory.save_trajectories("sft", 0, "demonstrations", data)
    if len(short) < len(data):
        work.progress.note(f"{len(data) - len(short)} demonstrations over maxLength {sft.max_length} are left out")
    return short


def short_enough(data: Sequence[Trajectory], sft: Sft) -> list[Trajectory]:
    """The demonstrations of at most `maxLength` tokens. Raises BadInput where there is none."""
    short = [trajectory for trajectory in data if len(trajectory.tokens) <= sft.max_length]
    if not short:
        raise BadInput(f"spec.sft.maxLength: all {len(data)} demonstrations are longer than {sft.max_length} tokens")
    return short


async def _made(work: Workplace, sft: Sft) -> list[Trajectory]:
    if isinstance(sft.dataset, FilesDataset):
        with work.progress.doing(f"reading {sft.dataset.path}"):
            data = load_demonstrations(Path(sft.dataset.path), work.chat, work.progress.note)
        return not_held_out(data, work.split.holdout)
    seed = work.run.spec.seed
    chosen = _spread(work.split.train, sft.dataset.limit, seed)
    work.progress.note(f"executing the gold steps of {len(chosen)} environments")
    with work.progress.doing("demonstrating", len(chosen) * sft.dataset.samples) as count:
        return await demonstrate_all(
            [
                work.mixer.episode(environment, seed=seed, index=number, step=0)
                for number, environment in enumerate(chosen * sft.dataset.samples)
            ],
            sandbox=work.sandbox,
            chat=work.chat,
            settings=DemonstrationSettings(recoveries=sft.dataset.recoveries, detours=sft.dataset.detours),
            seed=seed,
            concurrency=min(16, work.groups_at_once(1)),
            on_done=count,
        )


def not_held_out(data: list[Trajectory], holdout: Sequence[Environment]) -> list[Trajectory]:
    """The data, none of which is a trajectory of an environment that the run holds out. Raises BadInput."""
    held_out = {environment.digest: environment.name for environment in holdout}
    for trajectory in data:
        if name := held_out.get(trajectory.digest):
            raise BadInput(
                f"spec.sft.dataset.path: {trajectory.environment}: a trajectory of {name}, which this run holds out to "
                "measure the model on; take out what is held out (*-holdout.jsonl)"
            )
    return data


def _spread(environments: Sequence[Environment], limit: int | None, seed: int) -> list[Environment]:
    """At most `limit` environments, a seeded sample of them all."""
    if limit is None or limit >= len(environments):
        return list(environments)
    numbers = random.Random(derive_seed(seed, "demonstrations")).sample(range(len(environments)), limit)
    return [environments[number] for number in sorted(numbers)]
