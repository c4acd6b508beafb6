"""The sandbox pods that a run's rollouts want, against those it has."""

import math

from astra_api.pod_costs import COSTS, pod_memory
from astra_api.records import Record
from astra_api.training_run import Rl, Sandboxes
from astra_trainer.planning.assumptions import Assumptions


class SandboxPlan(Record):
    """Sessions, pods and calls."""

    replicas: int
    capacity: int
    """Sessions that all pods hold."""
    wanted: int
    """Sessions with which all rollouts of a step run at once."""
    rollouts_at_once: int
    """That the trainer starts, for the capacity."""
    containment: str
    calls_per_second: float = 0.0
    """While rollouts go on, on average."""
    peak_calls_per_second: float = 0.0
    """With all rollouts under way."""
    pod_calls_per_second: float
    """What one pod answers: measured, and no more than its sessions allow."""
    pod_memory: int
    """Bytes that a full pod holds."""
    sessions_per_gib: int
    replicas_for_sessions: int
    replicas_for_calls: int = 1


def plan_sandboxes(sandboxes: Sandboxes, rl: Rl, assumptions: Assumptions) -> SandboxPlan:
    """All but the calls a second, which follow from the times."""
    capacity = sandboxes.replicas * sandboxes.sessions_per_pod
    wanted = assumptions.sessions_per_rollout * rl.batch_size
    groups = max(1, capacity // (assumptions.sessions_per_rollout * rl.group_size))  # as the trainer reckons
    containment = sandboxes.expected_containment
    rate = float(COSTS[containment].calls)
    if assumptions.tool_seconds:
        rate = min(rate, sandboxes.sessions_per_pod / assumptions.tool_seconds)
    return SandboxPlan(
        replicas=sandboxes.replicas,
        capacity=capacity,
        wanted=wanted,
        rollouts_at_once=min(groups * rl.group_size, rl.batch_size),
        containment=containment,
        pod_calls_per_second=rate,
        pod_memory=pod_memory(containment, sandboxes.sessions_per_pod),
        sessions_per_gib=COSTS[containment].sessions_per_gib,
        replicas_for_sessions=math.ceil(wanted / sandboxes.sessions_per_pod),
    )


def with_calls(plan: SandboxPlan, mean: float, peak: float) -> SandboxPlan:
    """The plan with its calls a second."""
    return plan.model_copy(
        update={
            "calls_per_second": mean,
            "peak_calls_per_second": peak,
            "replicas_for_calls": max(1, math.ceil(peak / plan.pod_calls_per_second)),
        }
    )
