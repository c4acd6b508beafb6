"""Whose an object is: the operator changes and deletes what carries the uid of its owner, and nothing else. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from astra_operator.manifests.identity import OWNER_UID, Owner

Object = dict[str, Any]


class Foreign(NamedTuple):
    """An object that has a name of ours and is not ours."""

    kind: str
    plural: str
    name: str
    earlier: bool = False  # of an earlier object of the owner's name, and about to be collected

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def is_own(owner: Owner, found: Object) -> bool:
    """Whether an object is of just this owner, by its uid: as a reference, or as an annotation of what outlives it."""
    return owner.uid is not None and owner.uid in (*_uids(found), _annotated(found))


def describe_foreign(owner: Owner, kind: str, plural: str, found: Object) -> Foreign:
    """Describes an object that is not the owner's."""
    references = found["metadata"].get("ownerReferences") or []
    earlier = any((one.get("kind"), one.get("name")) == (owner.kind, owner.name) for one in references)
    going = bool(found["metadata"].get("deletionTimestamp"))
    return Foreign(kind, plural, found["metadata"]["name"], earlier or going)


def advice(found: Foreign) -> str:
    """What somebody can do about it."""
    if found.earlier:
        return f"{found} is of an earlier object of this name; waiting until it is collected"
    if found.kind == "PersistentVolumeClaim":
        return f"{found} exists and is not this run's: name it in spec.checkpoint.claimName to use it, or delete it"
    return f"{found} exists and is not this object's: delete it, or choose another name"


def lacking_pods(objects: Iterable[Object], pods: Iterable[Object]) -> list[Object]:
    """The StatefulSets with fewer pods than they want, and the Jobs that run and have none."""
    owners = [uid for pod in pods for uid in _uids(pod)]
    lacking = []
    for one in objects:
        spec, status, count = one.get("spec") or {}, one.get("status") or {}, owners.count(one["metadata"]["uid"])
        ended = any(
            c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in status.get("conditions") or []
        )
        if one.get("kind") == "StatefulSet" and count < spec.get("replicas", 0):
            lacking.append(one)
        if one.get("kind") == "Job" and not count and not ended and not spec.get("suspend"):
            lacking.append(one)
    return lacking


def _uids(found: Object) -> list[str]:
    return [str(reference.get("uid")) for reference in found["metadata"].get("ownerReferences") or []]


def _annotated(found: Object) -> str | None:
    annotation: str | None = (found["metadata"].get("annotations") or {}).get(OWNER_UID)
    return annotation
