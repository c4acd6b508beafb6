"""A cluster in memory, as far as runs need one: it keeps what is applied, and its Jobs and pods do as they are told."""

import copy
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.actions import Action, Again, Apply, CreateCertificates, Delete, Emit, OpenGate, PatchStatus
from astra_operator.begun import read_begun
from astra_operator.manifests.identity import ROLE
from astra_operator.manifests.job import JOB, RAY_JOB
from astra_operator.manifests.pool import CANARY, STATEFUL_SET
from astra_operator.ownership import Foreign
from astra_operator.runs import Plan, Seen, provisioned, reconcile_run

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """One run and what was made for it."""

    plan: Plan | None
    enforced: bool = True  # whether the network enforces policies
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[Emit] = field(default_factory=list)
    now: datetime = NOW
    deleted: bool = False  # the run itself
    jobs_made: int = 0
    problems: tuple[Any, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    not_created: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # kinds that the API refuses to change, and its words
    unavailable: set[str] = field(default_factory=set)  # kinds that it cannot change now

    @property
    def begun(self) -> Any:
        """What the run began with, as its ConfigMap and its status say."""
        if self.plan is None:
            return None
        model = SynthesisRun if self.plan.pool.owner.kind == "SynthesisRun" else TrainingRun
        return read_begun(model, self.objects.get(("configmaps", self.plan.work.name)), self.status)

    def seen(self) -> Seen:
        pods = [copy.deepcopy(pod) for pod in self.pods.values()]
        return Seen(
            generation=self.generation,
            status=copy.deepcopy(self.status),
            objects=copy.deepcopy(self.objects),
            sandbox_pods=tuple(pod for pod in pods if pod["metadata"]["labels"][ROLE] == "sandbox"),
            workers=tuple(pod for pod in pods if pod["metadata"]["labels"][ROLE] != "sandbox"),
            problems=self.problems,
            begun=self.begun is not None,
            foreign=self.foreign,
            not_created=self.not_created,
        )

    def wanted(self) -> list[Action]:
        plan = None if self.plan is None else replace(self.plan, begun=self.begun)
        return reconcile_run(plan, self.seen(), self.now)

    def reconcile(self, killed_after: int | None = None) -> list[Action]:
        """One pass of the operator, which may be killed after some of its actions."""
        seen, actions, refusals = self.seen(), self.wanted(), []
        passing = False
        for action in actions[:killed_after]:
            kind = action.kind.kind if isinstance(action, Apply) else None
            if kind in self.unavailable:
                passing = True
            elif kind in self.refused:
                refusals.append(f"{kind}: {self.refused[kind]}")
            else:
                self.carry_out(action)
        if killed_after is None:
            told = provisioned(seen, actions, refusals, self.now, passing=passing)
            for action in told:
                self.carry_out(action)
            actions = [*actions, *told]
        return actions

    def carry_out(self, action: Action) -> None:
        match action:
            case Apply(kind, manifest, uid):
                key = action.key
                before = self.objects.get(key, {})
                assert before.get("metadata", {}).get("uid") == uid, f"{key}: another object than was seen"
                if kind in (JOB, RAY_JOB) and not before:
                    self.jobs_made += 1
                made = copy.deepcopy(manifest)
                made["metadata"]["uid"] = uid or f"{key[0]}-{self.jobs_made}"
                self.objects[key] = made | {"status": before.get("status", {})}
            case CreateCertificates(name, _):
                self.objects.setdefault(("secrets", name), {"metadata": {"name": name, "uid": name}, "data": {}})
            case Delete(kind, name, uid):
                if self.plan is not None and uid == self.plan.pool.owner.uid:
                    self.deleted = True
                    return
                assert self.objects[kind.plural, name]["metadata"]["uid"] == uid
                del self.objects[kind.plural, name]
            case OpenGate(name, _, others):
                self.pods[name]["spec"]["schedulingGates"] = list(others)
            case PatchStatus(status):
                self.status |= {key: value for key, value in status.items() if value is not None}
            case Emit():
                self.events.append(action)
            case Again():
                pass

    @property
    def job(self) -> dict[str, Any] | None:
        """The Job or RayJob that there is."""
        if self.plan is None:
            return None
        found = (self.objects.get((kind.plural, self.plan.work.name)) for kind in (JOB, RAY_JOB))
        return next((job for job in found if job is not None), None)

    @property
    def replicas(self) -> int:
        found = self.objects.get((STATEFUL_SET.plural, self.plan.pool.name)) if self.plan else None
        return int(found["spec"]["replicas"]) if found else 0

    # what the cluster does by itself

    def settle_sandboxes(self) -> None:
        """The StatefulSet has its pods, their canaries have spoken, and they are ready."""
        names = [f"{self.plan.pool.name}-{number}" for number in range(self.replicas)] if self.plan else []
        for name in [name for name, pod in self.pods.items() if pod["metadata"]["labels"][ROLE] == "sandbox"]:
            if name not in names:
                del self.pods[name]
        targets = ["API server 10.0.0.1:443"]
        said = {"refused": targets if self.enforced else [], "open": [] if self.enforced else targets}
        ended = {"terminated": {"exitCode": 0, "message": json.dumps(said)}}
        for name in names:
            self.pods[name] = {
                "metadata": {"name": name, "labels": {ROLE: "sandbox"}},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "initContainerStatuses": [{"name": CANARY, "state": ended}],
                },
            }

    def run_job(self, phase: str = "Running", exit_code: int | None = None, words: str = "") -> None:
        """The Job has a pod in `phase`."""
        job = self.job
        assert job is not None
        state = {"terminated": {"exitCode": exit_code, "message": words, "finishedAt": "2026"}} if exit_code else {}
        name = f"worker-{job['metadata']['uid']}"
        self.pods[name] = {
            "metadata": {
                "name": name,
                "labels": {ROLE: "trainer"},
                "uid": name,
                "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            },
            "spec": {"schedulingGates": job["spec"]["template"]["spec"].get("schedulingGates", [])}
            if "template" in job["spec"]
            else {},
            "status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]},
        }

    def finish_job(self) -> None:
        self.run_job("Succeeded")
        assert self.job is not None
        complete = {"conditions": [{"type": "Complete", "status": "True"}]}
        self.job["status"] = {"jobStatus": "SUCCEEDED"} if self.job["kind"] == RAY_JOB.kind else complete

    def fail_job(self, words: str) -> None:
        self.run_job("Failed", 1, words)
        assert self.job is not None
        reason = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
        self.job["status"] = {"conditions": [reason]}

    def drop_workers(self) -> None:
        for name in [name for name, pod in self.pods.items() if pod["metadata"]["labels"][ROLE] != "sandbox"]:
            del self.pods[name]

    def condition(self, kind: str) -> dict[str, Any]:
        return next(condition for condition in self.status["conditions"] if condition["type"] == kind)
