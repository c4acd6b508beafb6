"""Conditions as the operator writes them, and the reasons they may give. Pure.

| kind | condition | True | False or Unknown |
|---|---|---|---|
| all | Accepted | Accepted | InvalidSpec, ImmutableField |
| Environment | Verified | Verified | a Reason of astra_sandbox.verification, InvalidSpec, ConfigMapNotFound |
| Environment | Ready | Shared, Serving | NotVerified, NotProvisioned, Starting |
| all | Provisioned | Provisioned | ForeignObject, Collecting, Refused |
| all | Stalled | the reason of Failed or Verified | NotStalled |
| runs | Ready | the phase | the phase |
| runs in a queue | Queued | WaitingForAdmission, Preempted | Admitted, NotQueued |
| runs in a queue | QuotaReserved | Admitted | WaitingForAdmission, Preempted, NotQueued |
| runs | SandboxesReady | SandboxesReady | Starting, Released |
| runs | NetworkIsolated | EgressRefused | EgressOpen, NotProbed |
| TrainingRun | EnvironmentsReady | Verified | NoneVerified, Verifying |
| TrainingRun with several nodes | VolumeShared | ReadWriteMany | ClaimNotShared, ClaimMissing |
| TrainingRun | Suspended | Suspended, Preempted | NotSuspended |
| runs | Complete | Completed | NotFinished |
| runs | Failed | InvalidSpec, BadInput, RetriesExhausted, DeadlineExceeded, JobFailed, KubeRayMissing | NotFailed |
| TrainingRun | Failed | | Resumed |
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

Status = Literal["True", "False", "Unknown"]
_MESSAGE_LENGTH = 4096  # a condition's message may have 32768; events 1024


class Condition(NamedTuple):
    """One statement about an object."""

    type: str
    status: Status
    reason: str
    message: str = ""


def merged(
    old: Iterable[dict[str, Any]], new: Iterable[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The condition list after `new` was found of `generation`. A type that `new` lacks stays as it was; the time of
    transition is `now` where the status changed."""
    before = {condition["type"]: condition for condition in old}
    for condition in new:
        known = before.get(condition.type)
        same = known is not None and known["status"] == condition.status
        before[condition.type] = {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "observedGeneration": generation,
            "lastTransitionTime": (known or {}).get("lastTransitionTime") or timestamp(now) if same else timestamp(now),
        }
        if condition.message:  # some old servers take an empty string for null
            before[condition.type]["message"] = condition.message[:_MESSAGE_LENGTH]
    return list(before.values())


def find(conditions: Iterable[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The condition of a type."""
    return next((condition for condition in conditions if condition["type"] == kind), None)


def holds(conditions: Iterable[dict[str, Any]], kind: str) -> bool:
    """Whether a condition is True."""
    found = find(conditions, kind)
    return found is not None and found["status"] == "True"


def timestamp(moment: datetime) -> str:
    """RFC 3339, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
