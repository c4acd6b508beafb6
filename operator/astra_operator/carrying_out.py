"""Carries actions out, in order. Blocking; the only place of the operator that writes."""

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime

from astra_api.kube import EVENT, SECRET, Kind, Kube, KubeError, Object
from astra_operator.actions import Action, Apply, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.conditions import timestamp
from astra_operator.manifests.certificates import make_certificates
from astra_operator.manifests.identity import KINDS, Owner
from astra_operator.metrics import WRITES
from astra_operator.settings import MANAGER

_EVENT_LENGTH = 1024


def carry_out(kube: Kube, owner: Owner, actions: Iterable[Action]) -> None:
    """Raises KubeError at the first that fails; all can be done again."""
    for action in actions:
        match action:
            case Apply(kind, manifest):
                _count(kind, "apply")
                kube.apply(kind, owner.namespace, manifest["metadata"]["name"], manifest, MANAGER)
            case CreateCertificates(name, service):
                create_certificates(kube, owner, name, service)
            case Delete(kind, name, uid):
                _count(kind, "delete")
                kube.delete(kind, owner.namespace, name, uid=uid)
            case PatchStatus(status):
                kind = KINDS[owner.kind]
                _count(kind, "status")
                kube.patch_status(kind, owner.namespace, owner.name, status, uid=owner.uid)
            case Emit():
                _emit(kube, owner, action)


def create_certificates(kube: Kube, owner: Owner, name: str, service: str) -> None:
    """Creates the Secret of a pool's certificates; if it exists, it stays."""
    files = make_certificates(service, owner.namespace, datetime.now(UTC))
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": owner.metadata(name, "sandbox"), "type": "Opaque"}
    _count(SECRET, "create")
    try:
        kube.create(SECRET, owner.namespace, {**body, "data": files})
    except KubeError as error:
        if not error.conflict:
            raise


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
