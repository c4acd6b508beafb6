"""What an Environment needs next. Pure.

A verdict holds for one digest of the spec and one of the toolset, both in its status: they are the only memory of what
was handled, so a verdict survives the operator, and a change is noticed whenever it happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from astra_api.environment import DECIDED, Environment
from astra_api.kube import SECRET
from astra_api.pod_costs import HUNGRY, containment_of, pod_memory
from astra_api.resource import quantity
from astra_operator.accepting import Problem, summary
from astra_operator.actions import Action, Again, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.conditions import Condition, find, merged
from astra_operator.drift import mended
from astra_operator.farm import Farm
from astra_operator.manifests.identity import ROLE, Owner
from astra_operator.manifests.pool import Pool, pool_members, pool_objects
from astra_operator.manifests.templates import merged as merged_templates
from astra_operator.ownership import Foreign, advice
from astra_operator.settings import PORT
from astra_sandbox.verification import Verdict

RETRY_SECONDS = 30.0  # until the next try, where the infrastructure failed
_COLLECTED_SECONDS = 3.0  # until objects of an earlier Environment of the name may be gone
_VERDICT = {"phase", "digest", "toolset", "checks"}  # of the status
_WARNED = ("Verified", "Provisioned")  # conditions; events tell when they become False
_SESSIONS = 32  # of a dedicated pod: a group of rollouts opens all its sessions on one


@dataclass(frozen=True)
class Verify:
    """Run its checks in the verification pool, then reconcile with the verdict."""


EnvironmentAction = Action | Verify


@dataclass(frozen=True)
class EnvironmentSeen:
    """What there is of an Environment. `problems` or `environment`, not both."""

    generation: int
    status: Mapping[str, Any] = field(default_factory=dict)
    environment: Environment | None = None  # sourceRef resolved, if it can be
    problems: tuple[Problem, ...] = ()
    verdict: Verdict | None = None  # just reached
    objects: Mapping[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # of its dedicated pool
    ready_replicas: int = 0
    foreign: tuple[Foreign, ...] = ()  # what has names of its pool's objects, and is not its own
    refused: tuple[str, ...] = ()  # what the API said when objects of its pool were applied just now

    @property
    def conditions(self) -> list[dict[str, Any]]:
        return list(self.status.get("conditions") or [])


def has_pool(body: Mapping[str, Any]) -> bool:
    """Whether it has, or shall have, pods of its own."""
    sandbox = (body.get("spec") or {}).get("sandbox") or {}
    return bool(sandbox.get("replicas")) or bool((body.get("status") or {}).get("endpoint"))


def reconcile_environment(seen: EnvironmentSeen, owner: Owner, farm: Farm, now: datetime) -> list[EnvironmentAction]:
    """The next actions."""
    if seen.problems or seen.environment is None:
        return _refuse(seen, now)
    verdict = seen.verdict
    if verdict is None and not _is_decided(seen, seen.environment):
        return [Verify()]
    phase = verdict.phase if verdict is not None else str(seen.status["phase"])
    replicas = seen.environment.spec.sandbox.replicas if phase == "Verified" else 0
    pool = dedicated_pool(seen.environment, owner, farm, replicas)
    actions: list[EnvironmentAction] = [] if seen.refused else [*_provide(pool, seen)]
    status = verdict.status.model_dump(mode="json", include=_VERDICT) if verdict is not None else {}
    status["endpoint"] = f"{pool.server_name}:{PORT}" if replicas else None
    status["replicas"] = seen.ready_replicas if replicas else None  # these two serve the scale subresource
    labels = ",".join(f"{key}={value}" for key, value in owner.labels("sandbox").items())
    status["selector"] = labels if replicas else None
    provided = _provided(seen, replicas)
    conditions = [
        Condition("Accepted", "True", "Accepted"),
        _standing(seen) if verdict is None else _verified(verdict),
        *provided,
        _ready(phase, replicas, seen.ready_replicas, provided),
    ]
    actions += _report(seen, status, conditions, now)
    if phase == "Pending" or any(condition.status == "False" for condition in provided):
        actions.append(Again(_COLLECTED_SECONDS if phase != "Pending" and _collecting(seen) else RETRY_SECONDS))
    return actions


def dedicated_pool(environment: Environment, owner: Owner, farm: Farm, replicas: int) -> Pool:
    """The pods of one Environment. Every trainer of its namespace may ask to connect; its certificate decides."""
    held = pod_memory(containment_of(farm.settings.runtime_class), _SESSIONS)
    limit = held + max(HUNGRY, 2 * int(quantity(environment.spec.sandbox.memory)))
    return Pool(
        owner=owner,
        image=farm.settings.sandbox_image,
        pull_policy=farm.settings.pull_policy,
        replicas=replicas,
        clients={ROLE: "trainer"},
        runtime_class=farm.settings.runtime_class,
        capacity=_SESSIONS,
        resources={
            "requests": {"cpu": "50m", "memory": str(held)},
            "limits": {"cpu": "1", "memory": str(limit)},
        },
        policy_version=farm.policy_version,
        egress_targets=farm.settings.canary_targets,
        monitoring=farm.settings.monitoring,
        template=merged_templates(farm.settings.pod_defaults.sandboxes, None),
    )


def _refuse(seen: EnvironmentSeen, now: datetime) -> list[EnvironmentAction]:
    message = summary(list(seen.problems))
    conditions = [
        Condition("Accepted", "False", "InvalidSpec", message),
        Condition("Verified", "False", "InvalidSpec", message),
        Condition("Ready", "False", "NotVerified"),
    ]
    return [*_report(seen, {"phase": "Rejected", "digest": None, "toolset": None, "checks": None}, conditions, now)]


def _is_decided(seen: EnvironmentSeen, environment: Environment) -> bool:
    """Whether a verdict on just this spec and this source stands in the status."""
    status = seen.status
    if status.get("phase") not in DECIDED or status.get("digest") != environment.digest:
        return False
    try:
        return bool(status.get("toolset") == environment.toolset.digest)
    except ValueError:
        return False  # the source cannot be resolved: verification says so


def _verified(verdict: Verdict) -> Condition:
    if verdict.verified:
        return Condition("Verified", "True", "Verified", "every check passed")
    status = "False" if verdict.phase == "Rejected" else "Unknown"
    return Condition("Verified", status, str(verdict.reason or verdict.phase), verdict.message)  # type: ignore[arg-type]


def _standing(seen: EnvironmentSeen) -> Condition:
    """The verdict in the status, which holds for this generation too: only `sandbox.replicas` is another."""
    phase = str(seen.status["phase"])
    old = find(seen.conditions, "Verified") or {"status": str(phase == "Verified"), "reason": phase}
    return Condition("Verified", old["status"], old["reason"], old.get("message", ""))


def _provided(seen: EnvironmentSeen, replicas: int) -> list[Condition]:
    """Whether its pods could be asked for; nothing, where none are wanted and nothing was ever in the way."""
    if seen.foreign and replicas:
        reason = "Collecting" if _collecting(seen) else "ForeignObject"
        return [Condition("Provisioned", "False", reason, "; ".join(map(advice, seen.foreign)))]
    if seen.refused:
        return [Condition("Provisioned", "False", "Refused", "; ".join(seen.refused))]
    if find(seen.conditions, "Provisioned") is None:
        return []
    return [Condition("Provisioned", "True", "Provisioned")]


def _collecting(seen: EnvironmentSeen) -> bool:
    """Whether nothing is in the way but what is about to be deleted."""
    return bool(seen.foreign) and all(one.earlier for one in seen.foreign)


def _ready(phase: str, replicas: int, ready: int, provided: list[Condition]) -> Condition:
    if phase != "Verified":
        return Condition("Ready", "False", "NotVerified")
    if replicas and any(condition.status == "False" for condition in provided):
        return Condition("Ready", "False", "NotProvisioned", provided[0].message)
    if not replicas:
        return Condition("Ready", "True", "Shared", "the sandboxes of a run serve it")
    counted = f"{ready} of {replicas} dedicated pods are ready"
    return (
        Condition("Ready", "True", "Serving", counted)
        if ready >= replicas
        else Condition("Ready", "False", "Starting", counted)
    )


def _provide(pool: Pool, seen: EnvironmentSeen) -> list[Action]:
    """The dedicated pool, or its removal. With something foreign in its place nothing is made: pods would mount it."""
    if pool.replicas == 0:
        members = pool_members(pool.owner, pool.policy_version)
        found = [(kind, name, seen.objects.get((kind.plural, name))) for kind, name in members]
        return [Delete(kind, name, one["metadata"]["uid"]) for kind, name, one in found if one is not None]
    if seen.foreign:
        return []
    actions: list[Action] = []
    if (SECRET.plural, pool.secret) not in seen.objects:
        actions.append(CreateCertificates(pool.secret, pool.name))
    for wanted in pool_objects(pool):
        actions += mended(wanted, seen.objects.get((wanted.kind.plural, pool.name)))
    return actions


def _report(seen: EnvironmentSeen, status: dict[str, Any], conditions: list[Condition], now: datetime) -> list[Action]:
    """The status, if it changed, and an event for what is wrong and was not before."""
    conditions = [*conditions, *_stalled(seen, conditions)]
    status = {
        "observedGeneration": seen.generation,
        **status,
        "conditions": merged(seen.conditions, conditions, seen.generation, now),
    }
    actions: list[Action] = []
    if any(seen.status.get(key) != value for key, value in status.items()):
        actions.append(PatchStatus(status, first=not seen.status))
    for condition in conditions:
        before = find(seen.conditions, condition.type) or {}
        wrong = condition.type in _WARNED and condition.status == "False" and condition.reason != "Collecting"
        if wrong and (before.get("status"), before.get("message", "")) != ("False", condition.message):
            actions.append(Emit("Warning", condition.reason, condition.message))
    return actions


def _stalled(seen: EnvironmentSeen, conditions: list[Condition]) -> list[Condition]:
    """Stalled is what kstatus reads as failed: only another spec helps. It is told of one that is stalled, or was."""
    verified = next((condition for condition in conditions if condition.type == "Verified"), None)
    if verified is None:
        return []
    if verified.status == "False":
        return [Condition("Stalled", "True", verified.reason, verified.message)]
    if find(seen.conditions, "Stalled") is None:
        return []
    return [Condition("Stalled", "False", "NotStalled")]
