"""What an Environment needs next."""

from datetime import UTC, datetime
from typing import Any

import pytest
from farms import FARM, environment, owner

from astra_api.environment import settled_phase
from astra_operator.accepting import Problem
from astra_operator.actions import Again, Apply, CreateCertificates, Delete, Emit, PatchStatus
from astra_operator.environments import EnvironmentSeen, Verify, has_pool, reconcile_environment
from astra_operator.ownership import Foreign
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


def test_it_is_read_as_other_kinds_are() -> None:
    """kstatus: of which spec the status is, and that a rejected one has failed until its spec is mended."""
    good = status_after(EnvironmentSeen(3, {}, SEVEN, verdict=verdict()))
    assert good["observedGeneration"] == 3
    assert [found for found in good["conditions"] if found["type"] == "Stalled"] == [], "nothing was ever wrong"
    bad = verdict("Rejected", Reason.GOLD_MISMATCH, "spec.steps[0].call: ping answers 8, not 7")
    rejected = status_after(EnvironmentSeen(3, {}, SEVEN, verdict=bad))
    stalled = condition(rejected, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "GoldMismatch")
    assert "ping answers 8" in stalled["message"]
    mended = environment(question="Other?")
    after = status_after(EnvironmentSeen(4, rejected, mended, verdict=verdict(of=mended)))
    assert condition(after, "Stalled")["status"] == "False"
    assert condition(after, "Ready")["status"] == "True"
    assert after["observedGeneration"] == 4
    refused = status_after(EnvironmentSeen(1, {}, problems=(Problem("spec.answer", "required field is missing"),)))
    assert condition(refused, "Stalled")["reason"] == "InvalidSpec"
    assert refused["observedGeneration"] == 1


def test_a_verdict_holds_when_only_the_number_of_pods_changes() -> None:
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=verdict()))
    scaled = environment(sandbox={"replicas": 1})
    after = status_after(EnvironmentSeen(2, status, scaled))
    assert settled_phase({"metadata": {"generation": 2}, "status": after}) == "Verified", "or no run could begin"
    assert after["observedGeneration"] == 2


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


WANTS = environment(sandbox={"replicas": 1})


def test_what_is_not_its_own_is_neither_used_nor_touched() -> None:
    foreign = (Foreign("Secret", "secrets", "env-seven-tls"),)
    seen = EnvironmentSeen(1, {}, WANTS, verdict=verdict(of=WANTS), foreign=foreign)
    actions = act(seen)
    assert not [action for action in actions if isinstance(action, Apply | CreateCertificates | Delete)]
    (event,) = [action for action in actions if isinstance(action, Emit)]
    assert (event.type, event.reason) == ("Warning", "ForeignObject")
    assert "Secret env-seven-tls" in event.message
    assert any(isinstance(action, Again) for action in actions), "it may be deleted"
    status = status_after(seen)
    assert status["phase"] == "Verified", "what it is does not depend on its pods"
    assert condition(status, "Provisioned")["status"] == "False"
    assert condition(status, "Ready")["status"] == "False"
    assert "Secret env-seven-tls" in condition(status, "Ready")["message"]
    again = act(EnvironmentSeen(1, status, WANTS, foreign=foreign))
    assert [type(action) for action in again] == [Again], "it is said once"
    free = EnvironmentSeen(1, status, WANTS)
    assert [action for action in act(free) if isinstance(action, Apply)]
    assert condition(status_after(free), "Provisioned")["status"] == "True"


def test_objects_of_an_earlier_one_are_waited_for() -> None:
    earlier = (Foreign("Secret", "secrets", "env-seven-tls", earlier=True),)
    seen = EnvironmentSeen(1, {}, WANTS, verdict=verdict(of=WANTS), foreign=earlier)
    assert [type(action) for action in act(seen)] == [PatchStatus, Again], "nobody needs to be warned"
    assert condition(status_after(seen), "Provisioned")["reason"] == "Collecting"


def test_without_pods_of_its_own_nothing_is_in_its_way() -> None:
    foreign = Foreign("Service", "services", "env-seven-sandbox")
    status = status_after(EnvironmentSeen(1, {}, SEVEN, verdict=verdict(), foreign=(foreign,)))
    assert condition(status, "Ready")["reason"] == "Shared"


def test_what_the_api_refuses_is_told_with_its_words_once_and_tried_again() -> None:
    words = 'pods "env-seven-sandbox-0" is forbidden: exceeded quota: small'
    seen = EnvironmentSeen(1, {}, WANTS, verdict=verdict(of=WANTS), refused=(words,))
    actions = act(seen)
    assert not [action for action in actions if isinstance(action, Apply)], "they were tried just now"
    assert [action.message for action in actions if isinstance(action, Emit)] == [words]
    status = status_after(seen)
    assert condition(status, "Provisioned")["reason"] == "Refused"
    assert condition(status, "Ready")["message"] == words
    again = EnvironmentSeen(1, status, WANTS, refused=(words,))
    assert [type(action) for action in act(again)] == [Again]
