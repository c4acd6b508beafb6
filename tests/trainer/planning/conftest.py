"""Plans of runs, changed field by field."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from astra_api.training_run import TrainingRun
from astra_trainer.planning import Device, Plan, assume, gpu, make_plan, shape_of

BASE: dict[str, Any] = {
    "apiVersion": "astra.farm/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "run"},
    "spec": {
        "model": {"name": "Qwen/Qwen3-14B"},
        "engine": "verl",
        "rl": {"maxPromptTokens": 25600, "maxResponseTokens": 49152},
        "sandboxes": {"replicas": 16},
        "trainer": {"nodes": 1, "gpusPerNode": 8},
        "verl": {
            "tensorParallel": 2, "sequenceParallel": 8, "tokensPerGpu": 10240, "gpuMemory": 0.8, "offload": True
        },
        "checkpoint": {"stateEvery": 10},
    },
}  # fmt: skip

MakeRun = Callable[..., TrainingRun]
MakePlan = Callable[..., Plan]


def changed(**changes: Any) -> TrainingRun:
    """The base with fields of spec changed: `verl={"offload": False}`; None removes a field."""
    body = copy.deepcopy(BASE)
    for name, change in changes.items():
        if change is None:
            body["spec"].pop(name, None)
        elif isinstance(change, dict) and name != "model":
            body["spec"][name] = {**body["spec"].get(name, {}), **change}
        else:
            body["spec"][name] = change
    return TrainingRun.model_validate(body)


def planned(
    run: TrainingRun, device: str | Device = "h100-80gb", price: float | None = None, **given: float | None
) -> Plan:
    """As `astra plan` makes it."""
    shape = shape_of(run.spec.model)
    chosen = gpu(device) if isinstance(device, str) else device
    return make_plan(run, shape, chosen, assume(run.spec, is_gpu=chosen.is_gpu, layers=shape.layers, **given), price)


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    return changed


@pytest.fixture(scope="session")
def plan_of() -> MakePlan:
    return planned
