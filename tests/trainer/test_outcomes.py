"""How often an agent does its job: shares, their intervals, and comparisons over the same prompts."""

from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.records import Message, Reward, ToolCall, Trajectory
from astra_trainer.outcomes import mcnemar, means_by, paired, shares, success_interval, wilson

SOLVED = ("s1", "s2")


def rollout(
    name: str = "one",
    text: str = "The answer is 1.",
    *,
    index: int = 0,
    success: bool = False,
    solved: tuple[str, ...] = (),
    calls: int = 2,
    ended: Literal["answered", "max_turns", "max_tokens"] = "answered",
    domain: str = "lab",
) -> Trajectory:
    reward = Reward(
        value=0.0, recall=0.0, precision=0.0, f1=0.0, solved=SOLVED if success else solved, needed=2, calls=calls,
        answer=success, success=success,
    )  # fmt: skip
    return Trajectory(
        environment=name, digest="sha256:0", domain=domain, split="holdout", stage="rl", step=1, group=0, index=index,
        messages=(Message(role="user", content="?"), Message(role="assistant", content=text)), tools=(), tokens=(),
        mask=(), turns=1, calls=(), ended=ended, reward=reward,
    )  # fmt: skip


def test_what_went_wrong_is_counted_by_its_kind() -> None:
    found = shares(
        [
            rollout(success=True),
            rollout(solved=SOLVED),
            rollout(calls=1),
            rollout(text='1"}}</tool_call>'),
            rollout(ended="max_tokens"),
            rollout(ended="max_turns", calls=1),
        ]
    )
    sixth = pytest.approx(1 / 6)
    assert found == {
        "answer": sixth, "success": sixth, "solved": pytest.approx(2 / 6), "early": sixth, "cut": pytest.approx(2 / 6),
        "scraps": sixth,
    }  # fmt: skip


def test_a_turn_with_calls_holds_no_scraps_of_an_answer() -> None:
    call = ToolCall(tool="t", arguments_json="{}")
    asking = rollout().model_copy(update={"messages": (Message(role="assistant", content="<", tool_calls=(call,)),)})
    assert shares([asking])["scraps"] == 0


def test_successes_by_domain() -> None:
    several = [rollout(success=True, domain="b"), rollout(domain="b"), rollout(success=True, domain="a")]
    assert list(means_by(several, lambda one: one.domain, lambda one: one.reward.success).items()) == [
        ("a", 1.0),
        ("b", 0.5),
    ]


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    """Ten of a hundred, and none of ten: Brown, Cai and DasGupta's examples, to four digits."""
    assert wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=5e-5)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)


@given(count=st.integers(1, 5000), data=st.data())
def test_an_interval_holds_its_share_and_shrinks_with_trials(count: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wider = wilson(share, max(1, count // 2))
    assert high - low <= wider.high - wider.low + 1e-12


def test_samples_of_one_environment_are_no_further_trials() -> None:
    twice = [rollout(name, index=index, success=True) for name in ("a", "b") for index in range(2)]
    assert success_interval(twice, lambda one: one.reward.success) == wilson(1.0, 2)


@given(gained=st.integers(0, 9), lost=st.integers(0, 9))
def test_mcnemar_counts_the_ways_in_which_coins_fall(gained: int, lost: int) -> None:
    changed = gained + lost
    ways = [sum(coins) for coins in product((0, 1), repeat=min(changed, 12))]
    if changed > 12:
        return
    extreme = [heads for heads in ways if abs(2 * heads - changed) >= abs(gained - lost)]
    assert mcnemar(gained, lost) == pytest.approx(len(extreme) / len(ways))


def test_checkpoints_are_compared_over_the_prompts_that_both_were_asked() -> None:
    before = [rollout("a"), rollout("b", success=True), rollout("c", success=True), rollout("gone", success=True)]
    after = [rollout("a", success=True), rollout("b"), rollout("c", success=True), rollout("new", success=True)]
    assert paired(before, after) == (1, 1, 1.0)
    assert paired([], after) == (0, 0, 1.0)
