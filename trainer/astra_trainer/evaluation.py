"""Held-out evaluation: rollouts in environments that were never trained on, how many of them did the job, and what
they earned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import Reject, Trajectory
from astra_sandbox.interface import Sandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generator
from astra_trainer.groups import GroupRequest, roll_out_groups
from astra_trainer.mixing import ToolMixer
from astra_trainer.outcomes import SHARES, Interval, domain_f1, means_by, shares, success_interval
from astra_trainer.rollout import Place, RolloutSettings, Stage


@dataclass(frozen=True)
class Evaluation:
    """Means and shares over all trajectories; of a domain or a number of hops over its own.

    `excluded` lists the environments that the sandbox failed.
    """

    f1: float
    recall: float
    precision: float
    calls: float  # tool calls a rollout
    domain_f1: dict[str, float]
    shares: dict[str, float]  # answer, success, solved, early, cut, scraps
    intervals: dict[str, Interval]  # of those that say how well the job was done
    domain_success: dict[str, float]
    hops_success: dict[str, float]  # by the number of calls that a question needs
    trajectories: list[Trajectory]
    excluded: list[Reject]


async def evaluate(
    environments: Sequence[Environment],
    *,
    stage: Stage,
    step: int,
    samples: int,
    seed: int,
    mixer: ToolMixer,
    sandbox: Sandbox,
    generator: Generator,
    chat: ChatFormat,
    settings: RolloutSettings,
    concurrency: int = 32,
    on_done: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Rolls out each environment `samples` times under `settings` (temperature 0: greedy); `on_done` hears of each.

    The mixed-in tools and the sampling seeds do not depend on `stage` or `step`, so that checkpoints are compared on
    equal prompts. Raises BadInput without environments or when no prompt fits, and SandboxError when the sandbox failed
    them all.
    """
    if not environments:
        raise BadInput("no held-out environment to evaluate on")
    requests = [
        GroupRequest(
            episode=mixer.episode(environment, seed=seed, index=number, step=0),
            place=Place(stage=stage, step=step, group=number, split="holdout", seed=seed),
            size=samples,
        )
        for number, environment in enumerate(environments)
    ]
    results = await roll_out_groups(
        requests,
        sandbox=sandbox,
        generator=generator,
        chat=chat,
        settings=settings,
        concurrency=concurrency,
        on_done=on_done,
    )
    if not results.groups:
        raise BadInput(f"no held-out environment could be rolled out: {results.excluded[0].message}")
    return summary([trajectory for group in results.groups for trajectory in group.trajectories], results.excluded)


def summary(trajectories: list[Trajectory], excluded: list[Reject]) -> Evaluation:
    """Means over at least one trajectory."""
    rewards = [trajectory.reward for trajectory in trajectories]
    return Evaluation(
        f1=fmean(reward.f1 for reward in rewards),
        recall=fmean(reward.recall for reward in rewards),
        precision=fmean(reward.precision for reward in rewards),
        calls=fmean(reward.calls for reward in rewards),
        domain_f1=domain_f1(trajectories),
        shares=shares(trajectories),
        intervals={name: success_interval(trajectories, SHARES[name]) for name in ("answer", "success", "solved")},
        domain_success=means_by(trajectories, lambda one: one.domain, SHARES["success"]),
        hops_success=means_by(trajectories, lambda one: str(one.reward.needed), SHARES["success"]),
        trajectories=trajectories,
        excluded=excluded,
    )
