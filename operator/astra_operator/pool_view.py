"""What a pool's pods say of it: how many serve, and whether egress is refused. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from astra_operator.conditions import Condition
from astra_operator.manifests.pool import CANARY

_SHOWN = 3


@dataclass(frozen=True)
class PoolView:
    """A pool as seen; `isolated` is None before a canary of it has spoken."""

    wanted: int
    ready: int
    isolated: bool | None
    evidence: str
    waits: str = ""  # why a pod does not serve, in the cluster's words
    restarts: int = 0  # of servers, in the pods that are there now

    @property
    def serves(self) -> bool:
        return 0 < self.wanted <= self.ready

    def conditions(self) -> list[Condition]:
        counted = f"{self.ready} of {self.wanted} sandbox pods are ready"
        if self.wanted == 0:
            ready = Condition("SandboxesReady", "False", "Released", "no sandbox pods are needed")
        elif self.serves:
            ready = Condition("SandboxesReady", "True", "SandboxesReady", counted)
        else:
            why = f"{counted}; {self.waits}" if self.waits else counted
            ready = Condition("SandboxesReady", "False", "Starting", why)
        if self.wanted == 0 and self.isolated is None:
            return [ready]  # what was found stays: it was true of the pods that ran
        return [ready, self._isolation()]

    def _isolation(self) -> Condition:
        if self.isolated is None:
            return Condition("NetworkIsolated", "Unknown", "NotProbed", self.evidence)
        if self.isolated:
            return Condition("NetworkIsolated", "True", "EgressRefused", self.evidence)
        return Condition("NetworkIsolated", "False", "EgressOpen", self.evidence)


def view(wanted: int, pods: Iterable[dict[str, Any]]) -> PoolView:
    """Of a pool that shall have `wanted` pods."""
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    findings = {pod["metadata"]["name"]: finding for pod in alive if (finding := canary_finding(pod)) is not None}
    opened = sorted({target for finding in findings.values() for target in finding["open"]})
    refused = sorted({target for finding in findings.values() for target in finding["refused"]})
    isolated = None if not findings else not opened and bool(refused)
    return PoolView(
        wanted=wanted,
        ready=sum(map(is_ready, alive)),
        isolated=isolated,
        evidence=_evidence(isolated, opened, refused, len(findings)),
        waits=next((why for pod in alive if not is_ready(pod) and (why := _hindrance(pod))), ""),
        restarts=sum(map(_restarts, alive)),
    )


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod serves."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _hindrance(pod: dict[str, Any]) -> str:
    """Why a pod does not run, as its scheduler or its kubelet says; empty where neither says anything."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: {condition.get('message') or condition.get('reason') or 'not scheduled'}"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("message"):
            return f"{name}: {waiting.get('reason') or 'waiting'}: {waiting['message']}"
    return ""


def canary_finding(pod: dict[str, Any]) -> dict[str, list[str]] | None:
    """What the pod's canary found; None before it has spoken, or when what it says cannot be read."""
    for status in (pod.get("status") or {}).get("initContainerStatuses") or []:
        if status["name"] != CANARY:
            continue
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") != 0:
            return None
        try:
            said = json.loads(ended.get("message") or "")
            return {key: [str(target) for target in said[key]] for key in ("refused", "open")}
        except (ValueError, KeyError, TypeError):
            return None
    return None


def _restarts(pod: dict[str, Any]) -> int:
    return sum(status.get("restartCount", 0) for status in (pod.get("status") or {}).get("containerStatuses") or [])


def _evidence(isolated: bool | None, opened: list[str], refused: list[str], pods: int) -> str:
    if isolated is None:
        return "no canary has reported from inside a sandbox pod yet"
    if isolated:
        return f"from inside {pods} sandbox pods: refused {_listed(refused)}"
    if opened:
        return (
            f"from inside {pods} sandbox pods: open {_listed(opened)}. The cluster's network does not enforce "
            "NetworkPolicy; install one that does, or set sandboxes.requireNetworkIsolation: false"
        )
    return "the canaries had nothing to try: neither an API server nor DNS is known inside the pods"


def _listed(targets: list[str]) -> str:
    return ", ".join(targets[:_SHOWN]) + (f" and {len(targets) - _SHOWN} more" if len(targets) > _SHOWN else "")
