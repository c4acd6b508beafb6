"""Adaptive batch filling (METHOD section 3): train on groups whose rewards differ, keep rolling out until there are
enough, carry the surplus to the next step.

A group whose rollouts all earned the same has no advantage, hence no gradient. The surplus was rolled out by the
weights of an earlier step: it is trained on first, and its own log-probabilities (recorded when it was sampled) stand
in the policy ratio, so that clipping bounds how far the policy has moved since. `FilledBatch.stale` counts it.
"""

from statistics import pstdev
from typing import Annotated

from pydantic import Field

from astra_api.records import Record
from astra_trainer.groups import Group


class FilledBatch(Record):
    """What a step trains on, and how it came about."""

    groups: tuple[Group, ...]  # at most `wanted`; fewer after `max_rounds`, possibly none
    rounds: int
    offered: int  # groups rolled out in this step
    discarded: int  # of those, groups without a spread of rewards
    unsolved: int = 0  # of the discarded, groups in which no rollout earned anything
    solved: int = 0  # of the discarded, groups in which every rollout earned all
    stale: int  # groups of the batch carried over from earlier steps

    @property
    def discarded_share(self) -> float:
        """Discarded of offered; 0 when the surplus of earlier steps was enough."""
        return self.discarded / self.offered if self.offered else 0.0


class BatchFilling(Record):
    """The state of filling one step's batch: a value, saved and restored as JSON.

    Ask `missing` groups of the policy, `offer` what came, until `done`; then `take` the batch and the next step's
    filling, which begins with the surplus.
    """

    wanted: Annotated[int, Field(ge=1)]  # groups a batch
    min_std: Annotated[float, Field(ge=0.0)] = 1e-6
    max_rounds: Annotated[int, Field(ge=1)] = 8
    buffer: tuple[Group, ...] = ()
    carried: int = 0  # groups at the head of the buffer that came from earlier steps
    rounds: int = 0
    offered: int = 0
    discarded: int = 0
    unsolved: int = 0
    solved: int = 0

    @property
    def missing(self) -> int:
        """How many more groups the batch needs."""
        return max(0, self.wanted - len(self.buffer))

    @property
    def done(self) -> bool:
        """Whether to stop rolling out: the batch is full, or `max_rounds` rounds were offered."""
        return not self.missing or self.rounds >= self.max_rounds

    def offer(self, groups: tuple[Group, ...] | list[Group]) -> "BatchFilling":
        """One round's groups in; those with a population std of rewards above `min_std` are kept, in order.

        Raises ValueError when the filling is done: a round that cannot be used should not have been rolled out.
        """
        if self.done:
            raise ValueError("the batch is filled, or its rounds are used up: take it first")
        kept = tuple(group for group in groups if has_spread(group, self.min_std))
        others = [group.rewards for group in groups if not has_spread(group, self.min_std)]
        return self.model_copy(
            update={
                "buffer": self.buffer + kept,
                "rounds": self.rounds + 1,
                "offered": self.offered + len(groups),
                "discarded": self.discarded + len(others),
                "unsolved": self.unsolved + sum(max(rewards) <= 0.0 for rewards in others),
                "solved": self.solved + sum(min(rewards) >= 1.0 for rewards in others),
            }
        )

    def take(self) -> "tuple[FilledBatch, BatchFilling]":
        """The first `wanted` groups of the buffer, oldest first, and the filling of the next step."""
        if not self.done:
            raise ValueError(f"{self.missing} groups are missing and rounds are left: offer more")
        batch = FilledBatch(
            groups=self.buffer[: self.wanted],
            rounds=self.rounds,
            offered=self.offered,
            discarded=self.discarded,
            unsolved=self.unsolved,
            solved=self.solved,
            stale=min(self.carried, self.wanted),
        )
        surplus = self.buffer[self.wanted :]
        following = BatchFilling(
            wanted=self.wanted,
            min_std=self.min_std,
            max_rounds=self.max_rounds,
            buffer=surplus,
            carried=len(surplus),
        )
        return batch, following


def has_spread(group: Group, min_std: float) -> bool:
    """Whether the rewards' population standard deviation (ddof 0) exceeds `min_std`."""
    return len(group.rewards) > 1 and pstdev(group.rewards) > min_std
