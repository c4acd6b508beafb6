"""What a run needs next: the one reconcile function of TrainingRuns and SynthesisRuns. Pure.

When every gate is open, a run gets its rights, certificates and pool; when the pool serves and the canaries have
spoken, its Job; when that ends, or the run is suspended, the pool is released. Whatever is missing or was changed is
made again, so the operator may be killed at any moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from astra_api.kube import CONFIG_MAP, SECRET, Kind
from astra_operator.accepting import Problem, summary
from astra_operator.actions import Action, Again, Apply, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.conditions import Condition, find, holds, merged
from astra_operator.drift import mended, stamped
from astra_operator.job_end import JobEnd, job_end
from astra_operator.manifests.job import JOB, RAY_JOB, Work, access_objects, job_object, run_object
from astra_operator.manifests.pool import Pool, pool_objects
from astra_operator.pool_view import PoolView, view

_POLL_SECONDS = 20.0  # KubeRay may not be there, so nothing watches its objects, nor claims
_WARNED = {("Accepted", "False"), ("Failed", "True"), ("NetworkIsolated", "False"), ("VolumeShared", "False")}
_TOLD = {("Complete", "True"), ("Suspended", "True")}


@dataclass(frozen=True)
class Phases:
    """What a kind calls the parts of a run's life."""

    waiting: str  # for something outside of it
    starting: str  # its pods
    working: tuple[str, ...]  # its Job says which
    assumed: str  # while the Job runs and has not said yet


TRAINING_PHASES = Phases("Pending", "Provisioning", ("Training", "Evaluating"), "Provisioning")
SYNTHESIS_PHASES = Phases("Pending", "Pending", ("Running",), "Running")


@dataclass(frozen=True)
class Plan:
    """What a run asks for."""

    pool: Pool
    work: Work
    manifest: str  # the run as its Job reads it
    extra: tuple[Apply, ...] = ()
    gates: tuple[Condition, ...] = ()  # all must be True before the Job begins
    suspend: bool = False
    require_isolation: bool = False
    phases: Phases = TRAINING_PHASES


@dataclass(frozen=True)
class Seen:
    """What there is."""

    generation: int
    status: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (plural, name) -> object
    sandbox_pods: tuple[dict[str, Any], ...] = ()
    workers: tuple[dict[str, Any], ...] = ()  # pods of the Job
    problems: tuple[Problem, ...] = ()  # of the spec as it is now; the plan is of what was accepted
    begun: bool = False
    kuberay: bool = True  # whether the cluster knows RayJobs

    @property
    def conditions(self) -> list[dict[str, Any]]:
        return list(self.status.get("conditions") or [])

    @property
    def ended(self) -> bool:
        return has_ended(self.conditions)

    def job_kind(self, work: Work) -> Kind:
        """Of the Job that there is, else of the one to be made: `trainer.nodes` counts from the next start."""
        return next((kind for kind in (JOB, RAY_JOB) if (kind.plural, work.name) in self.objects), work.job_kind)

    def job(self, work: Work) -> dict[str, Any] | None:
        return self.objects.get((self.job_kind(work).plural, work.name))


def has_ended(conditions: list[dict[str, Any]]) -> bool:
    """Whether a run ended for good; one whose spec was refused begins when the spec is mended."""
    failed = find(conditions, "Failed")
    refused = failed is not None and failed["reason"] == "InvalidSpec"
    return holds(conditions, "Complete") or (holds(conditions, "Failed") and not refused)


def is_over(body: Mapping[str, Any]) -> bool:
    """Whether a run has ended and its pool is released: nothing is left to do, whatever happens to its objects."""
    status = body.get("status") or {}
    sandboxes = status.get("sandboxes") or {}
    return has_ended(status.get("conditions") or []) and not sandboxes.get("wanted") and not sandboxes.get("ready")


def reconcile_run(plan: Plan | None, seen: Seen, now: datetime) -> list[Action]:
    """The next actions. Without a plan nothing of the run was ever accepted."""
    if plan is None:
        failed = Condition("Failed", "True", "InvalidSpec", summary(list(seen.problems)))
        return _report(seen, "Failed", [_acceptance(seen), failed], None, now)
    end = None if seen.ended else _end(plan.work, seen)
    over = seen.ended or end is not None
    working = [pod for pod in seen.workers if not _finished(pod)]
    waiting = seen.job(plan.work) is None and any(gate.status != "True" for gate in plan.gates)
    if (over or plan.suspend or waiting) and not working:
        plan = replace(plan, pool=replace(plan.pool, replicas=0))
    pool = view(plan.pool.replicas, seen.sandbox_pods)
    job_actions, phase = _job(plan, seen, pool, end, working)
    conditions = [_acceptance(seen), *pool.conditions(), *plan.gates]
    if not seen.ended:
        conditions += _ends(end, phase, plan)
    return [*_provide(plan, seen), *job_actions, *_report(seen, phase, conditions, pool, now)]


def _end(work: Work, seen: Seen) -> JobEnd | None:
    return job_end(work, seen.job_kind(work), seen.job(work), seen.workers, seen.kuberay)


def _acceptance(seen: Seen) -> Condition:
    if not seen.problems:
        return Condition("Accepted", "True", "Accepted", "every field is as it should be")
    if not seen.begun:
        return Condition("Accepted", "False", "InvalidSpec", summary(list(seen.problems)))
    message = f"{summary(list(seen.problems))}; the run goes on as it was accepted"
    return Condition("Accepted", "False", "ImmutableField", message)


def _provide(plan: Plan, seen: Seen) -> list[Action]:
    """Rights, certificates and pool, as far as they are missing or differ. The pods come last: they start shut in.

    A pool that is not needed is made smaller if it exists; nothing is made for it.
    """
    released = plan.pool.replicas == 0
    actions: list[Action] = []
    if (SECRET.plural, plan.pool.secret) not in seen.objects and not released:
        actions.append(CreateCertificates(plan.pool.secret, plan.pool.name))
    for wanted in [*access_objects(plan.work), *plan.extra, *pool_objects(plan.pool)]:
        found = seen.objects.get((wanted.kind.plural, wanted.manifest["metadata"]["name"]))
        if found is not None or not released:
            actions += mended(wanted, found)
    return actions


def _job(
    plan: Plan, seen: Seen, pool: PoolView, end: JobEnd | None, working: list[dict[str, Any]]
) -> tuple[list[Action], str]:
    """What becomes of the Job, and the phase."""
    kind, name, job = seen.job_kind(plan.work), plan.work.name, seen.job(plan.work)
    poll: list[Action] = [Again(_POLL_SECONDS)] if kind == RAY_JOB else []
    if seen.ended:
        return [], "Succeeded" if holds(seen.conditions, "Complete") else "Failed"
    if end is not None:
        return _no_further_try(plan, kind, job, end), "Succeeded" if end.succeeded else "Failed"
    if plan.suspend:
        if job is None and not working:
            return [], "Suspended"
        stop = job is not None and not job["metadata"].get("deletionTimestamp")
        return [Delete(kind, name, job["metadata"]["uid"])] if stop and job else [], _phase(plan, seen, working)
    if job is not None:
        return poll, _phase(plan, seen, working)
    if any(gate.status != "True" for gate in plan.gates):
        return poll, plan.phases.waiting
    isolated = pool.isolated is not None and (pool.isolated or not plan.require_isolation)
    if working or not pool.serves or not isolated:  # two trainers would share a directory
        return [], plan.phases.starting
    accepted = run_object(plan.work, plan.manifest)
    begin = mended(accepted, seen.objects.get((CONFIG_MAP.plural, name)))
    return [*begin, Apply(kind, stamped(job_object(plan.work).manifest))], plan.phases.starting


def _no_further_try(plan: Plan, kind: Kind, job: dict[str, Any] | None, end: JobEnd) -> list[Action]:
    """Stops a Job whose input is at fault before it tries again; its pods stay, to be read."""
    if end.reason != "BadInput" or job is None or job["spec"].get("parallelism", 1) == 0:
        return []
    if RAY_JOB in (kind, plan.work.job_kind):  # that one has made its tries, or this Job is not of the plan
        return []
    manifest = job_object(plan.work).manifest
    return [Apply(JOB, stamped({**manifest, "spec": {**manifest["spec"], "parallelism": 0}}))]


def _phase(plan: Plan, seen: Seen, working: list[dict[str, Any]]) -> str:
    """While there is a Job: what it said last, as long as a pod of it runs."""
    said = seen.status.get("phase")
    running = any((pod.get("status") or {}).get("phase") == "Running" for pod in working)
    if running and said in plan.phases.working:
        return str(said)
    return plan.phases.assumed if running else plan.phases.starting


def _ends(end: JobEnd | None, phase: str, plan: Plan) -> list[Condition]:
    """Complete, Failed and, of what can be suspended, Suspended."""
    complete = Condition("Complete", "False", "NotFinished")
    failed = Condition("Failed", "False", "NotFailed")
    if end is not None and end.succeeded:
        complete = Condition("Complete", "True", end.reason, end.message)
    elif end is not None:
        failed = Condition("Failed", "True", end.reason, end.message)
    if plan.phases is not TRAINING_PHASES:
        return [complete, failed]
    if phase == "Suspended":
        return [complete, failed, Condition("Suspended", "True", "Suspended", "spec.suspend is true")]
    return [complete, failed, Condition("Suspended", "False", "NotSuspended")]


def _report(seen: Seen, phase: str, conditions: list[Condition], pool: PoolView | None, now: datetime) -> list[Action]:
    """The status, if it changed, and an event for each change that a person should know."""
    status: dict[str, Any] = {"phase": phase, "conditions": merged(seen.conditions, conditions, seen.generation, now)}
    if pool is not None:
        lost = max(pool.restarts, (seen.status.get("sandboxes") or {}).get("lost") or 0)
        status["sandboxes"] = {"ready": pool.ready, "wanted": pool.wanted, "lost": lost}
    actions: list[Action] = []
    if any(seen.status.get(key) != value for key, value in status.items()):
        actions.append(PatchStatus(status))
    for condition in conditions:
        before = find(seen.conditions, condition.type)
        if before is not None and (before["status"], before["reason"]) == (condition.status, condition.reason):
            continue
        if (condition.type, condition.status) in _WARNED:
            actions.append(Emit("Warning", condition.reason, condition.message))
        elif (condition.type, condition.status) in _TOLD:
            actions.append(Emit("Normal", condition.reason, condition.message))
    return actions


def _finished(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
