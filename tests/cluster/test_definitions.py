"""The chart's definitions on a current server: what it takes, what it refuses and how, what it fills in.

What is expected comes from the models or from the schema as the server gives it; what happens comes from the server.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster
from operators import eventually
from schemas import KEY, Schema, bounds, dotted, holding, least, most, places, rules
from standin import kube_of

from astra_api import training_run
from astra_api.kube import Kind
from astra_api.manifests import KINDS
from astra_api.resource import API_VERSION
from astra_api.yaml_documents import documents

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
    _wait_until_served(crd_server)
    return crd_server


def _wait_until_served(cluster: Cluster) -> None:
    def all_are() -> bool:
        text = cluster.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}")
        return all(f'"{kind}"' in text for kind in PLURALS)

    for plural in PLURALS.values():
        eventually(lambda plural=plural: _is_established(cluster, plural), 60)
    eventually(lambda: _or_false(all_are), 60)


def _is_established(cluster: Cluster, plural: str) -> bool:
    conditions = cluster.get("crd", f"{plural}.astra.farm").get("status", {}).get("conditions", [])
    states = {condition["type"]: condition["status"] for condition in conditions}
    assert "NonStructuralSchema" not in states, conditions
    return states.get("NamesAccepted") == states.get("Established") == "True"


def _or_false(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except AssertionError:  # not published yet
        return False


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
    _wait_until_served(crd_server)


@pytest.mark.parametrize("flags", [("--server-side",), ()], ids=["server-side", "client-side"])
@pytest.mark.parametrize("file", EXAMPLES, ids=str)
def test_the_examples_are_applied(served: Cluster, file: str, flags: tuple[str, ...]) -> None:
    with served.namespace() as namespace:
        command = ("apply", *flags, "--validate=strict", "-n", namespace, "-f", ROOT / "examples" / file)
        names = served.kubectl(*command, "-o", "name").split()
        assert names
        assert served.kubectl(*command, "-o", "name").split() == names, "applied again, it is what it was"


# What the server refuses

_CITY = yaml.safe_load((ROOT / "examples" / "environments" / "city-trip.yaml").read_text())["spec"]
_STEP = _CITY["steps"][0]
_TABLES = {"type": "tables", "pack": "geography"}
_KNOWLEDGE = {"type": "knowledge", "domains": ["travel"]}
_TEACHER = {"baseUrl": "http://teacher/v1", "model": "m"}
_TINY = {"model": {"preset": "tiny"}, "rl": {}}
_VERL = _TINY | {"engine": "verl", "trainer": {"nodes": 2, "gpusPerNode": 8}}
_SEPARATE = {"rollout": "separate", "maxStaleness": 1}


def _object(kind: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "tried"}, "spec": spec}


def _environment(**changes: Any) -> Object:
    """A good Environment with fields changed; those that are None are left out."""
    return _object("Environment", {key: value for key, value in (_CITY | changes).items() if value is not None})


def _synthesis(source: Object | None = None, **changes: Any) -> Object:
    environments = {"source": source or _TABLES}
    return _object("SynthesisRun", {"count": 1, "environments": environments} | changes)


def _sourced(source: Object) -> Object:
    return _synthesis(source, teacher=_TEACHER)


def _run(**changes: Any) -> Object:
    return _object("TrainingRun", {k: v for k, v in (_TINY | changes).items() if v is not None})


def _verl(**division: Any) -> Object:
    return _run(**_VERL | {"verl": division})


def _learned_from(dataset: Object) -> Object:
    return _run(sft={"dataset": dataset})


BASES = {"Environment": _environment(), "SynthesisRun": _synthesis(), "TrainingRun": _run()}

# field of a rule, part of its message, an object that breaks it
BREAKS_A_RULE: list[tuple[str, str, Object]] = [
    ("spec", "one of source and sourceRef", _environment(sourceRef={"configMap": "c", "key": "k"})),
    ("spec", "one of source and sourceRef", _environment(source=None)),
    (
        "spec.steps[0]",
        "tolerance needs match: numeric",
        _environment(steps=[_STEP | {"match": "text", "tolerance": 1}]),
    ),
    ("spec.sandbox", "isolation: pod needs replicas", _environment(sandbox={"isolation": "pod"})),
    ("spec", "kind: trajectories is not built yet", _synthesis(kind="trajectories")),
    ("spec", "needs the field environments", _synthesis(trajectories={})),
    ("spec", "needs a teacher", _synthesis(_KNOWLEDGE)),
    ("spec.environments.source", "one of path and domains", _sourced(_KNOWLEDGE | {"path": "p"})),
    ("spec.environments.source", "type: questions needs path", _sourced({"type": "questions"})),
    ("spec.environments.source", "one of pack and path", _synthesis(_TABLES | {"path": "p"})),
    ("spec.environments.source", "domains goes with", _synthesis(_TABLES | {"domains": ["d"]})),
    ("spec.environments.source", "languages goes with", _synthesis(_TABLES | {"languages": ["en"]})),
    ("spec.environments.source", "statefulShare goes with", _synthesis(_TABLES | {"statefulShare": 0.5})),
    ("spec.environments.source", "pack goes with", _sourced(_KNOWLEDGE | {"pack": "p"})),
    ("spec.environments.source", "toolset goes with", _sourced(_KNOWLEDGE | {"toolset": {}})),
    (
        "spec.environments.source.toolset.tools",
        "min must not be more than max",
        _synthesis(_TABLES | {"toolset": {"tools": {"min": 9, "max": 8}}}),
    ),
    (
        "spec.environments.hops",
        "min must not be more than max",
        _synthesis(environments={"source": _TABLES, "hops": {"min": 3, "max": 2}}),
    ),
    ("spec", "engine: embedded needs trainer.nodes: 1", _run(trainer={"nodes": 2})),
    ("spec", "nothing to train", _run(rl=None)),
    ("spec", "verl belongs to engine: verl", _run(verl={})),
    ("spec", "leaves no GPU to train", _verl(**_SEPARATE, rolloutGpus=16)),
    ("spec", "rolloutGpus must be whole nodes", _verl(**_SEPARATE, rolloutGpus=4)),
    ("spec", "tensorParallel must divide", _verl(tensorParallel=3)),
    ("spec", "sequenceParallel must divide", _verl(sequenceParallel=3)),
    ("spec.verl", "needs maxStaleness", _verl(rollout="separate", rolloutGpus=8)),
    ("spec.verl", "rolloutGpus is required by", _verl(**_SEPARATE)),
    ("spec.verl", "rolloutGpus is required by", _verl(rolloutGpus=8)),
    ("spec.model", "one of name, path, gguf and preset", _run(model={})),
    ("spec.model", "one of name, path, gguf and preset", _run(model={"preset": "tiny", "name": "n"})),
    ("spec.model", "context belongs to", _run(model={"preset": "tiny", "context": 1})),
    ("spec.model.gguf", "one of package and path", _run(model={"gguf": {}})),
    ("spec.environments.holdout", "one of fraction and selector", _run(environments={"holdout": {}})),
    ("spec.sft.dataset", "type: files needs path", _learned_from({"type": "files"})),
    ("spec.sft.dataset", "path goes with", _learned_from({"type": "gold", "path": "p"})),
    ("spec.sft.dataset", "limit goes with", _learned_from({"type": "files", "path": "p", "limit": 1})),
    ("spec.sft.dataset", "samples goes with", _learned_from({"type": "files", "path": "p", "samples": 1})),
    ("spec.sft.dataset", "recoveries goes with", _learned_from({"type": "files", "path": "p", "recoveries": 0})),
    ("spec.sft.dataset", "detours goes with", _learned_from({"type": "files", "path": "p", "detours": 0})),
    ("spec.rl", "batchSize must be a multiple", _run(rl={"batchSize": 9, "groupSize": 2})),
    ("spec.rl.irrelevantTools.bands", "medium must be less", _run(rl={"irrelevantTools": {"bands": {"medium": 0.9}}})),
]
ONLY_OF_CHANGES = "cannot be changed"  # what every rule over an old object says


@pytest.mark.parametrize(("field", "words", "body"), BREAKS_A_RULE, ids=[f"{f}: {w}" for f, w, _ in BREAKS_A_RULE])
def test_a_rule_refuses_what_breaks_it(definitions: Definitions, field: str, words: str, body: Object) -> None:
    refusals = definitions.refusals(body)
    assert any(where == field and words in said for where, said in refusals), refusals


def test_every_rule_has_an_object_that_breaks_it(definitions: Definitions) -> None:
    tried = {(body["kind"], re.sub(r"\[\d+\]", "[0]", field), words) for field, words, body in BREAKS_A_RULE}
    untried = [
        (kind, field, message)
        for kind, schema in definitions.schemas.items()
        for field, message in rules({"properties": schema})
        if ONLY_OF_CHANGES not in message
        and not any((kind, field) == (k, f) and words in message for k, f, words in tried)
    ]
    assert not untried, "rules of which no test shows that the server knows them: add them to BREAKS_A_RULE"


def test_bases_of_the_table_are_good(definitions: Definitions) -> None:
    """Whatever is refused above is refused for its one change."""
    for body in (*BASES.values(), _sourced(_KNOWLEDGE), _verl(), _verl(**_SEPARATE, rolloutGpus=8)):
        assert definitions.refusals(body) == []


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


@pytest.mark.parametrize("kind", ["SynthesisRun", "TrainingRun"])
def test_what_a_run_does_cannot_be_changed(definitions: Definitions, kind: str) -> None:
    """Each field of its spec, from what it has (or from nothing) to something else; how it is run may change."""
    free = training_run.FREE if kind == "TrainingRun" else ()
    fields = definitions.schemas[kind]["spec"]["properties"]
    assert set(free) < set(fields)
    before = definitions.stored(BASES[kind])["spec"]
    with definitions.holds(BASES[kind]):
        for name, schema in fields.items():
            changed = _changed(schema, before.get(name))
            said = [words for _, words in definitions.refusals_of_change(_object(kind, {name: changed}))]
            fixed = [words for words in said if ONLY_OF_CHANGES in words]
            assert bool(fixed) == (name not in free), f"{name}: {before.get(name)} -> {changed}: {said}"
            assert all(name in words or "the spec of" in words for words in fixed), fixed
            if name in before and name not in free and "default" not in schema:
                removed = definitions.refusals_of_change(_object(kind, {name: None}))
                assert removed, f"{name} was removed"


def test_scale_keeps_the_bounds(definitions: Definitions) -> None:
    with definitions.holds(BASES["Environment"]):
        scale = ("scale", "environment/tried", "-n", definitions.namespace)
        definitions.cluster.kubectl(*scale, "--replicas=1000")
        stored = definitions.cluster.get("environment", "tried", "-n", definitions.namespace)
        assert stored["spec"]["sandbox"]["replicas"] == 1000
        with pytest.raises(AssertionError, match=r"spec\.sandbox\.replicas.*1000"):
            definitions.cluster.kubectl(*scale, "--replicas=1001")


@pytest.mark.parametrize("field", ["spec.count", "spec.environments.source.surprise"])
def test_kubectl_names_the_field(definitions: Definitions, field: str) -> None:
    body = _synthesis(count=0) if field == "spec.count" else _synthesis(_TABLES | {"surprise": 1})
    for flags in (("--server-side",), ()):
        with pytest.raises(AssertionError, match=re.escape(field)):
            definitions.cluster.kubectl("apply", *flags, "-n", definitions.namespace, "-f", "-", stdin=json.dumps(body))


# What the server fills in

UNIONS = (
    "environments.source",
    "sft.dataset",
)  # their variants have defaults of their own, which a server cannot fill in


def _opened() -> Iterator[tuple[str, Object]]:
    """Good objects that leave as much as possible to defaults; each part that need not be there is there once."""
    yield from ((f"{kind}", body) for kind, body in BASES.items())
    template = {"metadata": {}, "spec": {"securityContext": {"seccompProfile": {}}}}
    yield "teacher", _synthesis(teacher=_TEACHER, judge=_TEACHER, podTemplate=template)
    yield "knowledge", _sourced(_KNOWLEDGE)
    yield "selectors", _run(environments={"selector": {}, "holdout": {"selector": {}}})
    yield "sft", _run(sft={"dataset": {"type": "gold"}})
    yield "verl", _run(engine="verl", verl={})
    yield (
        "parts",
        _run(sandboxes={"podTemplate": template}, trainer={"podTemplate": template}, checkpoint={}, evaluation={}),
    )
    yield "rl", _run(rl={"irrelevantTools": {"bands": {}}, "batchFilling": {}})


@pytest.mark.parametrize("body", [body for _, body in _opened()], ids=[name for name, _ in _opened()])
def test_the_defaults_of_the_server_are_those_of_the_models(definitions: Definitions, body: Object) -> None:
    theirs = dict(_leaves(definitions.stored(body)["spec"]))
    model = KINDS[body["kind"]].model_validate(body)
    ours = dict(_leaves(model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)))
    assert {path: value for path, value in theirs.items() if ours.get(path) != value} == {}
    assert [path for path in ours.keys() - theirs.keys() if not path.startswith(UNIONS)] == []


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
    """In the document from which `kubectl explain` reads."""
    document = json.loads(definitions.cluster.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))
    (published,) = (s for name, s in document["components"]["schemas"].items() if name.endswith(f".{kind}"))
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
        "tolerations": {"operator": "Equal"},
        "securityContext": {"seccompProfile": {"localhostProfile": None}},
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
        "sandboxes": {"podTemplate": _POD_TEMPLATE},
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
    for plural in PLURALS.values():
        crd_server.kubectl("delete", "crd", f"{plural}.astra.farm", "--ignore-not-found")
    for plural in PLURALS.values():
        crd_server.kubectl("create", "-f", RELEASED / f"{plural}.yaml")
    _wait_until_served(crd_server)
    with crd_server.namespace() as namespace:
        crd_server.kubectl("apply", "--server-side", "-n", namespace, "-f", RELEASED / "objects.yaml")
        for body in _released():
            status = json.dumps({"status": body["status"]})
            _patch(crd_server, namespace, body, status, "--subresource=status")
        crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered)
        _wait_until_served(crd_server)
        eventually(lambda: _is_upgraded(crd_server))
        yield crd_server, namespace


def _released() -> list[Object]:
    return [document.value for document in documents((RELEASED / "objects.yaml").read_text())]


def _is_upgraded(cluster: Cluster) -> bool:
    return "podTemplate" in cluster.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}")


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
