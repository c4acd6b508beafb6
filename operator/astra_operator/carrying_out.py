"""Carries actions out, in order. Blocking; the only place of the operator that writes."""

import base64
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from astra_api.kube import EVENT, POD, SECRET, Kind, Kube, KubeError, Object
from astra_operator.actions import Action, Again, Apply, CreateCertificates, Delete, Emit, OpenGate, PatchStatus
from astra_operator.conditions import timestamp
from astra_operator.manifests.certificates import make_certificates
from astra_operator.manifests.identity import KINDS, Owner
from astra_operator.manifests.job import JOB, RAY_JOB
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.metrics import WRITES
from astra_operator.settings import MANAGER

_EVENT_LENGTH = 1024
_START_PODS = (STATEFUL_SET, JOB, RAY_JOB)
logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The outcome of actions: what the API refused, and what may succeed when it is tried again."""

    refusals: list[str] = field(default_factory=list)  # what the API refused for good, in its words
    passing: KubeError | None = None  # the first failure after which the same may succeed

    def check(self) -> None:
        """Raises the KubeError that may pass, so that all is tried again."""
        if self.passing is not None:
            raise self.passing


def carry_out(kube: Kube, owner: Owner, actions: Iterable[Action]) -> Outcome:
    """Does all that can be done: one object that is refused does not keep the others.

    What starts pods waits until everything before it exists: their walls, rights and certificates.
    """
    outcome, missing = Outcome(), False
    for action in actions:
        if missing and isinstance(action, Apply) and action.kind in _START_PODS:
            continue
        try:
            _do(kube, owner, action)
        except KubeError as error:
            creates = isinstance(action, CreateCertificates) or (isinstance(action, Apply) and action.uid is None)
            missing = missing or creates
            told = isinstance(action, PatchStatus | Emit)  # where it would be told is where it fails
            if error.passing or told:
                logger.warning("%s %s/%s: %s: %s", owner.kind, owner.namespace, owner.name, _named(action), error)
                outcome.passing = outcome.passing or error
            else:
                words = f"{_named(action)}: {error.reason or error.status}: {error}"
                logger.warning("%s %s/%s: refused: %s", owner.kind, owner.namespace, owner.name, words)
                outcome.refusals.append(words)
    return outcome


def _do(kube: Kube, owner: Owner, action: Action) -> None:
    match action:
        case Apply(kind, manifest, uid):
            _count(kind, "apply")
            kube.apply(kind, owner.namespace, manifest["metadata"]["name"], manifest, MANAGER, uid=uid)
        case CreateCertificates(name, service):
            create_certificates(kube, owner, name, service)
        case Delete(kind, name, uid):
            _count(kind, "delete")
            kube.delete(kind, owner.namespace, name, uid=uid)
        case OpenGate(name, uid, others):
            _count(POD, "patch")
            gates = {"op": "replace", "path": "/spec/schedulingGates", "value": list(others)}
            kube.patch(POD, owner.namespace, name, [gates], uid=uid)
        case PatchStatus(status, first):
            kind = KINDS[owner.kind]
            _count(kind, "status")
            kube.patch_status(kind, owner.namespace, owner.name, status, uid=owner.uid, first=first)
        case Emit():
            _emit(kube, owner, action)
        case Again():
            pass


def _named(action: Action) -> str:
    match action:
        case Apply(kind, manifest):
            return f"{kind.kind} {manifest['metadata']['name']}"
        case CreateCertificates(name):
            return f"Secret {name}"
        case Delete(kind, name):
            return f"deletion of {kind.kind} {name}"
        case OpenGate(name):
            return f"scheduling gate of Pod {name}"
        case PatchStatus():
            return "status"
        case Emit():
            return "Event"
        case Again():
            return "another look"


def create_certificates(kube: Kube, owner: Owner, name: str, service: str) -> None:
    """Creates the Secret of a pool's certificates. Raises KubeError, with `conflict` if one of the name exists."""
    files = make_certificates(service, owner.namespace, datetime.now(UTC))
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": owner.metadata(name, "sandbox"), "type": "Opaque"}
    _count(SECRET, "create")
    kube.create(SECRET, owner.namespace, {**body, "data": files})


def read_certificates(found: Object) -> dict[str, bytes]:
    """The files of a Secret."""
    return {name: base64.b64decode(content) for name, content in found["data"].items()}


def _emit(kube: Kube, owner: Owner, event: Emit) -> None:
    """The same event has the same name: an operator that is started again does not repeat it."""
    reference = {"apiVersion": KINDS[owner.kind].api_version, "kind": owner.kind, "name": owner.name}
    content = json.dumps([owner.uid, event.type, event.reason, event.message])
    now = timestamp(datetime.now(UTC))
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{owner.base}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"},
        "involvedObject": {**reference, "namespace": owner.namespace, "uid": owner.uid},
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_EVENT_LENGTH],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    _count(EVENT, "create")
    try:
        kube.create(EVENT, owner.namespace, body)
    except KubeError as error:
        if not error.conflict:
            raise


def _count(kind: Kind, verb: str) -> None:
    WRITES.labels(kind.kind, verb).inc()
