"""What does not fit is named with a fix, and the fix works."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_api.pod_costs import COSTS
from astra_api.training_run import TrainingRun
from astra_trainer.planning import Device, Plan, cpu

MakeRun = Callable[..., TrainingRun]
MakePlan = Callable[..., Plan]


def problems(plan: Plan) -> dict[str, str]:
    assert plan.fits == (not plan.problems)
    return {problem.field: problem.message for problem in plan.problems}


def warned(plan: Plan) -> dict[str, str]:
    return {warning.field: warning.message for warning in plan.warnings}


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"verl": {"sequenceParallel": 4}}, "spec.verl.tokensPerGpu", "raise sequenceParallel to 8"),
    ({"verl": {"tokensPerGpu": 1024}}, "spec.verl.tokensPerGpu", "raise tokensPerGpu to 9472"),
    ({"verl": {"tokensPerGpu": 40960}}, "spec.verl.tokensPerGpu", "set sequenceParallel: 8 and tokensPerGpu: 9472"),
    ({"verl": {"offload": False}}, "spec.verl.gpuMemory", "set offload: true"),
    ({"verl": {"gpuMemory": 0.95}}, "spec.verl.gpuMemory", "lower gpuMemory to 0.9"),
    ({"verl": {"tensorParallel": 1, "gpuMemory": 0.45}}, "spec.verl.tensorParallel", "raise it to 2"),
    ({"verl": {"packing": False}}, "spec.verl.packing", "set packing: true"),
    (
        {"model": {"name": "Qwen/Qwen3-32B"}, "verl": {"tokensPerGpu": 16384}},
        "spec.verl.tokensPerGpu",
        "raise spec.trainer.nodes to 2, and set sequenceParallel: 8 and tokensPerGpu: 9472",
    ),
    ({"model": {"name": "Qwen/Qwen3-32B"}}, "spec.verl.tokensPerGpu", "raise spec.trainer.nodes to 2"),
    ({"sandboxes": {"sessionsPerPod": 4}}, "spec.sandboxes.sessionsPerPod", "at least 16"),
    ({"trainer": {"resources": {"limits": {"memory": "100Gi"}}}}, "spec.trainer.resources.limits.memory", "166Gi"),
    ({"rl": {"batchSize": 8}, "trainer": {"nodes": 16}}, "spec.rl.batchSize", "a multiple of 16"),
    ({"sft": {"dataset": {"type": "gold"}, "batchSize": 3}, "trainer": {"nodes": 2}}, "spec.sft.batchSize", "of 2"),
    ({"checkpoint": {"stateEvery": 4}}, "spec.checkpoint.snapshotEvery", "give 12"),
    ({"checkpoint": {"size": "1Ti", "snapshotEvery": 1, "stateEvery": 1}}, "spec.checkpoint.size", "4347Gi"),
]


@pytest.mark.parametrize(("changes", "field", "fix"), CASES, ids=[f"{field}-{fix}" for _, field, fix in CASES])
def test_what_does_not_fit_is_named_with_a_fix(
    make_run: MakeRun, plan_of: MakePlan, changes: dict[str, Any], field: str, fix: str
) -> None:
    found = problems(plan_of(make_run(**changes)))
    assert fix in found[field]


def test_the_base_fits(make_run: MakeRun, plan_of: MakePlan) -> None:
    assert problems(plan_of(make_run())) == {}


def test_heads_that_cannot_be_shared(make_run: MakeRun, plan_of: MakePlan) -> None:
    # 40 heads: 16 GPUs cannot share them, 8 can
    run = make_run(trainer={"nodes": 2}, verl={"tensorParallel": 16, "sequenceParallel": 16})
    found = problems(plan_of(run))
    assert "use 8" in found["spec.verl.tensorParallel"]
    assert "use 8" in found["spec.verl.sequenceParallel"]


FIXES = {
    r"raise tokensPerGpu to (\d+)": ("tokensPerGpu",),
    r"raise sequenceParallel to (\d+)": ("sequenceParallel",),
    r"set sequenceParallel: (\d+) and tokensPerGpu: (\d+)": ("sequenceParallel", "tokensPerGpu"),
    r"set offload: (true)": ("offload",),
    r"lower gpuMemory to ([\d.]+)": ("gpuMemory",),
    r"raise (?:it|tensorParallel) to (\d+)": ("tensorParallel",),
    r"set tensorParallel: (\d+) and gpuMemory: ([\d.]+)(?: with offload: (true))?": (
        "tensorParallel", "gpuMemory", "offload",
    ),
    r"raise spec\.trainer\.nodes to (\d+)": ("nodes",),
}  # fmt: skip


def fixed(message: str) -> dict[str, Any]:
    """The fields that a message says to set."""
    found: dict[str, Any] = {}
    for pattern, names in FIXES.items():
        if match := re.search(pattern, message):
            given = zip(names, match.groups(), strict=True)
            found |= {name: True if value == "true" else float(value) for name, value in given if value is not None}
    return found


@given(
    model=st.sampled_from([f"Qwen/Qwen3-{size}B" for size in ("0.6", "4", "8", "14", "32")]),
    verl=st.fixed_dictionaries(
        {
            "tensorParallel": st.sampled_from([1, 2, 4, 8]),
            "sequenceParallel": st.sampled_from([1, 2, 4, 8]),
            "tokensPerGpu": st.integers(1024, 80_000),
            "gpuMemory": st.floats(0.1, 1.0),
            "offload": st.booleans(),
        }
    ),
    response=st.integers(1024, 60_000),
    device=st.sampled_from(["h100-80gb", "h200", "l40s", "a100-40gb"]),
    apart=st.sampled_from([0, 0, 2, 4]),
)
@settings(max_examples=150, deadline=None)
def test_each_fix_works(
    make_run: MakeRun, plan_of: MakePlan, model: str, verl: dict[str, Any], response: int, device: str, apart: int
) -> None:
    if apart:
        verl = verl | {"rollout": "separate", "rolloutGpus": apart, "maxStaleness": 1}
        verl |= {"sequenceParallel": 1, "tensorParallel": min(apart, verl["tensorParallel"])}
    base: dict[str, Any] = {"model": {"name": model}, "rl": {"maxPromptTokens": 4096, "maxResponseTokens": response}}
    before = plan_of(make_run(verl=verl, **base), device)
    for problem in before.problems:
        if problem.field == "spec.rl.batchSize":  # 6 of 8 GPUs train
            continue
        changes = fixed(problem.message)
        if not changes:
            assert re.search(r"take GPUs with more memory|lower spec\.rl", problem.message)
            continue
        trainer = {"nodes": changes.pop("nodes", 1)}
        after = plan_of(make_run(verl={**verl, **changes}, trainer=trainer, **base), device)
        again = [found for found in after.problems if found.field == problem.field]
        same = [found for found in again if found.message.split(";")[0] == problem.message.split(";")[0]]
        assert same == []
        if "sequence may have" in problem.message:
            assert not any("sequence may have" in found.message for found in after.problems)
        if "GB in " in problem.message:
            phase = problem.message.split("GB in ")[1].split(",")[0]
            assert not any(f"GB in {phase}," in found.message for found in after.problems)
        if "KV cache" in problem.message:
            assert not any("leaves a KV cache" in found.message for found in after.problems)


def test_what_works_but_not_well_is_a_warning(make_run: MakeRun, plan_of: MakePlan) -> None:
    said = warned(plan_of(make_run()))["spec.rl.maxResponseTokens"]
    assert "40,960 positions" in said
    assert "spec.model.context: 74752" in said
    stretched = make_run(model={"name": "Qwen/Qwen3-14B", "context": 74752})
    assert "spec.rl.maxResponseTokens" not in warned(plan_of(stretched))
    short = make_run(rl={"maxPromptTokens": 10_000, "maxResponseTokens": 10_000})
    assert warned(plan_of(short)) == {}
    few = plan_of(make_run(sandboxes={"replicas": 2}))
    assert few.fits
    assert (
        "128 sessions let 64 of 256 rollouts go on at once; raise replicas to 8"
        in warned(few)["spec.sandboxes.replicas"]
    )
    raised = plan_of(make_run(sandboxes={"replicas": 8}))
    assert "spec.sandboxes.replicas" not in warned(raised)
    assert raised.sandboxes.rollouts_at_once == 256
    assert (
        "writing states takes" in warned(plan_of(make_run(checkpoint={"stateEvery": 1})))["spec.checkpoint.stateEvery"]
    )
    crowded = plan_of(make_run(verl={"gpuMemory": 0.5}))
    assert "KV cache holds" in warned(crowded)["spec.verl.gpuMemory"]
    far = plan_of(make_run(trainer={"nodes": 4, "gpusPerNode": 4}, verl={"tensorParallel": 8}))
    assert "span nodes of 4" in warned(far)["spec.verl.tensorParallel"]


def test_pods_for_the_calls_of_quick_rollouts(make_run: MakeRun, plan_of: MakePlan) -> None:
    run = make_run(model={"name": "Qwen/Qwen3-0.6B"}, sandboxes={"replicas": 8})
    plan = plan_of(run, tokens_per_rollout=10, calls_per_rollout=30, tool_seconds=0.0)
    found = plan.sandboxes
    assert found.peak_calls_per_second > found.pod_calls_per_second == COSTS["gvisor"].calls
    assert found.replicas_for_calls == -(-found.peak_calls_per_second // found.pod_calls_per_second)
    slow = plan_of(run, tokens_per_rollout=10, calls_per_rollout=30, tool_seconds=2.0).sandboxes
    assert slow.pod_calls_per_second == 64 / 2  # no more than its sessions


def test_the_memory_of_a_pod(make_run: MakeRun, plan_of: MakePlan) -> None:
    def plan(memory: str, **sandboxes: Any) -> Plan:
        return plan_of(make_run(sandboxes={"resources": {"limits": {"memory": memory}}, **sandboxes}))

    field = "spec.sandboxes.resources.limits.memory"
    assert field not in problems(plan("1280Mi"))
    assert "64 sessions hold" in problems(plan("768Mi"))[field]
    assert field in problems(plan("1280Mi", sessionsPerPod=512))
    assert field not in problems(plan("512Mi", runtimeClassName=""))  # without a kernel of its own


def test_the_embedded_engine(make_run: MakeRun, plan_of: MakePlan) -> None:
    def plan(device: Device | str, model: dict[str, str], **trainer: Any) -> Plan:
        limits = {"maxPromptTokens": 1024, "maxResponseTokens": 1024}
        return plan_of(make_run(engine="embedded", verl=None, model=model, rl=limits, trainer=trainer), device)

    tiny, large = {"preset": "tiny"}, {"name": "Qwen/Qwen3-8B"}
    assert plan(cpu(2, None), tiny, gpusPerNode=0).fits
    assert plan(cpu(2, 4 * 10**9), tiny, gpusPerNode=0).fits
    assert "raise it" in problems(plan(cpu(2, 10**9), tiny, gpusPerNode=0))["spec.trainer.resources.limits.memory"]
    unlimited = plan(cpu(2, None), large, gpusPerNode=0)
    assert unlimited.fits
    assert "not checked" in warned(unlimited)["spec.trainer.resources.limits.memory"]
    assert "take engine: verl" in problems(plan("h100-80gb", large, gpusPerNode=1))["spec.engine"]
    assert plan("h200", {"name": "Qwen/Qwen3-4B"}, gpusPerNode=1).fits
    assert "one GPU; 7 would idle" in warned(plan("h200", tiny, gpusPerNode=8))["spec.trainer.gpusPerNode"]


def test_verl_on_cpus_is_planned_with_a_warning(make_run: MakeRun, plan_of: MakePlan) -> None:
    run = make_run(
        model={"preset": "tiny"}, trainer={"gpusPerNode": 0}, rl={"maxPromptTokens": 512, "maxResponseTokens": 256},
        verl={"tensorParallel": 1, "sequenceParallel": 1, "offload": False},
    )  # fmt: skip
    plan = plan_of(run, cpu(2, None))
    assert plan.fits
    assert "for tests" in warned(plan)["spec.trainer.gpusPerNode"]
    nodes = make_run(model={"preset": "tiny"}, trainer={"nodes": 2, "gpusPerNode": 0}, verl={"tensorParallel": 1})
    assert "needs GPUs" in problems(plan_of(nodes, cpu(2, None)))["spec.trainer.nodes"]
    shared = make_run(model={"preset": "tiny"}, trainer={"gpusPerNode": 0}, verl={"tensorParallel": 2})
    assert "the trainer has none; set it to 1" in problems(plan_of(shared, cpu(2, None)))["spec.verl.tensorParallel"]
    assert plan.totals.gpu_hours == 0
