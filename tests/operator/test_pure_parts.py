"""Conditions, drift, accepting, the census, what canaries say, settings, heartbeat."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from farms import environment_body, training_run
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.resource import Selector
from astra_api.training_run import FREE
from astra_operator.accepting import changed_fields, read
from astra_operator.census import Census, Counts
from astra_operator.conditions import Condition, find, holds, merged
from astra_operator.drift import differs, stamped
from astra_operator.heartbeat import Heartbeat
from astra_operator.manifests.certificates import RENEW, VALID, make_certificates, renewal_due
from astra_operator.manifests.pool import CANARY
from astra_operator.pool_view import view
from astra_operator.settings import OperatorSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)

json_values = st.recursive(
    st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
statuses = st.sampled_from(["True", "False", "Unknown"])
conditions = st.lists(
    st.builds(Condition, st.sampled_from("ABC"), statuses, st.sampled_from(["R", "S"]), st.text(max_size=3)),
    unique_by=lambda condition: condition.type,
    max_size=3,
)


@given(first=conditions, second=conditions)
def test_conditions_are_a_map_by_type_and_remember_when_they_turned(
    first: list[Condition], second: list[Condition]
) -> None:
    before = merged([], first, 1, NOW)
    after = merged(before, second, 2, NOW + timedelta(hours=1))
    assert len({condition["type"] for condition in after}) == len(after)
    assert {c["type"] for c in after} == {c.type for c in [*first, *second]}
    for condition in second:
        now, then = find(after, condition.type), find(before, condition.type)
        assert now is not None
        assert (now["status"], now["reason"], now["observedGeneration"]) == (condition.status, condition.reason, 2)
        turned = then is None or then["status"] != condition.status
        assert now["lastTransitionTime"] == ("2026-01-01T01:00:00Z" if turned else "2026-01-01T00:00:00Z")
        assert holds(after, condition.type) == (condition.status == "True")
    assert merged(after, second, 2, NOW + timedelta(hours=2)) == after, "saying it again changes nothing"


@given(spec=st.dictionaries(st.text(min_size=1, max_size=3), json_values, max_size=4), extra=json_values)
def test_an_object_is_as_its_manifest_whatever_the_server_adds(spec: dict[str, Any], extra: Any) -> None:
    manifest = stamped({"kind": "X", "metadata": {"name": "x"}, "spec": spec})
    found = json.loads(json.dumps(manifest))
    found["metadata"] |= {"uid": "1", "managedFields": []}
    found["spec"]["added by the server"] = extra
    found["status"] = extra
    assert not differs(manifest, found)
    assert differs(manifest, None)


@given(
    spec=st.dictionaries(st.text(min_size=1, max_size=3), st.integers(-99, 99), min_size=1, max_size=4), data=st.data()
)
def test_a_field_that_was_changed_or_is_set_no_more_is_noticed(spec: dict[str, int], data: st.DataObject) -> None:
    manifest = stamped({"kind": "X", "metadata": {"name": "x"}, "spec": spec})
    field = data.draw(st.sampled_from(sorted(spec)))
    edited = json.loads(json.dumps(manifest))
    edited["spec"][field] += 1
    assert differs(manifest, edited)
    smaller = {key: value for key, value in spec.items() if key != field}
    assert differs(stamped({"kind": "X", "metadata": {"name": "x"}, "spec": smaller}), manifest)


def test_an_object_is_read_with_what_a_server_adds() -> None:
    body = environment_body("one")
    body["metadata"] |= {"managedFields": [{"manager": "kubectl", "time": "now", "new-in-2030": 1}], "selfLink": "/x"}
    assert isinstance(read(Environment, body), Environment)


def test_every_problem_names_its_field() -> None:
    body = environment_body("one")
    body["spec"] = {**body["spec"], "steps": [{"id": "s1", "question": "?"}], "sandbox": {"isolation": "pod"}}
    found = read(Environment, body)
    assert isinstance(found, list)
    assert {problem.field for problem in found} == {"spec.steps[0].answer", "spec.sandbox"}


def test_a_missing_spec_is_a_problem_too() -> None:
    body = environment_body("one")
    del body["spec"]
    found = read(Environment, body)
    assert isinstance(found, list)
    assert found[0].field == "spec"


def test_what_may_change_in_a_run_that_has_begun() -> None:
    def spec(**changes: Any) -> dict[str, Any]:
        return training_run(**changes).spec.model_dump(mode="json", by_alias=True)

    assert changed_fields(spec(), spec(suspend=True, sandboxes={"replicas": 5}), FREE) == []
    (problem,) = changed_fields(spec(), spec(rl={"groupSize": 4}), FREE)
    assert problem.field == "spec.rl.groupSize"


def test_the_census_counts_each_environment_once() -> None:
    census = Census()
    for name, phase, label in [
        ("a", "Verified", "x"),
        ("b", "Rejected", "x"),
        ("c", "Pending", "x"),
        ("d", "Verified", "y"),
    ]:
        assert census.note(environment_body(name, phase, {"set": label}))
    assert not census.note(environment_body("a", "Verified", {"set": "x"})), "no news"
    only_x = [Selector(match_labels={"set": "x"})]
    assert census.count("lab", only_x) == Counts(1, 1, 1)
    assert census.count("lab", [*only_x, Selector(match_labels={"set": "y"})]) == Counts(2, 1, 1)
    assert census.count("elsewhere", [Selector()]) == Counts(0, 0, 0)
    census.forget("lab", "a")
    assert census.count("lab", only_x) == Counts(0, 1, 1)
    stale = environment_body("d", "Verified", {"set": "y"})
    stale["metadata"]["generation"] = 2
    census.note(stale)
    assert census.count("lab", [Selector(match_labels={"set": "y"})]) == Counts(0, 0, 1), (
        "its verdict is of another spec"
    )


def _pod(name: str, message: str | None, ready: bool = True, code: int = 0) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "message": message}} if message is not None else {"running": {}}
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "initContainerStatuses": [{"name": CANARY, "state": ended}],
        },
    }


REFUSED = json.dumps({"refused": ["API server"], "open": []})
OPEN = json.dumps({"refused": [], "open": ["API server"]})


@pytest.mark.parametrize(
    ("messages", "isolated"),
    [
        ([REFUSED, REFUSED], True),
        ([REFUSED, OPEN], False),
        ([None, None], None),
        ([REFUSED, None], True),
        (["no JSON"], None),
        (['{"refused": []}'], None),
        ([json.dumps({"refused": [], "open": []})], False),  # nothing was tried: nothing is proven
    ],
)
def test_one_open_pod_is_an_open_pool(messages: list[str | None], isolated: bool | None) -> None:
    pods = [_pod(str(number), message) for number, message in enumerate(messages)]
    assert view(len(pods), pods).isolated is isolated


def test_a_canary_that_crashed_proves_nothing() -> None:
    assert view(1, [_pod("a", REFUSED, code=1)]).isolated is None


def test_pods_that_end_do_not_count() -> None:
    ending = _pod("a", REFUSED)
    ending["metadata"]["deletionTimestamp"] = "now"
    assert not view(1, [ending]).serves
    assert view(1, [_pod("b", REFUSED)]).serves


def test_certificates_are_renewed_in_time() -> None:
    files = make_certificates("pool", "lab", NOW)
    assert set(files) == {"ca.crt", "server.crt", "server.key", "client.crt", "client.key"}
    assert not renewal_due(files, NOW)
    assert renewal_due(files, NOW + VALID - RENEW + timedelta(days=1))
    assert renewal_due({"server.crt": "bm9uZQ=="}, NOW)


def test_settings() -> None:
    found = OperatorSettings.of_environment(
        {"ASTRA_NAMESPACE": "astra", "ASTRA_WATCH_NAMESPACES": "a, b", "ASTRA_RUNTIME_CLASS": ""}
    )
    assert found.watched == ("a", "b")
    assert found.runtime_class is None
    assert found.serves("a")
    assert not found.serves("astra")
    assert OperatorSettings.of_environment({"ASTRA_NAMESPACE": "astra"}).runtime_class == "gvisor"


@pytest.mark.parametrize("name", ["ASTRA_IMAGE_PULL_POLICY", "ASTRA_METRICS_PORT", "ASTRA_OPERATOR_LABELS"])
def test_bad_settings_name_the_variable(name: str) -> None:
    with pytest.raises(BadInput, match=name):
        OperatorSettings.of_environment({"ASTRA_NAMESPACE": "astra", name: "what?"})


def test_a_watch_that_tells_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("astra_operator.heartbeat.time.monotonic", lambda: clock[0])
    heart = Heartbeat()
    for beat in range(10):
        clock[0] = beat * 20.0
        heart.made(str(beat))
        heart.seen(str(beat))
        assert heart.fault() is None
    heart.made("unseen")
    clock[0] += 60
    assert heart.fault() is None
    clock[0] += 60
    assert "told nothing" in str(heart.fault())
    heart.made("later")
    heart.seen("later")
    assert heart.fault() is None, "a watch that came back skips what was overwritten"
