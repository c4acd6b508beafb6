"""What a reconcile function may ask for. Plain data: reconcile functions are pure, `carrying_out` does."""

from dataclasses import dataclass
from typing import Any, Literal

from astra_api.kube import Kind


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a manifest to the object of a uid; without one, to none: then it creates."""

    kind: Kind
    manifest: dict[str, Any]
    uid: str | None = None

    @property
    def target(self) -> tuple[Kind, str]:
        """The kind and the name."""
        return self.kind, str(self.manifest["metadata"]["name"])

    @property
    def key(self) -> tuple[str, str]:
        """The plural of the kind, and the name."""
        kind, name = self.target
        return kind.plural, name


@dataclass(frozen=True)
class CreateCertificates:
    """Creates the Secret of a pool's certificates."""

    name: str
    service: str  # the headless Service whose pods serve


@dataclass(frozen=True)
class Delete:
    """Deletes the object of a uid, and what it owns."""

    kind: Kind
    name: str
    uid: str


@dataclass(frozen=True)
class OpenGate:
    """Lets a pod be scheduled that was held back by the operator's scheduling gate."""

    name: str
    uid: str
    others: tuple[dict[str, Any], ...] = ()  # gates of others, which stay


@dataclass(frozen=True)
class PatchStatus:
    """Merges into the status of the reconciled object."""

    status: dict[str, Any]
    first: bool = False  # it has none yet, as far as was seen: spares a request


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


Action = Apply | CreateCertificates | Delete | OpenGate | PatchStatus | Emit | Again
