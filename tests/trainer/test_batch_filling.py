from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.records import Reward, Trajectory
from astra_trainer.batch_filling import BatchFilling, has_spread
from astra_trainer.groups import Group


def trajectory(reward: float, number: int) -> Trajectory:
    scored = Reward(value=reward, recall=reward, precision=reward, f1=reward, solved=(), needed=1, calls=0)
    return Trajectory(
        environment="e", digest="d", domain="x", split="train", stage="rl", step=0, group=number, index=0, messages=(),
        tools=(), tokens=(1, 2), mask=(0, 1), logprobs=(0.0, -0.1), turns=1, calls=(), ended="answered", reward=scored,
    )  # fmt: skip


def group(rewards: Sequence[float], number: int = 0) -> Group:
    return Group(trajectories=tuple(trajectory(reward, number) for reward in rewards))


REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=2, max_size=3)
ROUNDS = st.lists(st.lists(REWARDS, max_size=4), min_size=1, max_size=12)


@given(wanted=st.integers(1, 4), max_rounds=st.integers(1, 3), rounds=ROUNDS)
def test_every_kept_group_is_trained_on_once_in_the_order_it_came(
    wanted: int, max_rounds: int, rounds: list[list[list[float]]]
) -> None:
    filling = BatchFilling(wanted=wanted, max_rounds=max_rounds)
    numbered, trained, offered, discarded = 0, [], 0, 0
    kept: list[int] = []
    for step_round in rounds:
        while filling.done:
            batch, filling = filling.take()
            assert len(batch.groups) <= wanted
            assert batch.rounds <= max_rounds
            assert len(batch.groups) == wanted or batch.rounds == max_rounds
            assert 0 <= batch.stale <= len(batch.groups)
            assert 0 <= batch.discarded_share <= 1
            trained += [g.trajectories[0].group for g in batch.groups]
            offered += batch.offered
            discarded += batch.discarded
            filling = BatchFilling.model_validate_json(filling.model_dump_json())
        groups = [group(rewards, numbered + position) for position, rewards in enumerate(step_round)]
        kept += [g.trajectories[0].group for g in groups if len(set(g.rewards)) > 1]
        numbered += len(groups)
        filling = BatchFilling.model_validate_json(filling.offer(groups).model_dump_json())
    left = [g.trajectories[0].group for g in filling.buffer]
    assert trained + left == kept
    assert offered + filling.offered == numbered
    assert discarded + filling.discarded == numbered - len(kept)


def test_surplus_is_carried_and_trained_on_first() -> None:
    filling = BatchFilling(wanted=2).offer([group([0, 1], n) for n in range(5)])
    batch, filling = filling.take()
    assert (batch.offered, batch.discarded_share, batch.stale, filling.missing) == (5, 0.0, 0, 0)
    batch, filling = filling.take()
    assert ([g.trajectories[0].group for g in batch.groups], batch.stale, batch.rounds) == ([2, 3], 2, 0)
    batch, filling = filling.offer([group([1, 1]), group([0, 1], 5)]).take()
    assert ([g.trajectories[0].group for g in batch.groups], batch.stale) == ([4, 5], 1)
    assert batch.discarded_share == 0.5
    assert filling == BatchFilling(wanted=2)


def test_rounds_are_capped_and_a_step_may_go_without() -> None:
    filling = BatchFilling(wanted=2, max_rounds=2)
    for _ in range(2):
        assert not filling.done
        with pytest.raises(ValueError, match="rounds are left"):
            filling.take()
        filling = filling.offer([group([1, 1, 1])])
    assert filling.done
    with pytest.raises(ValueError, match="used up"):
        filling.offer([])
    batch, following = filling.take()
    assert (batch.groups, batch.discarded_share, following.rounds) == ((), 1.0, 0)


@pytest.mark.parametrize(
    ("rewards", "min_std", "kept"),
    [
        ([0.1, 0.1, 0.1], 0.0, False),  # no rounding noise
        ([0.0, 1.0], 0.5, False),  # population std is 0.5 (the sample's would be 0.71), and must exceed it
        ([0.0, 1.0], 0.49, True),
        ([1.0], 0.0, False),
    ],
)
def test_the_spread_is_the_populations(rewards: list[float], min_std: float, kept: bool) -> None:
    assert has_spread(group(rewards), min_std) is kept
