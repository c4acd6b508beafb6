"""What an Environment needs next."""

from datetime import UTC, datetime
from typing import Any

import pytest
from farms import FARM, environment, owner

from astra_api.environment import settled_phase
from astra_operator.accepting import Problem
from astra_operator.actions import Again, Apply, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.environments import EnvironmentSeen, Verify, has_pool, reconcile_environment
from astra_sandbox.verification import CHECKS, Reason, Verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEVEN = environment()
OWNER = owner("Environment", "seven")


def verdict(phase: Any = "Verified", reason: Reason | None = None, message: str = "", of: Any = SEVEN) -> Verdict:
    checks = dict.fromkeys(CHECKS, "passed")
    return Verdict(
        name=of.name, phase=phase, digest=of.digest, toolset=of.toolset.digest, checks=checks, reason=reason,
        message=message,
    )  # fmt: skip


def act(seen: EnvironmentSeen) -> list[Any]:
    return reconcile_environment(seen, OWNER, FARM, NOW)


def status_after(seen: EnvironmentSeen) -> dict[str, Any]:
    status = dict(seen.status)
    for action in act(seen):
        if isinstance(action, PatchStatus):
            status |= {key: value for key, value in action.status.items() if value is not None}
    return status


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(found for found in status["conditions"] if found["type"] == kind)


def test_a_new_one_is_verified_and_then_left_alone() -> None:
    assert act(EnvironmentSeen(1, {}, SEVEN)) == [Verify()]
    writes = act(EnvironmentSeen(1, {}, SEVEN, verdict=verdict()))
    assert [type(action) for action in writes] == [PatchStatus], "one write"
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=verdict()))
    assert (status["phase"], status["digest"]) == ("Verified", SEVEN.digest)
    assert condition(status, "Ready")["reason"] == "Shared"
    assert act(EnvironmentSeen(1, status, SEVEN)) == []


def test_a_changed_spec_is_verified_again() -> None:
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=verdict()))
    assert act(EnvironmentSeen(2, status, environment(question="Other?"))) == [Verify()]


def test_how_many_pods_serve_it_changes_no_verdict() -> None:
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=verdict()))
    assert Verify() not in act(EnvironmentSeen(2, status, environment(sandbox={"replicas": 1})))


def test_another_source_behind_the_same_reference_is_verified_again() -> None:
    refers = environment(source=None, sourceRef={"configMap": "tools", "key": "a.py"})
    status = status_after(
        EnvironmentSeen(1, {}, refers.with_source("A = 1"), verdict=verdict(of=refers.with_source("A = 1")))
    )
    assert act(EnvironmentSeen(1, status, refers.with_source("A = 1"))) == []
    assert act(EnvironmentSeen(1, status, refers.with_source("A = 2"))) == [Verify()]
    assert act(EnvironmentSeen(1, status, refers)) == [Verify()], "and so is one whose source is gone"


def test_a_rejected_one_says_why() -> None:
    found = verdict("Rejected", Reason.GOLD_MISMATCH, "spec.steps[0].call: ping answers 8, not 7")
    actions = act(EnvironmentSeen(1, {}, SEVEN, verdict=found))
    (event,) = [action for action in actions if isinstance(action, Emit)]
    assert (event.type, event.reason) == ("Warning", "GoldMismatch")
    assert len(actions) == 2, "two writes"
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=found))
    assert condition(status, "Verified")["status"] == "False"
    assert "spec.steps[0]" in condition(status, "Verified")["message"]
    assert settled_phase({"metadata": {"generation": 1}, "status": status}) == "Rejected"
    assert settled_phase({"metadata": {"generation": 2}, "status": status}) == "Pending"


def test_a_failure_of_the_infrastructure_is_no_verdict_and_is_tried_again() -> None:
    found = verdict("Pending", Reason.SANDBOX_UNAVAILABLE, "no server")
    actions = act(EnvironmentSeen(1, {}, SEVEN, verdict=found))
    assert any(isinstance(action, Again) for action in actions)
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=found))
    assert condition(status, "Verified")["status"] == "Unknown"
    assert act(EnvironmentSeen(1, status, SEVEN)) == [Verify()]


def test_a_bad_spec_is_rejected_with_its_field_once() -> None:
    seen = EnvironmentSeen(1, {}, problems=(Problem("spec.steps[1].answer", "required field is missing: add it"),))
    (event,) = [action for action in act(seen) if isinstance(action, Emit)]
    assert "spec.steps[1].answer" in event.message
    status = status_after(seen)
    assert status["phase"] == "Rejected"
    assert condition(status, "Accepted")["reason"] == "InvalidSpec"
    assert act(EnvironmentSeen(1, status, problems=seen.problems)) == []
    assert act(EnvironmentSeen(2, status, SEVEN)) == [Verify()], "a mended one is verified"


def test_dedicated_pods_come_after_the_verdict_and_go_when_none_are_asked_for() -> None:
    asks = environment(sandbox={"replicas": 2})
    actions = act(EnvironmentSeen(1, {}, asks, verdict=verdict(of=asks)))
    kinds = [action.kind.kind for action in actions if isinstance(action, Apply)]
    assert kinds == ["Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet"]
    assert any(isinstance(action, CreateCertificates) for action in actions)
    status = status_after(EnvironmentSeen(1, {}, asks, verdict=verdict(of=asks)))
    assert condition(status, "Ready")["reason"] == "Starting"
    assert status["endpoint"] == "env-seven-sandbox.lab.svc:50051"
    made = {
        a.key: {**a.manifest, "metadata": {**a.manifest["metadata"], "uid": a.kind.kind}}
        for a in actions
        if isinstance(a, Apply)
    }
    made["secrets", "env-seven-tls"] = {"metadata": {"name": "env-seven-tls", "uid": "Secret"}}
    served = status_after(EnvironmentSeen(1, status, asks, objects=made, ready_replicas=2))
    assert condition(served, "Ready")["reason"] == "Serving"
    gone = act(EnvironmentSeen(2, served, SEVEN, objects=made))
    assert {action.kind.kind for action in gone if isinstance(action, Delete)} == {
        "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Secret",
    }  # fmt: skip
    assert has_pool({"spec": {}, "status": served})


@pytest.mark.parametrize("phase", ["Rejected", "Pending"])
def test_no_pods_for_what_is_not_verified(phase: str) -> None:
    asks = environment(sandbox={"replicas": 2})
    found = verdict(phase, Reason.TOOL_RAISED, "it raised", of=asks)
    assert not [action for action in act(EnvironmentSeen(1, {}, asks, verdict=found)) if isinstance(action, Apply)]
