"""Whole plans: any run that a manifest may ask for has one, and it can be written as JSON."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astra_api.training_run import TrainingRun
from astra_trainer.planning import GPUS, Plan, cpu, gpu

MakeRun = Callable[..., TrainingRun]
MakePlan = Callable[..., Plan]


def _fields(**values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(options) for name, options in values.items()})


MODELS: list[dict[str, str]] = [{"preset": "tiny"}, {"name": "Qwen/Qwen3-0.6B"}, {"name": "Qwen/Qwen3-32B"}]
LIMITS: list[dict[str, Any]] = [{}, {"limits": {"memory": "64Gi"}}]
SFT = _fields(dataset=[{"type": "gold"}, {"type": "gold", "limit": 3}], maxLength=[1, 20_000])
RL = _fields(
    groupSize=[2, 8], batchSize=[8, 256], maxPromptTokens=[1, 500, 25_600], maxResponseTokens=[1, 30, 49_152],
    maxTurns=[1, 32], steps=[1, 140],
)  # fmt: skip
VERL = _fields(
    tensorParallel=[1, 2, 8], sequenceParallel=[1, 4, 16], tokensPerGpu=[1, 1000, 80_000], gpuMemory=[0.0, 0.5, 1.0],
    offload=[True, False], packing=[True, False],
)  # fmt: skip
APART = st.sampled_from([{}, {"rollout": "separate", "rolloutGpus": 4, "maxStaleness": 1}])
SPECS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "engine": st.sampled_from(["verl", "embedded"]),
        "rl": st.none() | RL,
        "sft": st.none() | SFT,
        "verl": st.none() | st.tuples(VERL, APART).map(lambda both: both[0] | both[1]),
        "trainer": _fields(nodes=[1, 2], gpusPerNode=[0, 1, 8], resources=LIMITS),
        "sandboxes": _fields(replicas=[1, 16], sessionsPerPod=[1, 64], runtimeClassName=["", "gvisor"]),
        "checkpoint": _fields(stateEvery=[1, 100], snapshotEvery=[1, 50], size=["1Gi", "8Ti"]),
    }
)
GIVEN = _fields(
    discarded_share=[None, 0.0, 0.99], tool_seconds=[None, 0.0, 100.0], calls_per_rollout=[None, 0.0, 50.0],
    mfu=[None, 0.001, 1.0],
)  # fmt: skip


@given(SPECS, GIVEN, st.sampled_from(sorted(GPUS)), st.sampled_from([None, 0.0, 2.5]))
@settings(max_examples=150, deadline=None)
def test_any_run_has_a_plan(
    make_run: MakeRun,
    plan_of: MakePlan,
    spec: dict[str, Any],
    assumed: dict[str, float | None],
    name: str,
    price: float | None,
) -> None:
    try:
        run = make_run(**spec)
    except ValidationError:
        assume(False)
    device = gpu(name) if run.spec.trainer.gpus_per_node else cpu(2, None)
    plan = plan_of(run, device, price, **assumed)
    written = json.loads(json.dumps(plan.as_json(), allow_nan=False))
    assert written["fits"] == plan.fits == (written["problems"] == [])
    if device.memory is not None and plan.fits:
        assert max(phase["bytes"] for phase in written["memory"]) <= device.memory
    if plan.totals.hours is not None and device.is_gpu:
        assert (plan.totals.cost is None) == (price is None)
    assert set(written["assumptions"]) == {row[0] for row in plan.assumptions.rows()}
