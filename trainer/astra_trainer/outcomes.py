"""How often an agent does its job: shares of rollouts, with intervals, and whether one checkpoint beats another."""

from collections.abc import Callable, Mapping, Sequence
from math import comb, sqrt
from statistics import fmean
from typing import NamedTuple

from astra_api.answers import holds_scraps
from astra_api.records import Trajectory

_Z = 1.959963984540054  # of a two-sided interval of 95%


class Interval(NamedTuple):
    """Bounds between which a share lies, with a confidence of 95%."""

    low: float
    high: float


class Paired(NamedTuple):
    """How two checkpoints did on the same prompts: `p` is how likely so unequal a change is if neither is better."""

    gained: int  # prompts answered with success only by the later one
    lost: int  # only by the earlier one
    p: float


def wilson(share: float, count: int) -> Interval:
    """Wilson's interval of a share that was seen in `count` independent trials (at least one)."""
    middle = share + _Z**2 / (2 * count)
    spread = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return Interval(max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale))


def success_interval(trajectories: Sequence[Trajectory], seen: Callable[[Trajectory], bool]) -> Interval:
    """The interval of a share; the rollouts of one environment are not independent, so an environment counts once."""
    return wilson(fmean(map(seen, trajectories)), len({trajectory.environment for trajectory in trajectories}))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test; 1 where nothing changed."""
    changed = gained + lost
    tail: float = sum(comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def paired(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> Paired:
    """The successes of two checkpoints, over the prompts that both were asked."""
    earlier, later = _successes(before), _successes(after)
    both = earlier.keys() & later.keys()
    gained = sum(later[one] and not earlier[one] for one in both)
    lost = sum(earlier[one] and not later[one] for one in both)
    return Paired(gained, lost, mcnemar(gained, lost))


def _successes(trajectories: Sequence[Trajectory]) -> Mapping[tuple[str, str, int], bool]:
    return {(one.environment, one.digest, one.index): one.reward.success for one in trajectories}


def is_solved(trajectory: Trajectory) -> bool:
    """Whether every needed step was solved."""
    return len(trajectory.reward.solved) == trajectory.reward.needed


def is_early(trajectory: Trajectory) -> bool:
    """Whether it answered after fewer calls than there are steps."""
    return trajectory.ended == "answered" and trajectory.reward.calls < trajectory.reward.needed


def is_cut(trajectory: Trajectory) -> bool:
    """Whether a limit ended it."""
    return trajectory.ended != "answered"


def has_scraps(trajectory: Trajectory) -> bool:
    """Whether its answer holds scraps of a call or of a template."""
    return holds_scraps(trajectory.messages)


def domain_f1(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The mean F1 of each domain's rollouts."""
    return means_by(trajectories, lambda one: one.domain, lambda one: one.reward.f1)


SHARES: Mapping[str, Callable[[Trajectory], bool]] = {
    "answer": lambda trajectory: trajectory.reward.answer,
    "success": lambda trajectory: trajectory.reward.success,
    "solved": is_solved,
    "early": is_early,
    "cut": is_cut,
    "scraps": has_scraps,
}


def shares(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Shares of at least one rollout, by the names of `SHARES`."""
    return {name: fmean(map(seen, trajectories)) for name, seen in SHARES.items()}


def means_by(
    trajectories: Sequence[Trajectory], key: Callable[[Trajectory], str], value: Callable[[Trajectory], float]
) -> dict[str, float]:
    """The mean `value` of each group of rollouts that `key` names, in the order of the names."""
    groups: dict[str, list[float]] = {}
    for trajectory in trajectories:
        groups.setdefault(key(trajectory), []).append(value(trajectory))
    return {name: fmean(groups[name]) for name in sorted(groups)}
