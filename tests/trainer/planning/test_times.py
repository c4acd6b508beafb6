"""Times: by hand, and what must hold whatever is assumed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_api.training_run import Rl, TrainingRun
from astra_trainer.planning import Device, Plan, gpu
from astra_trainer.planning.times import RlStep, rounds

MakeRun = Callable[..., TrainingRun]
MakePlan = Callable[..., Plan]
N = 14_768_307_200
H100 = {"flops": 989e12, "bandwidth": 3.35e12}


def step_of(plan: Plan) -> RlStep:
    assert plan.rl is not None
    return plan.rl


def test_decoding_by_hand(make_run: MakeRun, plan_of: MakePlan) -> None:
    step = step_of(plan_of(make_run()))
    context = 3000 + (4000 + 4 * 100) / 2
    read = 2 * N + 64 * context * 163_840  # by one copy of the model, on two GPUs, for 64 rollouts
    expected = read / (2 * H100["bandwidth"] * 0.6) + 2 * 40 * 15e-6 + 5e-3
    assert step.rollouts_per_replica == 64
    assert step.decode_seconds == pytest.approx(expected)
    assert step.tokens_per_second == pytest.approx(256 / expected)


def test_updates_by_hand(make_run: MakeRun, plan_of: MakePlan) -> None:
    step = step_of(plan_of(make_run()))
    tokens = 256 * 7400
    weights = N - 151_936 * 5_120 - 5_120  # a table look-up and the last norm multiply nothing
    flops = 3 * tokens * (2 * weights + 4 * 40 * 5_120 * 3_700)
    moved = 2 * 12 * N / 8 / 25e9
    assert step.update_seconds == pytest.approx(flops / (8 * H100["flops"] * 0.35) + moved + 1)
    assert step.sync_seconds == pytest.approx(4 * N / 100e9 + 10)
    assert step.state_seconds == pytest.approx(12 * N / 1e9 / 10)
    total = step.rollout_seconds + step.update_seconds + step.sync_seconds + step.state_seconds
    assert step.seconds == pytest.approx(total)


@pytest.mark.parametrize(
    ("discarded", "most", "expected"),
    [(0.0, 8, [32]), (0.25, 8, [32, 8, 2, 1]), (0.25, 2, [32, 8]), (0.5, 3, [32, 16, 8]), (0.9, 2, [32, 29])],
)
def test_rounds_of_batch_filling(discarded: float, most: int, expected: list[int]) -> None:
    rl = Rl.model_validate({"batchSize": 256, "groupSize": 8, "batchFilling": {"maxRounds": most}})
    assert rounds(rl, discarded) == expected


def test_separate_rollouts_and_updates_overlap(make_run: MakeRun, plan_of: MakePlan) -> None:
    verl = {"rollout": "separate", "rolloutGpus": 8, "maxStaleness": 1, "offload": False}
    step = step_of(plan_of(make_run(trainer={"nodes": 2}, verl=verl)))
    longer = max(step.rollout_seconds, step.update_seconds)
    assert step.seconds == pytest.approx(longer + step.sync_seconds + step.state_seconds)


def test_an_sft_stage_and_the_whole_run(make_run: MakeRun, plan_of: MakePlan) -> None:
    sft = {"dataset": {"type": "gold", "limit": 1000}, "epochs": 2, "batchSize": 32, "maxLength": 5000}
    plan = plan_of(make_run(sft=sft), price=2.0)
    assert plan.sft is not None
    assert plan.sft.steps == 2 * 32
    assert plan.sft.tokens == 5000
    hours = (64 * plan.sft.seconds + 140 * step_of(plan).seconds) / 3600
    assert plan.totals.hours == pytest.approx(hours)
    assert plan.totals.gpu_hours == pytest.approx(8 * hours)
    assert plan.totals.cost == pytest.approx(16 * hours)
    assert plan.checkpoints.snapshots == 14 + 7
    unknown = plan_of(make_run(sft={"dataset": {"type": "gold"}}), price=2.0)
    assert (unknown.totals.hours, unknown.totals.gpu_hours, unknown.totals.cost) == (None, None, None)
    assert unknown.totals.rl_hours == pytest.approx(140 * step_of(unknown).seconds / 3600)
    assert "spec.sft.dataset" in [warning.field for warning in unknown.warnings]
    assert plan_of(make_run(sft={"dataset": {"type": "gold"}}), demonstrations=1000).totals.hours is not None


def test_checkpoints(make_run: MakeRun, plan_of: MakePlan) -> None:
    found = plan_of(make_run(rl={"steps": 25}, checkpoint={"snapshotEvery": 10, "keepStates": 2})).checkpoints
    assert (found.snapshots, found.snapshot_bytes) == (3, 2 * N)
    assert (found.states, found.state_bytes) == (3, 12 * N)
    assert found.bytes == 3 * 2 * N + 3 * 12 * N


ASSUMED = st.fixed_dictionaries(
    {
        "tokens_per_rollout": st.floats(1, 20_000),
        "calls_per_rollout": st.floats(0, 30),
        "prompt_tokens": st.floats(1, 20_000),
        "tool_seconds": st.floats(0, 30),
        "longest_rollout": st.floats(1, 8),
        "discarded_share": st.floats(0, 0.9),
        "mfu": st.floats(0.05, 1),
        "bandwidth_share": st.floats(0.05, 1),
    }
)


@given(ASSUMED, st.sampled_from([1, 2, 4, 8]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_figure_makes_sense(
    make_run: MakeRun, plan_of: MakePlan, assumed: dict[str, float], ranks: int, separate: bool
) -> None:
    verl: dict[str, Any] = {"tensorParallel": ranks}
    if separate:
        verl |= {"rollout": "separate", "rolloutGpus": 8, "maxStaleness": 2}
    step = step_of(plan_of(make_run(trainer={"nodes": 2}, verl=verl), **assumed))
    assert 0 <= step.tool_share <= 1
    assert step.seconds >= max(step.rollout_seconds, step.update_seconds)
    assert step.rollouts >= 256
    assert 1 <= step.rollouts_per_replica <= 256
    assert step.calls_per_second <= step.peak_calls_per_second * (1 + 1e-9) + 1e-9


@given(ASSUMED, st.floats(1.0, 4.0), st.sampled_from(["tokens_per_rollout", "tool_seconds", "longest_rollout"]))
@settings(max_examples=60, deadline=None)
def test_longer_rollouts_never_take_less(
    make_run: MakeRun, plan_of: MakePlan, assumed: dict[str, float], factor: float, name: str
) -> None:
    assumed = assumed | {"calls_per_rollout": 0.0} if name == "tokens_per_rollout" else assumed
    more = assumed | {name: min(assumed[name] * factor, 40_000)}
    run = make_run(trainer={"nodes": 2})
    before, after = step_of(plan_of(run, **assumed)), step_of(plan_of(run, **more))
    # a KV cache holds fewer of the longer ones, and a smaller batch decodes a little faster: waves make up for it
    assert after.seconds >= before.seconds * 0.98


@given(ASSUMED, st.floats(1.0, 4.0), st.sampled_from(["flops", "bandwidth"]))
@settings(max_examples=60, deadline=None)
def test_a_faster_gpu_never_takes_longer(
    make_run: MakeRun, plan_of: MakePlan, assumed: dict[str, float], factor: float, what: str
) -> None:
    slow = gpu("a100-80gb")
    fast: Device = slow.model_copy(update={what: getattr(slow, what) * factor})
    run = make_run()
    assert step_of(plan_of(run, fast, **assumed)).seconds <= step_of(plan_of(run, slow, **assumed)).seconds


def test_tools_that_are_slow_show_in_the_share_of_waiting(make_run: MakeRun, plan_of: MakePlan) -> None:
    shares = [step_of(plan_of(make_run(), tool_seconds=seconds)).tool_share for seconds in (0.0, 0.02, 1.0, 60.0)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[1] < 0.05 < shares[3]
