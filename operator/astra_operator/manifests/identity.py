"""Names, labels and owners of what the operator makes."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from astra_api.kube import ENVIRONMENT, SYNTHESIS_RUN, TRAINING_RUN, Kind
from astra_operator.manifests.templates import MANAGED_BY
from astra_operator.settings import MANAGER

MANAGED = f"{MANAGED_BY}={MANAGER}"  # the selector of all that the operator makes
OWNER = "astra.farm/owner"  # label: the base name of the owner, unique in its namespace
OWNED_BY = "astra.farm/owned-by"  # annotation: Kind/name
OWNER_UID = "astra.farm/owner-uid"  # annotation of what outlives its owner
ROLE = "astra.farm/role"  # label: sandbox | trainer | synth
_PREFIX = {"Environment": "env", "SynthesisRun": "synth", "TrainingRun": "train", "Deployment": "verify"}
_LENGTH = 40  # leaves room for suffixes: a Service may have 63, a StatefulSet 52
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")  # the operator's own: it owns the verification pool
KINDS: dict[str, Kind] = {kind.kind: kind for kind in (ENVIRONMENT, SYNTHESIS_RUN, TRAINING_RUN, DEPLOYMENT)}


@dataclass(frozen=True)
class Owner:
    """Whose object it is. Without a uid nothing is collected with it."""

    kind: str
    name: str
    namespace: str
    uid: str | None = None

    @property
    def base(self) -> str:
        """Begins the names of what it owns: a DNS label, different for every kind and name."""
        plain = f"{_PREFIX[self.kind]}-{self.name}"
        if len(plain) <= _LENGTH and re.fullmatch(r"[a-z0-9-]*", self.name):
            return plain
        digest = hashlib.sha256(plain.encode()).hexdigest()[:10]
        return f"{plain.replace('.', '-')[: _LENGTH - 11].rstrip('-')}-{digest}"

    def labels(self, role: str) -> dict[str, str]:
        return {MANAGED_BY: MANAGER, OWNER: self.base, ROLE: role}

    def metadata(self, name: str, role: str) -> dict[str, Any]:
        """Of an object of this owner."""
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(role),
            "annotations": {OWNED_BY: f"{self.kind}/{self.name}"},
        }
        if self.uid is not None:
            reference = {"apiVersion": KINDS[self.kind].api_version, "kind": self.kind, "name": self.name}
            metadata["ownerReferences"] = [reference | {"uid": self.uid, "controller": True}]
        return metadata


def owner_of(body: dict[str, Any]) -> tuple[str, str] | None:
    """(kind, name) of the owner of an object that the operator made."""
    kind, _, name = (body["metadata"].get("annotations") or {}).get(OWNED_BY, "").partition("/")
    return (kind, name) if name and kind in KINDS else None
