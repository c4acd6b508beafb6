"""The chart's definitions on a current server: what it takes, what it refuses and how, what it fills in.

What is expected comes from the models or from the schema as the server gives it; what happens comes from the server.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster
from operators import eventually
from schemas import KEY, Schema, bounds, dotted, holding, least, most, parted, places, rules
from schemas import Path as FieldPath
from standin import kube_of

from astra_api.kube import Kind
from astra_api.manifests import KINDS
from astra_api.resource import API_VERSION
from astra_api.synthesis_run import FREE as SYNTHESIS_FREE
from astra_api.training_run import FREE as TRAINING_FREE
from astra_api.yaml_documents import documents
from custom_resources import (
    ALLOWED_CHANGES,
    BAD,
    GOOD,
    REFUSED_CHANGES,
    TABLES,
    TINY,
    default_differences,
    environment,
    synthesis_run,
    training_run,
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "astra-farm"
RELEASED = Path(__file__).with_name("released")
PLURALS = {"Environment": "environments", "SynthesisRun": "synthesisruns", "TrainingRun": "trainingruns"}
Object = dict[str, Any]


EXAMPLES = sorted(
    str(file.relative_to(ROOT / "examples"))
    for file in (ROOT / "examples").rglob("*.yaml")
    for document in list(documents(file.read_text()))[:1]
    if isinstance(document.value, dict) and document.value.get("kind") in PLURALS
)


class Definitions:
    """A server with the definitions of the chart, and their schemas as it gives them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace, self._client = cluster, namespace, kube_of(cluster)._client
        found = [cluster.get("crd", f"{plural}.astra.farm") for plural in PLURALS.values()]
        versions = {one["spec"]["names"]["kind"]: one["spec"]["versions"][0] for one in found}
        self.schemas: dict[str, Schema] = {
            kind: version["schema"]["openAPIV3Schema"]["properties"] for kind, version in versions.items()
        }

    @contextlib.contextmanager
    def holds(self, body: Object) -> Iterator[None]:
        """The object is there while the block runs."""
        name = body["metadata"]["name"]
        assert self._asked("POST", body["kind"], "", body, dry=False) == []
        yield
        assert self._asked("DELETE", body["kind"], name, None, dry=False) == []

    def refusals(self, body: Object) -> list[tuple[str, str]]:
        """(field, words) of all that the server has against a new object."""
        return self._asked("POST", body["kind"], "", body)

    def refusals_of_change(self, body: Object, part: str = "spec") -> list[tuple[str, str]]:
        """The same of what an object that is there would become, by a merge into its spec or its status."""
        name = body["metadata"]["name"]
        rest = f"{name}/status" if part == "status" else name
        return self._asked("PATCH", body["kind"], rest, {part: body[part]})

    def stored(self, body: Object) -> Object:
        """A good object as the server would keep it, with what it fills in."""
        status, answer = self._call("POST", body["kind"], "", body, dry=True)
        assert status == 201, answer
        return answer

    def _asked(self, *request: Any, dry: bool = True) -> list[tuple[str, str]]:
        status, answer = self._call(*request, dry=dry)
        if status < 400:
            return []
        causes = (answer.get("details") or {}).get("causes") or [{"message": answer["message"]}]
        return [(cause.get("field", ""), cause["message"]) for cause in causes]

    def _call(self, method: str, kind: str, rest: str, body: Object | None, *, dry: bool) -> tuple[int, Object]:
        from kubernetes.client.exceptions import ApiException

        path = Kind(API_VERSION, kind, PLURALS[kind]).path(self.namespace) + (f"/{rest}" if rest else "")
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry else "") if method != "DELETE" else ""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + query
        try:
            response = self._client.call_api(method, url, headers, body, _request_timeout=60)
            return response.status, json.loads(response.read())
        except ApiException as error:
            return error.status, json.loads(error.body)


@pytest.fixture(scope="module")
def rendered(crd_server: Cluster) -> str:
    """The definitions as the chart renders them."""
    return crd_server.run("helm", "template", "farm", CHART, "--show-only", "templates/crds.yaml")


@pytest.fixture(scope="module")
def served(crd_server: Cluster, rendered: str) -> Cluster:
    crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered)
    _wait_until_served(crd_server, rendered)
    return crd_server


def _wait_until_served(cluster: Cluster, definitions: str) -> None:
    """As they are written here: a server publishes the schemas of a definition a while after it took it."""
    wanted = {one["spec"]["names"]["kind"]: one["spec"] for one in yaml.safe_load_all(definitions)}
    for spec in wanted.values():
        eventually(lambda plural=spec["names"]["plural"]: _is_established(cluster, plural), 60)

    def published(kind: str) -> bool:
        (version,) = wanted[kind]["versions"]
        try:
            found = _published(cluster, kind)
        except (AssertionError, ValueError):
            return False
        return _paths(found) == _paths(version["schema"]["openAPIV3Schema"])

    eventually(lambda: all(map(published, wanted)), 60)


def _paths(schema: Schema) -> set[str]:
    return {dotted((part, *path)) for part in ("spec", "status") for path, _ in places(schema["properties"][part])}


def _published(cluster: Cluster, kind: str) -> Schema:
    """The schema of a kind in the document from which `kubectl explain` reads."""
    document = json.loads(cluster.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))
    (found,) = (schema for name, schema in document["components"]["schemas"].items() if name.endswith(f".{kind}"))
    return dict(found)


def _is_established(cluster: Cluster, plural: str) -> bool:
    conditions = cluster.get("crd", f"{plural}.astra.farm").get("status", {}).get("conditions", [])
    states = {condition["type"]: condition["status"] for condition in conditions}
    assert "NonStructuralSchema" not in states, conditions
    return states.get("NamesAccepted") == states.get("Established") == "True"


@pytest.fixture(scope="module")
def definitions(served: Cluster) -> Iterator[Definitions]:
    with served.namespace() as namespace:
        yield Definitions(served, namespace)


# What the server takes


@pytest.mark.parametrize("flags", [("--server-side", "--force-conflicts"), ()], ids=["server-side", "client-side"])
def test_the_definitions_are_applied_as_the_chart_renders_them(
    crd_server: Cluster, rendered: str, flags: tuple[str, ...]
) -> None:
    kinds = [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(rendered)]
    assert sorted(kinds) == sorted(PLURALS)
    crd_server.kubectl("apply", *flags, "-f", "-", stdin=rendered)
    _wait_until_served(crd_server, rendered)


@pytest.mark.parametrize("flags", [("--server-side",), ()], ids=["server-side", "client-side"])
@pytest.mark.parametrize("file", EXAMPLES, ids=str)
def test_the_examples_are_applied(served: Cluster, file: str, flags: tuple[str, ...]) -> None:
    with served.namespace() as namespace:
        command = ("apply", *flags, "--validate=strict", "-n", namespace, "-f", ROOT / "examples" / file)
        names = served.kubectl(*command, "-o", "name").split()
        assert names
        assert served.kubectl(*command, "-o", "name").split() == names, "applied again, it is what it was"


# What the server refuses

BASES = {"Environment": environment(), "SynthesisRun": synthesis_run(count=1, environments=TABLES)} | {
    "TrainingRun": training_run(model=TINY, rl={})
}
ONLY_OF_CHANGES = "cannot be changed"  # what every rule over an old object says


def _object(kind: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": BASES[kind]["metadata"], "spec": spec}


@pytest.mark.parametrize("body", GOOD, ids=lambda body: body["kind"])
def test_good_objects_are_taken(definitions: Definitions, body: Object) -> None:
    assert definitions.refusals(body) == []


@pytest.mark.parametrize(("body", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_bad_objects_are_refused_with_the_field(definitions: Definitions, body: Object, expected: str) -> None:
    refusals = [f"{field}: {words.removeprefix('Invalid value: ')}" for field, words in definitions.refusals(body)]
    assert any(expected in refusal for refusal in refusals), refusals


def test_every_rule_refuses_what_breaks_it(definitions: Definitions) -> None:
    """At each place where it stands: what breaks it there is in BAD, or at another place of the same rule."""
    breaks: dict[str, list[tuple[str, FieldPath, Any]]] = {}
    for body, _ in BAD:
        for field, words in definitions.refusals(body):
            breaks.setdefault(words.removeprefix("Invalid value: "), []).append((body["kind"], *_at(body, field)))
    untried = []
    for kind, schema in definitions.schemas.items():
        for path, message in rules({"properties": schema}):
            found = breaks.get(message, [])
            if ONLY_OF_CHANGES in message or any((kind, path) == (other, at) for other, at, _ in found):
                continue
            moved = [_object(kind, holding(schema["spec"], path[1:], value)) for *_, value in found]
            said = [refusal for body in moved for refusal in definitions.refusals(body)]
            if (dotted(path), f"Invalid value: {message}") not in said:
                untried.append((kind, dotted(path), message))
    assert not untried, "no object shows that the server knows these rules: add one to BAD in tests/custom_resources.py"


def _at(body: Object, field: str) -> tuple[FieldPath, Any]:
    """The path of a refused field, its indices put to 0, and the value there; nothing for a field that is missing."""
    value: Any = body
    for part in parted(field):
        value = (value.get(part) if isinstance(value, dict) else value[part]) if value is not None else None
    return tuple(0 if isinstance(part, int) else part for part in parted(field)), value


@pytest.mark.parametrize(("old", "new"), ALLOWED_CHANGES, ids=lambda body: body["kind"])
def test_changes_of_how_a_run_is_run_are_taken(definitions: Definitions, old: Object, new: Object) -> None:
    with definitions.holds(old):
        assert definitions.refusals_of_change(new) == []


@pytest.mark.parametrize(("old", "new", "field"), REFUSED_CHANGES, ids=[field for *_, field in REFUSED_CHANGES])
def test_changes_of_what_a_run_does_are_refused(definitions: Definitions, old: Object, new: Object, field: str) -> None:
    with definitions.holds(old):
        refusals = definitions.refusals_of_change(new)
        assert any(f"{field} {ONLY_OF_CHANGES}" in words for _, words in refusals), refusals


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("kind", PLURALS)
def test_every_bound_is_kept_by_the_server(definitions: Definitions, kind: str, part: str) -> None:
    """Of each field: a value at the bound is not refused for it, one just beyond is, by the path of the field."""
    schema, wrong = definitions.schemas[kind][part], []
    found = list(bounds(schema, part))
    assert {bound.path for bound in found} >= {path for path, inner in places(schema) if "type" in inner}
    with definitions.holds(BASES[kind]) if part == "status" else contextlib.nullcontext():
        for bound in found:
            for value, refused in ((bound.kept, False), (bound.broken, True)):
                body = _object(kind, {}) | {part: holding(schema, bound.path, value)}
                said = definitions.refusals(body) if part == "spec" else definitions.refusals_of_change(body, part)
                if refused != any(field == bound.field and bound.words in words for field, words in said):
                    wrong.append((bound.keyword, bound.field, str(value)[:80], bound.words, said[:3]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("kind", PLURALS)
def test_unknown_fields_are_refused_at_every_depth(definitions: Definitions, kind: str) -> None:
    schema = definitions.schemas[kind]["spec"]
    for path, inner in places(schema):
        if "properties" in inner:
            body = _object(kind, holding(schema, path, {**least(inner), "surprise": 1}))
            field = dotted(("spec", *path, "surprise"))
            assert any(f'unknown field "{field}"' in words for _, words in definitions.refusals(body)), field


def _changed(schema: Schema, value: Any) -> Any:
    """Another value of the schema than a field has."""
    if "enum" in schema:
        return next(one for one in schema["enum"] if one != value)
    if value is None:
        return least(schema)
    match schema.get("type"):
        case "boolean":
            return not value
        case "integer" | "number":
            return value + 1
        case "string":
            return f"{value}a"
        case "array":
            return [*value, least(schema["items"])]
    if "properties" in schema:
        name = next(name for name, inner in schema["properties"].items() if _can_change(inner, value.get(name)))
        return {**value, name: _changed(schema["properties"][name], value.get(name))}
    return {**value, KEY: least(schema["additionalProperties"])}


def _can_change(schema: Schema, value: Any) -> bool:
    return "enum" not in schema or any(one != value for one in schema["enum"])


@pytest.mark.parametrize(("kind", "free"), [("SynthesisRun", SYNTHESIS_FREE), ("TrainingRun", TRAINING_FREE)])
def test_each_field_of_a_run_may_change_or_not(definitions: Definitions, kind: str, free: tuple[str, ...]) -> None:
    """From what it has (or from nothing) to something else."""
    fields = definitions.schemas[kind]["spec"]["properties"]
    assert set(free) < set(fields)
    before = definitions.stored(BASES[kind])["spec"]
    with definitions.holds(BASES[kind]):
        for name, schema in fields.items():
            changed = _changed(schema, before.get(name))
            said = [words for _, words in definitions.refusals_of_change(_object(kind, {name: changed}))]
            assert any(f"{name} {ONLY_OF_CHANGES}" in words for words in said) == (name not in free), (name, said)


def test_scale_keeps_the_bounds(definitions: Definitions) -> None:
    with definitions.holds(BASES["Environment"]):
        scale = ("scale", "environment/city-trip", "-n", definitions.namespace)
        definitions.cluster.kubectl(*scale, "--replicas=1000")
        stored = definitions.cluster.get("environment", "city-trip", "-n", definitions.namespace)
        assert stored["spec"]["sandbox"]["replicas"] == 1000
        with pytest.raises(AssertionError, match=r"spec\.sandbox\.replicas.*1000"):
            definitions.cluster.kubectl(*scale, "--replicas=1001")


@pytest.mark.parametrize("field", ["spec.count", "spec.environments.source.surprise"])
def test_kubectl_names_the_field(definitions: Definitions, field: str) -> None:
    source = TABLES["source"] | ({} if field == "spec.count" else {"surprise": 1})
    body = synthesis_run(count=0 if field == "spec.count" else 1, environments={"source": source})
    for flags in (("--server-side",), ()):
        with pytest.raises(AssertionError, match=re.escape(field)):
            definitions.cluster.kubectl("apply", *flags, "-n", definitions.namespace, "-f", "-", stdin=json.dumps(body))


# What the server fills in

_TEMPLATE: Object = {"metadata": {}, "spec": {"securityContext": {"seccompProfile": {}}}}
_TEACHER = {"baseUrl": "http://teacher/v1", "model": "m"}
SPARSE = [  # what leaves as much as possible to defaults, each part that need not be there once there
    *BASES.values(),
    synthesis_run(count=1, environments=TABLES, teacher=_TEACHER, judge=_TEACHER, podTemplate=_TEMPLATE),
    training_run(model=TINY, rl={}, environments={"selector": {}, "holdout": {"selector": {}}}),
    training_run(model=TINY, sft={"dataset": {"type": "gold"}}),
    training_run(model=TINY, rl={}, engine="verl", verl={}),
    training_run(model=TINY, rl={"irrelevantTools": {"bands": {}}, "batchFilling": {}}),
    training_run(
        model=TINY, rl={}, checkpoint={}, evaluation={}, sandboxes={"podTemplate": _TEMPLATE},
        trainer={"podTemplate": _TEMPLATE},
    ),
]  # fmt: skip


@pytest.mark.parametrize("body", [*SPARSE, *GOOD], ids=lambda body: body["kind"])
def test_the_defaults_of_the_server_are_those_of_the_models(definitions: Definitions, body: Object) -> None:
    assert list(default_differences(body, definitions.stored(body))) == []


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that holds no other, by its path."""
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


# What the server explains

_PREPOSITIONS = {
    "Of",
    "In",
    "On",
    "At",
    "By",
    "With",
    "For",
    "From",
    "To",
    "Over",
    "Under",
    "After",
    "Before",
    "As",
    "Such",
}
_PRONOUNS = {"It", "They", "This", "That", "These", "Those", "Its", "Their"}


def _is_a_sentence(text: str) -> bool:
    words = text.split()
    return len(words) > 2 and words[0] not in _PREPOSITIONS | _PRONOUNS and text.rstrip().endswith(".")


@pytest.mark.parametrize("kind", PLURALS)
def test_every_field_is_explained_by_a_sentence(definitions: Definitions, kind: str) -> None:
    published = _published(definitions.cluster, kind)
    lacking = [
        f"{dotted((kind, part, *path))}: {inner.get('description')}"
        for part in ("spec", "status")
        for path, inner in places(published["properties"][part])
        if not (path and path[-1] in (0, KEY)) and not _is_a_sentence(inner.get("description", ""))
    ]
    assert _is_a_sentence(published["description"])
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("kind", PLURALS)
def test_kubectl_explains(definitions: Definitions, kind: str) -> None:
    explained = definitions.cluster.kubectl("explain", PLURALS[kind], "--recursive")
    schemas = definitions.schemas[kind]
    fields = [(part, *path) for part in ("spec", "status") for path, _ in places(schemas[part])]
    assert {str(part) for path in fields for part in path if part not in (0, KEY)} <= set(explained.split())
    deepest = sorted((path for path in fields if path[-1] not in (0, KEY)), key=len)[-3:]
    for path in [("spec",), *deepest]:
        names = [part for part in path if part not in (0, KEY)]
        text = definitions.cluster.kubectl("explain", ".".join([PLURALS[kind], *map(str, names)]))
        assert _described(schemas, path)[:40] in " ".join(text.split()), path


def _described(schema: Schema, path: tuple[str | int, ...]) -> str:
    inner = {"properties": schema}
    for part in path:
        inner = (
            inner["items"] if part == 0 else inner["additionalProperties"] if part == KEY else inner["properties"][part]
        )
    return " ".join(inner["description"].split())


# What the server has to work for

REQUEST_BYTES = 1_400_000  # what etcd takes
_ONE_VOLUME = dict.fromkeys(("secret", "persistentVolumeClaim", "emptyDir", "ephemeral", "csi", "nfs"))
_POD_TEMPLATE = {
    "spec": {
        "env": {"valueFrom": None},
        "volumes": _ONE_VOLUME,
        "tolerations": {"operator": "Equal", "effect": "NoExecute"},
        "hostNetwork": False,
        "securityContext": {"seccompProfile": {"type": "Localhost"}},
    }
}
_FITS: dict[str, Object] = {  # what the rules want of an object that has every field; None leaves one out
    "Environment": {"sourceRef": None, "steps": {"match": "numeric"}, "sandbox": {"memory": "1Gi"}},
    "SynthesisRun": {
        "trajectories": None,
        "environments": {"source": {"type": "knowledge", "pack": None, "path": None, "toolset": None}},
        "podTemplate": _POD_TEMPLATE,
    },
    "TrainingRun": {
        "engine": "verl",
        "model": {"path": None, "gguf": None, "preset": None},
        "environments": {"holdout": {"fraction": None}},
        "sft": {"dataset": {"type": "gold", "path": None}},
        "rl": {"groupSize": 2, "batchSize": 2, "irrelevantTools": {"bands": {"medium": 0.5}}},
        "verl": {"rollout": "separate", "rolloutGpus": 64},
        "sandboxes": {"podTemplate": {"spec": _POD_TEMPLATE["spec"] | {"runtimeClassName": None}}},
        "trainer": {"podTemplate": _POD_TEMPLATE},
    },
}


def _fitted(value: Any, changes: Object) -> Any:
    if isinstance(value, list):
        return [_fitted(item, changes) for item in value]
    made = {name: inner for name, inner in value.items() if changes.get(name, inner) is not None}
    for name, change in changes.items():
        if change is not None:
            made[name] = _fitted(made[name], change) if isinstance(change, dict) else change
    return made


@pytest.mark.parametrize("kind", PLURALS)
def test_the_largest_objects_are_within_the_budget_of_rules(definitions: Definitions, kind: str) -> None:
    """Lists and maps as long as the schema allows, strings as long as an object may be; made, then changed."""
    schema = definitions.schemas[kind]["spec"]
    sizes = (_fitted(most(schema, longest), _FITS[kind]) for longest in (131072, 32768, 4096, 1024, 256, 64, 16))
    body = _object(kind, next(spec for spec in sizes if len(json.dumps(spec)) < REQUEST_BYTES))
    assert len(json.dumps(body)) > REQUEST_BYTES / 10
    with definitions.holds(body):
        assert definitions.refusals_of_change(body) == [], "the rules over an old object are within it too"


# What the server keeps over an upgrade of the definitions


@pytest.fixture(scope="module")
def upgraded(crd_server: Cluster, rendered: str) -> Iterator[tuple[Cluster, str]]:
    """Objects of the released definitions, stored before the definitions became the chart's; and their namespace."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip("makes the definitions anew, which ends all objects there are: only on a server of the tests' own")
    for plural in PLURALS.values():
        crd_server.kubectl("delete", "crd", f"{plural}.astra.farm", "--ignore-not-found")
    released = "---\n".join((RELEASED / f"{plural}.yaml").read_text() for plural in PLURALS.values())
    crd_server.kubectl("create", "-f", "-", stdin=released)
    _wait_until_served(crd_server, released)
    with crd_server.namespace() as namespace:
        crd_server.kubectl("apply", "--server-side", "-n", namespace, "-f", RELEASED / "objects.yaml")
        for body in _released():
            status = json.dumps({"status": body["status"]})
            _patch(crd_server, namespace, body, status, "--subresource=status")
        crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered)
        _wait_until_served(crd_server, rendered)
        yield crd_server, namespace


def _released() -> list[Object]:
    return [document.value for document in documents((RELEASED / "objects.yaml").read_text())]


def _patch(cluster: Cluster, namespace: str, body: Object, patch: str, *flags: str) -> None:
    name = f"{PLURALS[body['kind']]}.astra.farm/{body['metadata']['name']}"
    cluster.kubectl("patch", name, "-n", namespace, "--type=merge", "-p", patch, *flags)


@pytest.mark.parametrize("body", _released(), ids=lambda body: body["metadata"]["name"])
def test_released_objects_live_on(upgraded: tuple[Cluster, str], body: Object) -> None:
    """They are read, applied again unchanged, and their status and what may change of them is written."""
    cluster, namespace = upgraded
    kind, name = body["kind"], body["metadata"]["name"]
    stored = cluster.get(f"{PLURALS[kind]}.astra.farm", name, "-n", namespace)
    KINDS[kind].model_validate(stored)
    written, kept = dict(_leaves(body["spec"])), dict(_leaves(stored["spec"]))
    assert written.items() <= kept.items()
    assert dict(_leaves(body["status"])).items() <= dict(_leaves(stored["status"])).items()
    for flags in (("--server-side",), ("--server-side", "--force-conflicts", "--field-manager=another")):
        cluster.kubectl("apply", *flags, "-n", namespace, "-f", "-", stdin=json.dumps(body))
    again = cluster.get(f"{PLURALS[kind]}.astra.farm", name, "-n", namespace)
    assert again["spec"] == stored["spec"]
    assert again["metadata"]["generation"] == stored["metadata"]["generation"]
    phase = {"Environment": "Verified", "SynthesisRun": "Running", "TrainingRun": "Training"}[kind]
    _patch(cluster, namespace, body, json.dumps({"status": {"phase": phase}}), "--subresource=status")
    if kind == "TrainingRun":
        _patch(cluster, namespace, body, json.dumps({"spec": {"suspend": True}}))
    if kind == "Environment":
        _patch(cluster, namespace, body, json.dumps({"spec": {"sandbox": {"replicas": 1}}}))
