"""The operator between the API and its pure core: observes, reconciles, carries out. Handlers tell it what changed."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from astra_api.environment import Environment
from astra_api.kube import CONFIG_MAP, ENVIRONMENT, POD, Kind, Kube, Object, referenced_source
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator import metrics, synthesis, training
from astra_operator.accepting import read
from astra_operator.actions import Action, Again, Apply, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.admission import admit
from astra_operator.begun import Begun, read_begun
from astra_operator.carrying_out import carry_out
from astra_operator.census import Census
from astra_operator.conditions import Condition
from astra_operator.creation import not_created
from astra_operator.environment_watch import Change, EnvironmentWatches
from astra_operator.environments import (
    EnvironmentSeen,
    Verify,
    has_pool,
    reconcile_environment,
)
from astra_operator.farm import Farm, knows_pod_failure_policy
from astra_operator.heartbeat import BEAT_SECONDS, Heartbeat
from astra_operator.manifests.identity import KINDS, OWNER, ROLE, Owner, owner_of
from astra_operator.manifests.job import CLAIM, JOB, RAY_JOB, RBAC_ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from astra_operator.manifests.pool import NETWORK_POLICY, pool_members
from astra_operator.ownership import Foreign, describe_foreign, is_own
from astra_operator.pool_view import is_ready
from astra_operator.runs import Plan, Seen, is_over, provisioned, reconcile_run
from astra_operator.settings import OperatorSettings
from astra_operator.verification_pool import WAKE, VerificationPool
from astra_operator.work_queue import WorkQueue
from astra_sandbox.verification import Verdict

BEAT = "astra.farm/heartbeat"  # annotation of the verification pool's StatefulSet
_VERIFIED_AT_ONCE = 12
_RUNS_AT_ONCE = 4
_LISTED_SOON = 1.0  # seconds until a run looks again whether the Environments of its namespace are known
_SHOW_AFTER = 5.0  # seconds until a verification that takes long shows as phase Verifying
_UPKEEP_SECONDS = 600.0  # between looks at the verification pool, and at runs of which nothing is told
_FIRST_LOOK_SECONDS = 30.0  # until runs are looked at again: what changed before the watches began is told by nobody
_MODELS: dict[str, type[SynthesisRun] | type[TrainingRun]] = {
    "SynthesisRun": SynthesisRun,
    "TrainingRun": TrainingRun,
}
logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """An object to reconcile."""

    kind: str
    namespace: str
    name: str


class Operator:
    """One running operator."""

    def __init__(self, kube: Kube, settings: OperatorSettings) -> None:
        self._kube, self._settings = kube, settings
        version = "policy/v1" if kube.offers("policy/v1") else "policy/v1beta1"
        self.farm = Farm(settings, version, knows_pod_failure_policy(kube.version()))
        self.census = Census()
        self.pool = VerificationPool(kube, self.farm)
        self.heartbeat = Heartbeat()
        self._watches = EnvironmentWatches(kube, settings.watched, self.census, self._environment_told)
        self._opened: set[str] = set()  # uids of runs whose gates were found open on all that there is
        self._phases: dict[Key, str] = {}  # of runs
        self._environments = WorkQueue(self._reconcile_environment, _VERIFIED_AT_ONCE)
        self._runs = WorkQueue(self._reconcile_run, _RUNS_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts working, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._watches.start()
        self._environments.start()
        self._runs.start()
        self._tasks = [asyncio.create_task(loop()) for loop in (self._keep_pool, self._beat, self._look_at_runs)]

    async def stop(self) -> None:
        """Stops at once; whatever was under way is found again by the next operator."""
        self._watches.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._environments.stop()
        await self._runs.stop()
        await self.pool.close()

    # what handlers tell

    def _environment_told(self, change: Change) -> None:
        """In a thread of the watch."""
        with suppress(RuntimeError):  # the loop is closed: the operator has ended
            self._loop.call_soon_threadsafe(self._environment_changed, change)

    def _environment_changed(self, change: Change) -> None:
        if change.unfinished:
            self._environments.add(Key("Environment", change.namespace, change.name))
        if change.counts:
            for run, phase in list(self._phases.items()):
                if phase == "Pending" and (run.kind, run.namespace) == ("TrainingRun", change.namespace):
                    self._runs.add(run)

    def run_changed(self, kind: str, body: Mapping[str, Any], gone: bool) -> None:
        """A run was listed, made, changed or deleted."""
        key = _key(kind, body)
        if not self._settings.serves(key.namespace):
            return
        if gone:
            self._phases.pop(key, None)
            self._opened.discard(body["metadata"]["uid"])
            return
        self._phases[key] = (body.get("status") or {}).get("phase", "Pending")
        if not is_over(body):
            self._runs.add(key)

    def owned_changed(self, body: Mapping[str, Any], gone: bool) -> None:
        """Something that the operator made has changed."""
        owner = owner_of(dict(body))
        if owner is None:
            return
        namespace = body["metadata"]["namespace"]
        if owner == (self.pool.owner.kind, self.pool.owner.name) and namespace == self._settings.namespace:
            self._pool_changed(body, gone)
        elif owner[0] == "Environment":
            self._environments.add(Key(owner[0], namespace, owner[1]))
        elif owner[0] in _MODELS and Key(owner[0], namespace, owner[1]) in self._phases:
            self._runs.add(Key(owner[0], namespace, owner[1]))

    def _pool_changed(self, body: Mapping[str, Any], gone: bool) -> None:
        if body["kind"] == "Pod":
            self.pool.note(dict(body), gone)
            return
        annotations = body["metadata"].get("annotations") or {}
        if mark := annotations.get(BEAT):
            self.heartbeat.seen(mark)
        if mark := annotations.get(WAKE):
            self.pool.wake(mark)

    # the loops

    async def _keep_pool(self) -> None:
        wait = 1.0
        while True:
            try:
                await asyncio.to_thread(self.pool.provide)
                wait = _UPKEEP_SECONDS
            except Exception as error:  # the boundary: without a pool nothing is verified, so it is tried again
                logger.warning("the verification pool: %s", error)
                wait = min(2 * wait, 30.0)
            await self.pool.changed(wait)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            mark = f"{time.time():.3f}"
            try:
                await asyncio.to_thread(self.pool.beat, mark, BEAT)
                self.heartbeat.made(mark)
            except Exception as error:  # the boundary: the API's failure is not the watch's
                logger.warning("no heartbeat: %s", error)

    async def _look_at_runs(self) -> None:
        wait = _FIRST_LOOK_SECONDS
        while True:
            await asyncio.sleep(wait)
            for key, phase in list(self._phases.items()):
                if phase != "Succeeded":
                    self._runs.add(key)
            wait = _UPKEEP_SECONDS

    # environments

    async def _reconcile_environment(self, key: Key) -> float | None:
        seen = await asyncio.to_thread(self._see_environment, key)
        if seen is None:
            return None
        owner, state = seen
        actions = reconcile_environment(state, owner, self.farm, datetime.now(UTC))
        if any(isinstance(action, Verify) for action in actions):
            assert state.environment is not None
            async with self.pool.serving() as serves:
                verdict = await self._verify(owner, state) if serves else self.pool.unserved(state.environment)
            state = replace(state, verdict=verdict)
            actions = reconcile_environment(state, owner, self.farm, datetime.now(UTC))
        changes = [action for action in actions if isinstance(action, Apply | CreateCertificates | Delete)]
        outcome = await asyncio.to_thread(carry_out, self._kube, owner, changes)
        if outcome.refusals:
            state = replace(state, refused=tuple(outcome.refusals))
            actions = reconcile_environment(state, owner, self.farm, datetime.now(UTC))
        again = await self._carry_out(owner, [one for one in actions if isinstance(one, PatchStatus | Emit | Again)])
        outcome.check()
        return again

    def _see_environment(self, key: Key) -> tuple[Owner, EnvironmentSeen] | None:
        body = self._kube.get(ENVIRONMENT, key.namespace, key.name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return None
        owner = Owner(key.kind, key.name, key.namespace, body["metadata"]["uid"])
        found = read(Environment, body)
        state = EnvironmentSeen(body["metadata"]["generation"], body.get("status") or {})
        if isinstance(found, list):
            return owner, EnvironmentSeen(state.generation, state.status, problems=tuple(found))
        state = replace(state, environment=self._resolved(found, key.namespace))
        if not has_pool(body):
            return owner, state
        objects, others = self._objects(owner, pool_members(owner, self.farm.policy_version))
        pods = self._kube.list(POD, key.namespace, f"{OWNER}={owner.base},{ROLE}=sandbox")
        ready = sum(map(is_ready, pods))
        return owner, replace(state, objects=objects, foreign=tuple(others), ready_replicas=ready)

    def _resolved(self, environment: Environment, namespace: str) -> Environment:
        reference = environment.spec.source_ref
        if reference is None:
            return environment
        source = referenced_source(self._kube, namespace, reference)
        return environment if source is None else environment.with_source(source)

    async def _verify(self, owner: Owner, state: EnvironmentSeen) -> Verdict:
        assert state.environment is not None
        began = time.monotonic()
        task = asyncio.create_task(self.pool.verify(state.environment))
        try:
            done, _ = await asyncio.wait({task}, timeout=_SHOW_AFTER)
            if not done and state.status.get("phase") != "Verifying":
                await self._carry_out(owner, [PatchStatus({"phase": "Verifying"})])
            verdict = await task
        finally:
            task.cancel()
        metrics.VERIFICATION_SECONDS.observe(time.monotonic() - began)
        metrics.VERIFICATIONS.labels(verdict.phase, verdict.reason or "").inc()
        return verdict

    # runs

    async def _reconcile_run(self, key: Key) -> float | None:
        if not self._watches.complete(key.namespace):  # rights and gates are of all Environments that there are
            return _LISTED_SOON
        return await asyncio.to_thread(self._run_once, key)

    def _run_once(self, key: Key) -> float | None:
        body = self._kube.get(KINDS[key.kind], key.namespace, key.name)
        if body is None:
            self._phases.pop(key, None)  # deleted while its watch was broken
            return None
        self._phases.setdefault(key, (body.get("status") or {}).get("phase", "Pending"))
        if body["metadata"].get("deletionTimestamp") or is_over(body):
            return None
        owner = Owner(key.kind, key.name, key.namespace, body["metadata"]["uid"])
        model, status = _MODELS[key.kind], body.get("status") or {}
        objects, foreign = self._objects(owner, self._run_children(owner))
        begun: Begun[Any] | None = read_begun(model, objects.get((CONFIG_MAP.plural, owner.base)), status)
        accepted, problems, _ = admit(model, body, None if begun is None else begun.run, self.farm)
        plan = None if accepted is None else self._plan(accepted, owner, begun)
        kuberay = True
        if plan is not None and plan.work.ray:
            kuberay = self._kube.offers(RAY_JOB.api_version)
            rays = [(NETWORK_POLICY, owner.base), *([(RAY_JOB, owner.base)] if kuberay else [])]
            found, others = self._objects(owner, rays)
            objects, foreign = objects | found, [*foreign, *others]
        pods = list(self._kube.list(POD, key.namespace, f"{OWNER}={owner.base}"))
        seen = Seen(
            generation=body["metadata"]["generation"],
            status=status,
            objects=objects,
            foreign=tuple(foreign),
            not_created=not_created(self._kube, owner.namespace, objects.values(), pods),
            sandbox_pods=tuple(pod for pod in pods if pod["metadata"]["labels"].get(ROLE) == "sandbox"),
            workers=tuple(pod for pod in pods if pod["metadata"]["labels"].get(ROLE) != "sandbox"),
            problems=tuple(problems),
            begun=begun is not None,
            kuberay=kuberay,
        )
        actions = reconcile_run(plan, seen, datetime.now(UTC))
        outcome = carry_out(self._kube, owner, actions)
        passing = outcome.passing is not None
        told = provisioned(seen, actions, outcome.refusals, datetime.now(UTC), passing=passing)
        carry_out(self._kube, owner, told).check()
        outcome.check()
        metrics.RECONCILES.labels(key.kind, "acted" if actions else "nothing to do").inc()
        return _again([*actions, *told])

    def _plan(self, run: SynthesisRun | TrainingRun, owner: Owner, begun: Begun[Any] | None) -> Plan:
        """What the run asks for, with the settings that it began with."""
        farm = self.farm if begun is None else replace(self.farm, settings=begun.settings_over(self._settings))
        return replace(self._asked_for(run, owner, farm, begun is not None), begun=begun)

    def _asked_for(self, run: SynthesisRun | TrainingRun, owner: Owner, farm: Farm, begun: bool) -> Plan:
        if isinstance(run, SynthesisRun):
            return synthesis.synthesis_plan(run, owner, farm)
        name = training.claim_of(run, owner) if run.spec.trainer.nodes > 1 else None
        claim = None if name is None else self._kube.get(CLAIM, owner.namespace, name)
        plan = training.training_plan(run, owner, farm, self.census, claim)
        if begun or plan.suspend or any(gate.status != "True" for gate in plan.gates):
            self._opened.discard(owner.uid or "")
            return plan
        if owner.uid in self._opened:
            return plan
        listed = self._kube.list_metadata(ENVIRONMENT, owner.namespace)
        if not self.census.agrees(owner.namespace, run.spec.environments.selectors, listed):
            message = "the watch has not told of every Environment yet"
            waits = Condition("EnvironmentsReady", "False", "Verifying", message)
            return replace(plan, gates=(waits, *(gate for gate in plan.gates if gate.type != waits.type)))
        self._opened.add(owner.uid or "")
        return training.training_plan(run, owner, farm, self.census, claim)

    def _run_children(self, owner: Owner) -> list[tuple[Kind, str]]:
        own_kinds = (SERVICE_ACCOUNT, RBAC_ROLE, ROLE_BINDING, CONFIG_MAP, CLAIM, JOB)
        return [*pool_members(owner, self.farm.policy_version), *((kind, owner.base) for kind in own_kinds)]

    def _objects(
        self, owner: Owner, named: list[tuple[Kind, str]]
    ) -> tuple[dict[tuple[str, str], Object], list[Foreign]]:
        """Those that exist and are the owner's, and those that only have names of the owner's objects."""
        objects: dict[tuple[str, str], Object] = {}
        others: list[Foreign] = []
        for kind, name in named:
            found = self._kube.get(kind, owner.namespace, name)
            if found is None:
                continue
            if is_own(owner, found):
                objects[kind.plural, name] = found
            else:
                others.append(describe_foreign(owner, kind.kind, kind.plural, found))
        return objects, others

    async def _carry_out(self, owner: Owner, actions: list[Action]) -> float | None:
        outcome = await asyncio.to_thread(carry_out, self._kube, owner, actions)
        outcome.check()
        metrics.RECONCILES.labels(owner.kind, "acted" if actions else "nothing to do").inc()
        return _again(actions)

    def refresh_gauges(self) -> None:
        """Sets the gauges to what is so now."""
        metrics.QUEUE.set(len(self._environments) + len(self._runs))
        for phase, count in self.census.phases().items():
            metrics.ENVIRONMENTS.labels(phase).set(count)
        metrics.RUNS.clear()
        for key, phase in list(self._phases.items()):
            metrics.RUNS.labels(key.kind, phase).inc()
        state = self.pool.state
        metrics.POOL_READY.set(state.ready)
        metrics.POOL_WANTED.set(state.wanted)
        metrics.POOL_ISOLATED.set(self.pool.isolated is True)


def _key(kind: str, body: Mapping[str, Any]) -> Key:
    return Key(kind, body["metadata"]["namespace"], body["metadata"]["name"])


def _again(actions: list[Action]) -> float | None:
    return min((action.seconds for action in actions if isinstance(action, Again)), default=None)
