"""How the Job or RayJob of a run ended, and why. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from astra_api.kube import Kind
from astra_operator.conditions import find, holds
from astra_operator.manifests.job import BAD_INPUT, RAY_JOB, Work

_TAIL = 1000  # characters of what a pod said last
_REASONS = {"BackoffLimitExceeded": "RetriesExhausted", "DeadlineExceeded": "DeadlineExceeded"}
_NO_KUBERAY = "trainer.nodes is more than 1, which needs RayJobs, and the cluster has none: install KubeRay"


@dataclass(frozen=True)
class JobEnd:
    """The end of a run's work."""

    succeeded: bool
    reason: str
    message: str


def job_end(
    work: Work, kind: Kind, job: dict[str, Any] | None, pods: Iterable[dict[str, Any]], kuberay: bool
) -> JobEnd | None:
    """None while there is no end: the Job is to be made, runs, tries again, or is being deleted. `kind`: of the Job."""
    if kind == RAY_JOB and not kuberay:
        return JobEnd(False, "KubeRayMissing", _NO_KUBERAY)
    if job is None or job["metadata"].get("deletionTimestamp"):
        return None
    status = job.get("status") or {}
    if kind == RAY_JOB:
        return _ray_end(status)
    conditions = status.get("conditions") or []
    if holds(conditions, "Complete"):
        return JobEnd(True, "Completed", "the Job completed")
    uid = job["metadata"]["uid"]
    ends = sorted(_ends(pods, uid))
    for _, code, message in ends:
        if code == BAD_INPUT:
            return JobEnd(False, "BadInput", message or "the run cannot be used; see the log of its pod")
    if not holds(conditions, "Failed"):
        return None
    said = find(conditions, "Failed") or {}
    message = str(said.get("message", ""))
    if ends:
        _, code, words = ends[-1]
        message = f"the {work.role} failed {len(ends)} times; last: {words or f'exit code {code}'}"
    return JobEnd(False, _REASONS.get(said.get("reason", ""), "JobFailed"), message)


def _ray_end(status: dict[str, Any]) -> JobEnd | None:
    """KubeRay makes its own tries: it says Failed when they are used up."""
    ended = status.get("jobStatus")
    if ended == "SUCCEEDED":
        return JobEnd(True, "Completed", "the RayJob succeeded")
    deployment = status.get("jobDeploymentStatus")
    words = str(status.get("message") or status.get("reason") or f"job status {ended}").strip()[-_TAIL:]
    if deployment == "Failed":
        code = re.search(r"exit code (\d+)", status.get("message") or "")  # how Ray begins; the log's end follows
        if code is not None and int(code[1]) == BAD_INPUT:
            return JobEnd(False, "BadInput", words)
        reason = _REASONS.get(status.get("reason") or "", "RetriesExhausted")
        return JobEnd(False, reason, f"the RayJob failed; last: {words}")
    if deployment == "ValidationFailed":
        return JobEnd(False, "JobFailed", f"KubeRay refused the RayJob: {words}")
    if deployment == "Complete":  # by hand
        return JobEnd(False, "JobFailed", f"the RayJob ended with {words}")
    return None


def _ends(pods: Iterable[dict[str, Any]], job_uid: str) -> list[tuple[str, int, str]]:
    """(when, exit code, last words) of each container of this Job that failed."""
    return [
        (ended.get("finishedAt") or "", int(ended.get("exitCode") or 0), (ended.get("message") or "").strip()[-_TAIL:])
        for pod in pods
        if any(owner.get("uid") == job_uid for owner in pod["metadata"].get("ownerReferences") or [])
        for status in (pod.get("status") or {}).get("containerStatuses") or []
        if (ended := (status.get("state") or {}).get("terminated")) and ended.get("exitCode")
    ]
