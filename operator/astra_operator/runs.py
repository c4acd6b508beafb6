"""What a run needs next: the one reconcile function of TrainingRuns and SynthesisRuns. Pure.

When every gate is open, a run gets its rights, certificates and pool; when the pool serves and the canaries have
spoken, its Job; when that ends, or the run is suspended, the pool is released. A run in a queue of Kueue's has its Job
first, suspended; once Kueue lets it go, the pool is made, and the Job's pods wait at a scheduling gate until the pool
serves. Whatever is missing or was changed is made again, so the operator may be killed at any moment.

Pausing and the status come first: nothing that the API refuses to make keeps a run from being stopped and told of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from astra_api.canonical import digest
from astra_api.kube import SECRET, Kind
from astra_operator.accepting import Problem, summary
from astra_operator.actions import Action, Again, Apply, CreateCertificates, Delete, Emit, OpenGate, PatchStatus
from astra_operator.begun import Begun, begin, objects_of_pool, with_pool
from astra_operator.conditions import Condition, find, holds, merged
from astra_operator.drift import mended, stamped
from astra_operator.job_end import JobEnd, job_end
from astra_operator.manifests.identity import KINDS
from astra_operator.manifests.job import GATE, JOB, RAY_JOB, Work, access_objects, job_object, run_object
from astra_operator.manifests.pool import Pool
from astra_operator.ownership import Foreign, advice
from astra_operator.pool_view import PoolView, view
from astra_operator.settings import OperatorSettings

_POLL_SECONDS = 20.0  # KubeRay may not be there, so nothing watches its objects, nor claims, nor what was refused
_COLLECTED_SECONDS = 2.0  # until the objects of an earlier run may be gone
_WARNED = {
    ("Accepted", "False"), ("Failed", "True"), ("NetworkIsolated", "False"), ("VolumeShared", "False"),
    ("Provisioned", "False"),
}  # fmt: skip
_TOLD = {("Complete", "True"), ("Suspended", "True"), ("Queued", "True")}


@dataclass(frozen=True)
class Phases:
    """What a kind calls the parts of a run's life."""

    waiting: str  # for something outside of it
    starting: str  # its pods
    working: tuple[str, ...]  # its Job says which
    assumed: str  # while the Job runs and has not said yet


TRAINING_PHASES = Phases("Pending", "Provisioning", ("Training", "Evaluating"), "Provisioning")
SYNTHESIS_PHASES = Phases("Pending", "Pending", ("Running",), "Running")
_WORKING = (*TRAINING_PHASES.working, *SYNTHESIS_PHASES.working)


@dataclass(frozen=True)
class Plan:
    """What a run asks for."""

    pool: Pool
    work: Work
    manifest: str  # the run as its Job reads it
    settings: OperatorSettings
    extra: tuple[Apply, ...] = ()
    gates: tuple[Condition, ...] = ()  # all must be True before the Job begins
    suspend: bool = False
    require_isolation: bool = False
    phases: Phases = TRAINING_PHASES
    ttl_seconds: int | None = None  # from the run's end to its deletion
    wish: str = ""  # digest of what a user says of the pool
    begun: Begun[Any] | None = None

    @property
    def pool_objects(self) -> list[Apply]:
        """The objects of the pool, but the Secret with its certificates."""
        return objects_of_pool(self.pool, self.begun, self.wish)

    @property
    def retries_were_raised(self) -> bool:
        """Whether the run has more tries than when its Job was made."""
        before = getattr(getattr(self.begun.run.spec, "trainer", None), "retries", None) if self.begun else None
        return before is not None and self.work.retries > before


@dataclass(frozen=True)
class Seen:
    """What there is."""

    generation: int
    status: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (plural, name) -> object
    foreign: tuple[Foreign, ...] = ()  # objects that have names of ours, and are not ours
    not_created: tuple[str, ...] = ()  # pods that controllers could not create, and the server's words
    sandbox_pods: tuple[dict[str, Any], ...] = ()
    workers: tuple[dict[str, Any], ...] = ()  # pods of the Job
    problems: tuple[Problem, ...] = ()  # of the spec as it is now; the plan is of what was accepted
    begun: bool = False
    kuberay: bool = True  # whether the cluster knows RayJobs

    @property
    def conditions(self) -> list[dict[str, Any]]:
        return list(self.status.get("conditions") or [])

    def job_kind(self, work: Work) -> Kind:
        """Of the Job that there is, else of the one to be made: `trainer.nodes` counts from the next start."""
        return next((kind for kind in (JOB, RAY_JOB) if (kind.plural, work.name) in self.objects), work.job_kind)

    def job(self, work: Work) -> dict[str, Any] | None:
        return self.objects.get((self.job_kind(work).plural, work.name))

    def found(self, wanted: Apply) -> dict[str, Any] | None:
        return self.objects.get(wanted.key)

    def is_foreign(self, kind: Kind, name: str) -> bool:
        return any((one.plural, one.name) == (kind.plural, name) for one in self.foreign)


def has_ended(conditions: list[dict[str, Any]]) -> bool:
    """Whether a run ended; one whose spec was refused begins when the spec is mended."""
    failed = find(conditions, "Failed")
    refused = failed is not None and failed["reason"] == "InvalidSpec"
    return holds(conditions, "Complete") or (holds(conditions, "Failed") and not refused)


def is_over(body: Mapping[str, Any]) -> bool:
    """Whether a run is complete, its pool is released, nothing was changed since and its deletion is not due: nothing
    is left to do, whatever happens to its objects. A failed run may be told to go on."""
    status = body.get("status") or {}
    sandboxes = status.get("sandboxes") or {}
    released = not sandboxes.get("wanted") and not sandboxes.get("ready")
    unchanged = status.get("observedGeneration") == body["metadata"].get("generation")
    stays = (body.get("spec") or {}).get("ttlSecondsAfterFinished") is None
    return holds(status.get("conditions") or [], "Complete") and released and unchanged and stays


@dataclass(frozen=True)
class _State:
    """How a run stands, as the parts of a reconcile share it."""

    plan: Plan
    seen: Seen
    kind: Kind  # of its Job
    job: dict[str, Any] | None
    working: list[dict[str, Any]]  # pods of the Job that have not ended
    ended: bool
    resumes: bool  # it failed, and is to go on
    end: JobEnd | None  # just reached

    @cached_property
    def pool(self) -> PoolView:
        return view(self.plan.pool.replicas, self.seen.sandbox_pods)

    @property
    def over(self) -> bool:
        return self.ended or self.end is not None

    @property
    def gated(self) -> bool:
        return any(gate.status != "True" for gate in self.plan.gates)

    @property
    def queued(self) -> bool:
        """Whether Kueue holds the Job back."""
        return self.plan.work.queue is not None and self.job is not None and bool(self.job["spec"].get("suspend"))

    @property
    def preempted(self) -> bool:
        """Whether Kueue let it run before."""
        suspended = find(self.seen.conditions, "Suspended") or {}
        return self.queued and (holds(self.seen.conditions, "QuotaReserved") or suspended.get("reason") == "Preempted")

    @property
    def admissible(self) -> bool:
        """Whether the pool serves, and its network is as the run demands."""
        pool = self.pool
        return pool.serves and pool.isolated is not None and (pool.isolated or not self.plan.require_isolation)


def reconcile_run(plan: Plan | None, seen: Seen, now: datetime) -> list[Action]:
    """The next actions, those that pause and tell first. Without a plan nothing of the run was ever accepted."""
    if plan is None:
        failed = Condition("Failed", "True", "InvalidSpec", summary(list(seen.problems)))
        return _report(seen, "Failed", [_acceptance(seen), failed], None, {}, now)
    state = _state(plan, seen)
    stops, starts, phase = _job(state)
    conditions = [_acceptance(seen), *state.pool.conditions(), *plan.gates, *_queue(state)]
    if not state.ended:
        conditions += _ends(state, phase)
    kept, status = _keep(state, starts)
    return [
        *stops,
        *_report(seen, phase, conditions, state.pool, status, now),
        *_provide(state),
        *kept,
        *starts,
        *_expire(state, now),
        *_look_again(state),
    ]


def provisioned(
    seen: Seen, actions: list[Action], refusals: list[str], now: datetime, *, passing: bool = False
) -> list[Action]:
    """The actions that tell of objects that could not be made or changed, after `actions` were carried out.

    `passing` says that one of them failed in a way that may pass: then nothing is known to be as it should be.
    """
    status, refusals = dict(seen.status), [*refusals, *seen.not_created]
    for action in actions:
        if isinstance(action, PatchStatus):
            status |= action.status
    before = find(status.get("conditions") or [], "Provisioned")
    if seen.foreign:
        earlier = all(one.earlier for one in seen.foreign)
        reason = "Collecting" if earlier else "ForeignObject"
        condition = Condition("Provisioned", "False", reason, "; ".join(map(advice, seen.foreign)))
    elif refusals:
        condition = Condition("Provisioned", "False", "Refused", "; ".join(refusals))
    elif passing:
        return []
    elif before is not None or any(isinstance(action, Apply) for action in actions):
        condition = Condition("Provisioned", "True", "Provisioned", "every object is as it should be")
    else:
        return []
    again: list[Action] = [Again(_POLL_SECONDS)] if refusals else []
    conditions = merged(status.get("conditions") or [], [condition], seen.generation, now)
    if conditions == list(status.get("conditions") or []):
        return again
    said = (before or {}).get("status") == condition.status and (before or {}).get("message") == condition.message
    tells = condition.status == "False" and condition.reason != "Collecting" and not said
    emitted = [Emit("Warning", condition.reason, condition.message)] if tells else []
    return [PatchStatus({"conditions": conditions}), *emitted, *again]


def _state(plan: Plan, seen: Seen) -> _State:
    failed = holds(seen.conditions, "Failed") and not holds(seen.conditions, "Complete")
    resumes = failed and has_ended(seen.conditions) and (plan.suspend or plan.retries_were_raised)
    ended = has_ended(seen.conditions) and not resumes
    kind, job = seen.job_kind(plan.work), seen.job(plan.work)
    end = None if ended or resumes else job_end(plan.work, kind, job, seen.workers, seen.kuberay)
    working = [pod for pod in seen.workers if not _finished(pod)]
    state = _State(plan, seen, kind, job, working, ended, resumes, end)
    waiting = job is None and (state.gated or plan.work.queue is not None)
    if (state.over or plan.suspend or resumes or waiting or state.queued) and not working:
        return replace(state, plan=replace(plan, pool=replace(plan.pool, replicas=0)))
    return state


def _acceptance(seen: Seen) -> Condition:
    if not seen.problems:
        return Condition("Accepted", "True", "Accepted", "every field is as it should be")
    if not seen.begun:
        return Condition("Accepted", "False", "InvalidSpec", summary(list(seen.problems)))
    message = f"{summary(list(seen.problems))}; the run goes on as it was accepted"
    return Condition("Accepted", "False", "ImmutableField", message)


def _provide(state: _State) -> list[Action]:
    """Rights, certificates and pool, as far as they are missing or differ. The pods come last: they start shut in.

    A pool that is not needed is made smaller if it exists; nothing is made for it. Where something of a name of ours is
    not ours, no pod starts.
    """
    plan, seen = state.plan, state.seen
    released = plan.pool.replicas == 0
    enqueues = state.job is None and plan.work.queue is not None and not (state.gated or plan.suspend or state.over)
    actions: list[Action] = []
    secret = (SECRET.plural, plan.pool.secret)
    if secret not in seen.objects and not seen.is_foreign(SECRET, plan.pool.secret) and not released:
        actions.append(CreateCertificates(plan.pool.secret, plan.pool.name))
    for wanted in [*access_objects(plan.work), *plan.extra]:
        if seen.found(wanted) is not None or not released or enqueues:
            actions += _mended(seen, wanted)
    for wanted in plan.pool_objects:
        if seen.found(wanted) is not None or not released:
            actions += _mended(seen, wanted)
    return actions


def _mended(seen: Seen, wanted: Apply) -> list[Apply]:
    """What makes an object as it should be; nothing where it is not ours, or would start pods among such objects."""
    starts = wanted.manifest["kind"] == "StatefulSet" and wanted.manifest["spec"]["replicas"] > 0
    if seen.is_foreign(wanted.kind, wanted.key[1]) or (seen.foreign and starts):
        return []
    return mended(wanted, seen.found(wanted))


def _job(state: _State) -> tuple[list[Action], list[Action], str]:
    """What stops the Job, what starts it, and the phase."""
    plan, seen, job = state.plan, state.seen, state.job
    if state.ended:
        return [], [], "Succeeded" if holds(seen.conditions, "Complete") else "Failed"
    if state.end is not None:
        return _no_further_try(state, state.end), [], "Succeeded" if state.end.succeeded else "Failed"
    if (plan.suspend or state.resumes) and (job is not None or state.working):
        stop = job is not None and not job["metadata"].get("deletionTimestamp")
        stops: list[Action] = [Delete(state.kind, plan.work.name, job["metadata"]["uid"])] if stop and job else []
        return stops, [], _phase(state)
    if plan.suspend:
        return [], [], "Suspended"
    if job is not None:
        return [], _opened_gates(state), _phase(state)
    if state.gated:
        return [], [], plan.phases.waiting
    if state.working or seen.foreign:  # two trainers would share a directory
        return [], [], plan.phases.starting
    if plan.work.queue is None and not state.admissible:
        return [], [], plan.phases.starting
    phase = plan.phases.waiting if plan.work.queue is not None else plan.phases.starting
    return [], [Apply(plan.work.job_kind, stamped(job_object(plan.work).manifest))], phase


def _keep(state: _State, starts: list[Action]) -> tuple[list[Action], dict[str, Any]]:
    """The ConfigMap of a run that begins, or whose pool was changed, with its digest for the status."""
    plan, seen, before = state.plan, state.seen, state.plan.begun
    lost = before is None and state.job is not None and not state.over  # somebody changed or deleted it
    if lost or any(isinstance(action, Apply) for action in starts):
        data = begin(plan.manifest, plan.settings, plan.pool, plan.wish, before)
    elif before is not None and before.wish != plan.wish and plan.pool.replicas:
        data = with_pool(before, plan.pool, plan.wish)
    else:
        return [], {}
    wanted = run_object(plan.work, data)
    if seen.is_foreign(*wanted.target):
        return [], {}
    return [*mended(wanted, seen.found(wanted))], {"begun": digest(data)}


def _opened_gates(state: _State) -> list[Action]:
    """Lets the pods of a Job that Kueue admitted be scheduled, once their sandboxes serve."""
    if not state.admissible or state.plan.suspend:
        return []
    opened: list[Action] = []
    for pod in state.working:
        gates = (pod.get("spec") or {}).get("schedulingGates") or []
        others = tuple(gate for gate in gates if gate.get("name") != GATE)
        if len(others) < len(gates):
            opened.append(OpenGate(pod["metadata"]["name"], pod["metadata"]["uid"], others))
    return opened


def _no_further_try(state: _State, end: JobEnd) -> list[Action]:
    """Stops a Job whose input is at fault before it tries again; its pods stay, to be read."""
    job = state.job
    if end.reason != "BadInput" or job is None or job["spec"].get("parallelism", 1) == 0:
        return []
    if RAY_JOB in (state.kind, state.plan.work.job_kind):  # it has made its tries, or this Job is not of the plan
        return []
    manifest = job_object(state.plan.work).manifest
    spec = {key: value for key, value in manifest["spec"].items() if key != "suspend"}  # Kueue has it now
    stopped = stamped({**manifest, "spec": {**spec, "parallelism": 0}})
    return [Apply(JOB, stopped, job["metadata"]["uid"])]


def _phase(state: _State) -> str:
    """While there is a Job: what it said last, as long as a pod of it runs."""
    phases, said = state.plan.phases, state.seen.status.get("phase")
    running = any((pod.get("status") or {}).get("phase") == "Running" for pod in state.working)
    if running and said in phases.working:
        return str(said)
    if running:
        return phases.assumed
    if state.queued and not state.working:
        return "Suspended" if state.preempted else phases.waiting
    return phases.starting


def _queue(state: _State) -> list[Condition]:
    """Whether Kueue holds the run back; nothing of a run without a queue."""
    queue = state.plan.work.queue
    if queue is None:
        return []
    if state.queued:
        why = "Preempted" if state.preempted else "WaitingForAdmission"
        message = f"the run waits in Kueue's queue {queue}"
        return [Condition("Queued", "True", why, message), Condition("QuotaReserved", "False", why, message)]
    if state.job is not None and not state.over:
        message = f"Kueue let the run go in queue {queue}"
        return [
            Condition("Queued", "False", "Admitted", message),
            Condition("QuotaReserved", "True", "Admitted", message),
        ]
    return [Condition("Queued", "False", "NotQueued"), Condition("QuotaReserved", "False", "NotQueued")]


def _ends(state: _State, phase: str) -> list[Condition]:
    """Complete, Failed and, of what can be suspended, Suspended."""
    end = state.end
    complete = Condition("Complete", "False", "NotFinished")
    failed = Condition("Failed", "False", "Resumed" if state.resumes else "NotFailed")
    if end is not None and end.succeeded:
        complete = Condition("Complete", "True", end.reason, end.message)
    elif end is not None:
        failed = Condition("Failed", "True", end.reason, end.message)
    if state.plan.phases is not TRAINING_PHASES:
        return [complete, failed]
    if state.preempted:
        message = "Kueue took the run's quota away; it goes on from its checkpoint when it has it again"
        return [complete, failed, Condition("Suspended", "True", "Preempted", message)]
    if phase == "Suspended":
        return [complete, failed, Condition("Suspended", "True", "Suspended", "spec.suspend is true")]
    return [complete, failed, Condition("Suspended", "False", "NotSuspended")]


def _readiness(phase: str, failed: Condition | None) -> list[Condition]:
    """Ready and Stalled, as kstatus, Argo CD and Flux read them: it does its work or has done it; it needs a person."""
    ready = phase == "Succeeded" or phase in _WORKING
    stalled = phase == "Failed"
    why = failed.reason if stalled and failed is not None else "NotStalled"
    message = failed.message if stalled and failed is not None else ""
    return [
        Condition("Ready", "True" if ready else "False", phase, message),
        Condition("Stalled", "True" if stalled else "False", why, message),
    ]


def _report(
    seen: Seen,
    phase: str,
    conditions: list[Condition],
    pool: PoolView | None,
    further: Mapping[str, Any],
    now: datetime,
) -> list[Action]:
    """The status, if it changed, and an event for each change that a person should know."""
    failed = next((one for one in conditions if one.type == "Failed" and one.status == "True"), None)
    known = find(seen.conditions, "Failed")
    if failed is None and phase == "Failed" and known is not None:
        failed = Condition("Failed", "True", known["reason"], known.get("message", ""))
    conditions = [*conditions, *_readiness(phase, failed)]
    status: dict[str, Any] = {
        "phase": phase,
        "observedGeneration": seen.generation,
        "conditions": merged(seen.conditions, conditions, seen.generation, now),
        **further,
    }
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


def _expire(state: _State, now: datetime) -> list[Action]:
    """Deletes a run whose time after its end is up."""
    ttl, owner = state.plan.ttl_seconds, state.plan.pool.owner
    ends = [
        one for kind in ("Complete", "Failed") if (one := find(state.seen.conditions, kind)) and one["status"] == "True"
    ]
    if not state.ended or ttl is None or not ends or owner.uid is None:
        return []
    finished = datetime.strptime(ends[0]["lastTransitionTime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    left = ttl - (now - finished).total_seconds()
    return [Delete(KINDS[owner.kind], owner.name, owner.uid)] if left <= 0 else [Again(left + 1)]


def _look_again(state: _State) -> list[Action]:
    """Where nothing tells of a change."""
    if state.seen.foreign:
        return [Again(_COLLECTED_SECONDS if any(one.earlier for one in state.seen.foreign) else _POLL_SECONDS)]
    waits = state.kind == RAY_JOB and not state.over and not state.plan.suspend
    return [Again(_POLL_SECONDS)] if waits else []


def _finished(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
