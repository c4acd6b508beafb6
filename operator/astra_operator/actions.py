"""What a reconcile function may ask for. Plain data: reconcile functions are pure, `carrying_out` does."""

from dataclasses import dataclass
from typing import Any, Literal

from astra_api.kube import Kind


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a manifest."""

    kind: Kind
    manifest: dict[str, Any]


@dataclass(frozen=True)
class CreateCertificates:
    """Creates the Secret of a pool's certificates, unless it exists."""

    name: str
    service: str  # the headless Service whose pods serve


@dataclass(frozen=True)
class Delete:
    """Deletes an object, and what it owns."""

    kind: Kind
    name: str
    uid: str | None = None


@dataclass(frozen=True)
class PatchStatus:
    """Merges into the status of the reconciled object."""

    status: dict[str, Any]


@dataclass(frozen=True)
class Emit:
    """An event of the reconciled object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Again:
    """Reconcile once more after some seconds, though nothing tells of a change."""

    seconds: float


Action = Apply | CreateCertificates | Delete | PatchStatus | Emit | Again
