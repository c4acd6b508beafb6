"""The RL stage: roll out until the batch is full, update, commit. On-policy but for what batch filling carries over."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from astra_api.records import Reject, Trajectory
from astra_api.training_run import Rl
from astra_trainer.batch_filling import BatchFilling, FilledBatch
from astra_trainer.compute import compute
from astra_trainer.draws import drawn
from astra_trainer.groups import GroupRequest, GroupResults, roll_out_groups
from astra_trainer.outcomes import domain_f1, shares
from astra_trainer.rollout import Place
from astra_trainer.run_directory import Position
from astra_trainer.workplace import Value, Workplace

if TYPE_CHECKING:
    from astra_trainer.engines.embedded.engine import EmbeddedEngine


async def reinforce(work: Workplace, start: Path, rl: Rl) -> int:
    """Trains from the model in `start` until the stage's last step; returns its number."""
    position = work.directory.position
    began = position if position is not None and position.stage == "rl" else None
    done = began.step if began else 0
    work.progress.stage("rl", done, rl.steps)
    if done == rl.steps:
        return done
    from astra_trainer.engines.embedded.engine import Schedule

    engine = await work.engine(start, Schedule(rl.learning_rate, rl.steps, rl.schedule, rl.warmup), began)
    filling = began.filling if began and began.filling else _empty(rl)
    cursor = began.cursor if began else 0
    for step in range(done + 1, rl.steps + 1):
        filling, cursor = await _step(work, engine, rl, step, filling, cursor)
    return rl.steps


async def _step(
    work: Workplace, engine: "EmbeddedEngine", rl: Rl, step: int, filling: BatchFilling, cursor: int
) -> tuple[BatchFilling, int]:
    """Does and commits one step; returns the filling and the cursor of the next."""
    times = [time.monotonic()]
    rollouts = await _fill(work, engine, rl, step, filling, cursor)
    times.append(time.monotonic())
    batch, following = rollouts.filling.take()
    with work.progress.doing("updating"):
        metrics = await _update(engine, batch)
    times.append(time.monotonic())
    if not batch.groups:
        work.progress.note(f"rl step {step}: no group had a spread of rewards in {batch.rounds} rounds; no update")
    work.directory.save_trajectories("rl", step, "train", rollouts.trajectories)
    line: dict[str, Value] = {"kind": "train", "stage": "rl", "step": step, **metrics, **_figures(rollouts, batch)}
    line |= {"rollout_seconds": times[1] - times[0], "update_seconds": times[2] - times[1]}
    line["seconds"] = time.monotonic() - times[0]
    position = Position(stage="rl", step=step, cursor=rollouts.cursor, filling=following)
    await work.commit(engine, position, line, last=step == rl.steps)
    return following, rollouts.cursor


@dataclass
class _Rollouts:
    """What a step rolled out, and the filling that took it in."""

    filling: BatchFilling
    cursor: int
    trajectories: list[Trajectory] = field(default_factory=list)
    excluded: list[Reject] = field(default_factory=list)


async def _fill(
    work: Workplace, engine: "EmbeddedEngine", rl: Rl, step: int, filling: BatchFilling, cursor: int
) -> _Rollouts:
    rollouts = _Rollouts(filling, cursor)
    generator = await compute(engine.generator, work.chat.stop_ids)
    while not rollouts.filling.done:
        requests = [_request(work, rl, step, rollouts.cursor + i) for i in range(rollouts.filling.missing)]
        rollouts.cursor += len(requests)
        with work.progress.doing("rolling out", len(requests)) as count:
            found: GroupResults = await roll_out_groups(
                requests,
                sandbox=work.sandbox,
                generator=generator,
                chat=work.chat,
                settings=work.settings(rl.temperature),
                concurrency=work.groups_at_once(rl.group_size),
                on_done=count,
            )
        rollouts.filling = rollouts.filling.offer(found.groups)
        rollouts.trajectories += [trajectory for group in found.groups for trajectory in group.trajectories]
        rollouts.excluded += found.excluded
    return rollouts


def _request(work: Workplace, rl: Rl, step: int, number: int) -> GroupRequest:
    """The group of the `number`-th environment that the stage draws."""
    seed = work.run.spec.seed
    environment = drawn(work.split.train, seed, number)
    episode = work.mixer.episode(environment, seed=seed, index=number, step=step)
    return GroupRequest(episode, Place(stage="rl", step=step, group=number, seed=seed), rl.group_size)


async def _update(engine: "EmbeddedEngine", batch: FilledBatch) -> dict[str, Value]:
    """One step on the batch; without a group of use there is none, and the figures are null."""
    pairs = [(trajectory, number) for number, group in enumerate(batch.groups) for trajectory in group.trajectories]
    if not pairs:
        return {"loss": None}
    metrics = await compute(engine.rl_step, [trajectory for trajectory, _ in pairs], [number for _, number in pairs])
    return {**metrics}


def _figures(rollouts: _Rollouts, batch: FilledBatch) -> dict[str, Value]:
    """Means over all that was rolled out in this step, discarded groups included; over the batch if nothing was."""
    trajectories = rollouts.trajectories or [t for group in batch.groups for t in group.trajectories]
    counts: dict[str, Value] = {
        "discarded_share": batch.discarded_share,
        "groups": len(batch.groups),
        "stale_groups": batch.stale,
        "rounds": batch.rounds,
        "offered": batch.offered,
        "discarded_unsolved": batch.unsolved,
        "discarded_solved": batch.solved,
        "excluded": len(rollouts.excluded),
    }
    return {**rollout_figures(trajectories), **counts} if trajectories else counts


def rollout_figures(trajectories: Sequence[Trajectory]) -> dict[str, Value]:
    """Means over at least one rollout."""
    rewards = [trajectory.reward for trajectory in trajectories]
    return {
        "reward_mean": fmean(reward.value for reward in rewards),
        "reward_std": pstdev(reward.value for reward in rewards),
        "f1": fmean(reward.f1 for reward in rewards),
        "recall": fmean(reward.recall for reward in rewards),
        "precision": fmean(reward.precision for reward in rewards),
        "tool_calls": fmean(reward.calls for reward in rewards),
        "turns": fmean(trajectory.turns for trajectory in trajectories),
        "response_tokens": fmean(sum(trajectory.mask) for trajectory in trajectories),
        **shares(trajectories),
        "answered_share": fmean(trajectory.ended == "answered" for trajectory in trajectories),
        "domain_f1": domain_f1(trajectories),
    }


def _empty(rl: Rl) -> BatchFilling:
    spec = rl.batch_filling
    return BatchFilling(wanted=rl.batch_size // rl.group_size, min_std=spec.min_std, max_rounds=spec.max_rounds)
