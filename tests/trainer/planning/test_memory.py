"""Memory: by hand for Qwen3-14B, and what must hold for every run."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astra_api.training_run import TrainingRun
from astra_trainer.planning import GPUS, Plan, gpu

MakeRun = Callable[..., TrainingRun]
MakePlan = Callable[..., Plan]
N = 14_768_307_200  # parameters of Qwen3-14B
LAYER = 330_311_936
V, H, L = 151_936, 5_120, 40


def parts(plan: Plan, phase: str) -> dict[str, int]:
    (found,) = [p for p in plan.memory if p.name == phase]
    assert found.bytes == sum(part.bytes for part in found.parts)
    return {part.name: part.bytes for part in found.parts}


def test_training_by_hand(make_run: MakeRun, plan_of: MakePlan) -> None:
    found = parts(plan_of(make_run()), "training")
    tokens = 10_240
    assert found["weights"] == found["gradients"] == 4 * N // 8
    assert found["Adam moments"] == 8 * N // 8
    assert found["gathered layers"] == 2 * (2 * LAYER + 2 * V * H) + 4 * V * H
    assert found["checkpointed activations"] == 2 * tokens * L * H
    assert found["one layer's activations"] == 3 * tokens * (8 * H + 4 * 5120 + 4 * 1024 + 4 * 17408)
    assert found["logits"] == 3 * 2 * tokens * V
    assert found["reserve"] == 8 * 10**9


def test_rollouts_by_hand(make_run: MakeRun, plan_of: MakePlan) -> None:
    plan = plan_of(make_run())
    assert parts(plan, "rollouts") == {"vLLM's share (gpuMemory)": 64 * 10**9, "reserve": 8 * 10**9}
    # two GPUs hold one copy: twice the share without workspace, less the weights, by 163,840 bytes a token
    assert plan.kv_tokens == (2 * (64 * 10**9 - 3 * 10**9) - 2 * N) // 163_840
    sync = parts(plan, "weight sync")
    assert sync["vLLM's weights"] == N
    assert plan.host_bytes == 12 * N


def test_without_offloading_the_state_stays(make_run: MakeRun, plan_of: MakePlan) -> None:
    kept = plan_of(make_run(verl={"offload": False, "gpuMemory": 0.6}))
    found = parts(kept, "rollouts")
    assert found["weights"] + found["Adam moments"] == 12 * N // 8
    assert found["vLLM's share (gpuMemory)"] == 48 * 10**9
    assert kept.fits
    assert kept.host_bytes == 4 * N  # while the weights are loaded


def test_separate_rollouts_share_nothing_with_training(make_run: MakeRun, plan_of: MakePlan) -> None:
    plan = plan_of(
        make_run(
            trainer={"nodes": 2},
            verl={"rollout": "separate", "rolloutGpus": 8, "maxStaleness": 1, "gpuMemory": 0.9, "offload": False},
        )
    )
    assert [phase.name for phase in plan.memory] == ["training", "rollouts"]
    assert parts(plan, "training")["weights"] == 4 * N // 8
    assert parts(plan, "rollouts") == {"vLLM's share (gpuMemory)": 72 * 10**9, "reserve": 8 * 10**9}
    assert plan.totals.gpus == 16
    assert plan.fits


def test_more_key_value_heads_than_gpus_are_copied(make_run: MakeRun, plan_of: MakePlan) -> None:
    def held(ranks: int) -> float:
        plan = plan_of(make_run(trainer={"nodes": 2}, verl={"tensorParallel": ranks}))
        return ranks * 61e9 - plan.kv_tokens * 163_840 * max(1, ranks / 8)

    assert held(8) == pytest.approx(2 * N, rel=1e-4)
    assert held(16) == pytest.approx(2 * N, rel=1e-4)  # 16 GPUs hold 8 heads twice


def test_the_embedded_engine_keeps_all_on_one_device(make_run: MakeRun, plan_of: MakePlan) -> None:
    run = make_run(
        engine="embedded", verl=None, model={"preset": "tiny"}, trainer={"gpusPerNode": 1},
        rl={"maxPromptTokens": 1024, "maxResponseTokens": 1024},
    )  # fmt: skip
    plan = plan_of(run, "l4")
    found = parts(plan, "training")
    parameters = plan.model.parameters
    assert found["weights"] == found["gradients"] == 4 * parameters
    assert found["Adam moments"] == 8 * parameters
    assert found["weights to sample from"] == 2 * parameters
    tokens = 32768  # of a micro-batch: 2^25 / 1024, more than one sequence
    assert found["logits"] == 3 * 2 * tokens * 1024
    assert plan.fits
    assert plan.totals.gpus == 1


_TP = st.sampled_from([1, 2, 4, 8])
RUNS = st.fixed_dictionaries(
    {
        "model": st.sampled_from([f"Qwen/Qwen3-{size}B" for size in ("0.6", "1.7", "4", "8", "14", "32")]),
        "nodes": st.sampled_from([1, 2, 4, 8]),
        "tensorParallel": _TP,
        "sequenceParallel": _TP,
        "tokensPerGpu": st.integers(1024, 80_000),
        "gpuMemory": st.floats(0.2, 0.9) | st.just(0.9),
        "offload": st.booleans(),
        "prompt": st.integers(256, 32_768),
        "response": st.integers(256, 65_536),
    }
)


def _run(make_run: MakeRun, values: dict[str, Any]) -> TrainingRun:
    verl = ("tensorParallel", "sequenceParallel", "tokensPerGpu", "gpuMemory", "offload")
    return make_run(
        model={"name": values["model"]},
        trainer={"nodes": values["nodes"]},
        rl={"maxPromptTokens": values["prompt"], "maxResponseTokens": values["response"]},
        verl={name: values[name] for name in verl},
    )


@given(RUNS)
@settings(max_examples=60, deadline=None)
def test_more_nodes_never_need_more_of_a_gpu(make_run: MakeRun, plan_of: MakePlan, values: dict[str, Any]) -> None:
    one = plan_of(_run(make_run, values))
    more = plan_of(_run(make_run, values | {"nodes": 2 * values["nodes"]}))
    for before, after in zip(one.memory, more.memory, strict=True):
        assert before.name == after.name
        assert after.bytes <= before.bytes
    assert more.host_bytes <= one.host_bytes
    assert more.kv_tokens == one.kv_tokens
    if one.fits:
        assert more.fits


@given(RUNS, st.integers(0, 50_000))
@settings(max_examples=60, deadline=None)
def test_longer_contexts_never_fit_better(
    make_run: MakeRun, plan_of: MakePlan, values: dict[str, Any], more: int
) -> None:
    short = plan_of(_run(make_run, values))
    long = plan_of(_run(make_run, values | {"response": values["response"] + more}))
    assert long.layout.sequence == short.layout.sequence + more
    if long.fits:
        assert short.fits


@given(RUNS, st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_more_tokens_at_once_need_more_memory(
    make_run: MakeRun, plan_of: MakePlan, values: dict[str, Any], more: int
) -> None:
    few = plan_of(_run(make_run, values))
    many = plan_of(_run(make_run, values | {"tokensPerGpu": values["tokensPerGpu"] + more}))
    assert sum(parts(many, "training").values()) > sum(parts(few, "training").values())
    assert sum(parts(many, "rollouts").values()) == sum(parts(few, "rollouts").values())


@given(RUNS, st.sampled_from(sorted(GPUS)), st.floats(1.0, 4.0))
@settings(max_examples=60, deadline=None)
def test_what_fits_a_gpu_fits_one_with_more_memory(
    make_run: MakeRun, plan_of: MakePlan, values: dict[str, Any], name: str, factor: float
) -> None:
    device = gpu(name)
    larger = device.model_copy(update={"memory": int((device.memory or 0) * factor)})
    run = _run(make_run, values)
    if plan_of(run, device).fits:
        assert plan_of(run, larger).fits


@given(st.integers(64, 8192), st.integers(64, 8192), st.integers(0, 4096), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_embedded_engine_never_needs_less_for_longer(
    make_run: MakeRun, plan_of: MakePlan, prompt: int, response: int, more: int, on_gpu: bool
) -> None:
    def plan(length: int) -> Plan:
        limits = {"maxPromptTokens": prompt, "maxResponseTokens": length}
        run = make_run(
            engine="embedded", verl=None, model={"preset": "tiny"}, rl=limits, trainer={"gpusPerNode": int(on_gpu)}
        )
        return plan_of(run)

    for short, long in zip(plan(response).memory, plan(response + more).memory, strict=True):
        assert long.bytes >= short.bytes


def test_a_division_that_is_impossible_is_refused_by_the_manifest(make_run: MakeRun) -> None:
    with pytest.raises(ValidationError, match="tensorParallel"):
        make_run(verl={"tensorParallel": 3})
