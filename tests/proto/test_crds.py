"""The CRDs say what the models say."""

import copy
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astra_api.canonical import digest
from astra_api.crds import CATEGORY, definitions, escaped, files
from astra_api.environment import Environment
from astra_api.manifests import KINDS
from astra_api.training_run import FREE, TrainingRun
from astra_api.yaml_documents import documents
from astra_operator.accepting import changed_fields

ROOT = Path(__file__).parents[2]
_module = importlib.util.spec_from_file_location("admission", Path(__file__).with_name("admission.py"))
assert _module is not None
assert _module.loader is not None
admission = importlib.util.module_from_spec(_module)
_module.loader.exec_module(admission)

DEFINITIONS = {definition["spec"]["names"]["kind"]: definition for definition in definitions()}
Schema = dict[str, Any]


def _run(**spec: Any) -> Schema:
    metadata = {"name": "run"}
    return {"apiVersion": "astra.farm/v1alpha1", "kind": "TrainingRun", "metadata": metadata, "spec": spec}


def _synthesis(**spec: Any) -> Schema:
    return _run(**spec) | {"kind": "SynthesisRun"}


def _verl(division: Schema) -> Schema:
    return _run(model=_TINY, rl={}, engine="verl", trainer={"nodes": 2, "gpusPerNode": 8}, verl=division)


def _environment(**changes: Any) -> Schema:
    body = yaml.safe_load((ROOT / "examples/environments/city-trip.yaml").read_text())
    body["spec"] = {name: value for name, value in (body["spec"] | changes).items() if value is not None}
    return body


_TABLES = {"source": {"type": "tables", "pack": "geography"}}
_KNOWLEDGE = {"source": {"type": "knowledge", "domains": ["travel"]}}
_TEACHER = {"baseUrl": "http://teacher/v1", "model": "m"}
_TINY = {"preset": "tiny"}
GOOD = [
    _environment(),
    _environment(sandbox={"isolation": "pod", "replicas": 1, "memory": 1000000}),
    _environment(source=None, sourceRef={"configMap": "c", "key": "k"}),
    _synthesis(count=1, environments=_TABLES),
    _synthesis(count=1, environments=_KNOWLEDGE, teacher=_TEACHER),
    _synthesis(count=1, environments=_TABLES | {"hops": {"min": 2, "max": 2}}),
    _run(model=_TINY, sft={"dataset": {"type": "gold", "limit": 3}}),
    _run(model=_TINY, rl={}),
    _run(
        model={"gguf": {"package": "p"}}, engine="verl", trainer={"nodes": 2}, rl={}, sandboxes={"runtimeClassName": ""}
    ),
    _run(model=_TINY, rl={}, engine="verl", verl={}),
    _verl({"rollout": "separate", "maxStaleness": 2, "rolloutGpus": 8, "tensorParallel": 4, "sequenceParallel": 2}),
    _run(
        model=_TINY, rl={"batchSize": 12, "groupSize": 4}, environments={"holdout": {"selector": {"matchLabels": {}}}}
    ),
]
BAD = [  # the object, a word of the refusal
    (_environment(sourceRef={"configMap": "c", "key": "k"}), "exactly one of source and sourceRef"),
    (_environment(source=None), "exactly one of source and sourceRef"),
    (_environment(sandbox={"isolation": "pod"}), "spec.sandbox: isolation: pod needs replicas"),
    (_environment(scenario="hop"), "spec.scenario"),
    (_environment(sandbox={"replicas": 1001}), "spec.sandbox.replicas"),
    (_environment(sandbox={"memory": "lots"}), "spec.sandbox.memory"),
    (_environment(steps=[]), "spec.steps"),
    (_synthesis(count=0, environments=_TABLES), "spec.count"),
    (_synthesis(count=1), "needs the field environments"),
    (_synthesis(count=1, kind="trajectories", trajectories={}), "not built yet"),
    (_synthesis(count=1, environments=_KNOWLEDGE), "needs a teacher"),
    (
        _synthesis(count=1, environments=_TABLES | {"hops": {"min": 3, "max": 2}}),
        "spec.environments.hops: min must not",
    ),
    (_synthesis(count=1, environments={"source": {"type": "tables"}}), "exactly one of pack and path"),
    (_synthesis(count=1, environments={"source": {"type": "questions"}}, teacher=_TEACHER), "questions needs path"),
    (
        _synthesis(count=1, environments={"source": {"type": "tables", "pack": "p", "domains": ["d"]}}),
        "domains goes with type: knowledge",
    ),
    (_run(model=_TINY), "nothing to train"),
    (_run(model=_TINY | {"name": "n"}, rl={}), "spec.model: give exactly one of"),
    (_run(model={}, rl={}), "spec.model: give exactly one of"),
    (_run(model={"gguf": {}}, rl={}), "spec.model.gguf: give exactly one of"),
    (_run(model=_TINY, rl={}, trainer={"nodes": 2}), "engine: embedded needs trainer.nodes: 1"),
    (_run(model=_TINY, rl={"batchSize": 9, "groupSize": 2}), "spec.rl: batchSize must be a multiple"),
    (_run(model=_TINY, rl={"groupSize": 1}), "spec.rl.groupSize"),
    (_run(model=_TINY, rl={}, verl={}), "verl belongs to engine: verl"),
    (_run(model=_TINY, rl={}, engine="verl", verl={"rollout": "separate", "rolloutGpus": 1}), "needs maxStaleness"),
    (_run(model=_TINY, rl={}, engine="verl", verl={"rolloutGpus": 1}), "rolloutGpus is required by"),
    (_verl({"rollout": "separate", "maxStaleness": 1, "rolloutGpus": 16}), "leaves no GPU to train"),
    (_verl({"rollout": "separate", "maxStaleness": 1, "rolloutGpus": 4}), "must be whole nodes"),
    (_verl({"tensorParallel": 3}), "verl.tensorParallel must divide"),
    (_verl({"sequenceParallel": 3}), "verl.sequenceParallel must divide"),
    (_run(model=_TINY, rl={"irrelevantTools": {"bands": {"medium": 0.9}}}), "bands: medium must be less"),
    (_run(model=_TINY, rl={}, environments={"holdout": {}}), "exactly one of fraction and selector"),
    (_run(model=_TINY, rl={}, environments={"holdout": {"fraction": 1}}), "spec.environments.holdout.fraction"),
    (_run(model=_TINY, sft={"dataset": {"type": "files"}}), "type: files needs path"),
    (_run(model=_TINY, sft={"dataset": {"type": "files", "path": "p", "limit": 2}}), "limit goes with type: gold"),
    (_run(model=_TINY, rl={}, trainer={"resources": {"limits": {"cpu": "x"}}}), "spec.trainer.resources.limits"),
]


def _refusals(body: Schema) -> list[str]:
    return admission.admit(DEFINITIONS[body["kind"]], body)


def _model_refuses(body: Schema) -> bool:
    try:
        KINDS[body["kind"]].model_validate(body)
    except ValidationError:
        return True
    return False


def test_the_chart_holds_what_the_models_say() -> None:
    folder = ROOT / "helm/astra-farm/files/crds"
    assert {file.name: file.read_text() for file in folder.iterdir()} == files(), "run `make crds`"


@pytest.mark.parametrize("body", GOOD, ids=lambda body: f"{body['kind']}")
def test_good_objects_are_admitted(body: Schema) -> None:
    assert _refusals(body) == []
    assert not _model_refuses(body)


@pytest.mark.parametrize(("body", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_bad_objects_are_refused_with_the_field(body: Schema, expected: str) -> None:
    assert _model_refuses(body)
    refusals = _refusals(body)
    assert any(expected in refusal for refusal in refusals), refusals


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_admitted(path: Path) -> None:
    for body in (document.value for document in documents(path.read_text())):
        if isinstance(body, dict) and body.get("kind") in DEFINITIONS:
            assert _refusals(body) == []


_VALUES: dict[str, tuple[Any, ...]] = {
    "integer": (-1, 0, 1, 2, 5, 64, 1001, 2000000),
    "number": (-1.0, 0.0, 0.3, 0.5, 1.0, 700.0),
    "string": ("", "p", "x" * 5000),
    "boolean": (True, False),
    "object": ({},),
    "array": ([],),
}


def _places(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each field of a spec with each value that may break it."""
    for name, inner in schema.get("properties", {}).items():
        if name in ("labels", "matchLabels", "trajectories", "parameters", "arguments"):
            continue  # free-form, or checked by the operator alone
        for value in inner.get("enum", _VALUES.get(inner.get("type", ""), ())):
            yield (*path, name), value
        yield from _places(inner, (*path, name))


def _changed(body: Schema, path: tuple[str, ...], value: Any) -> Schema:
    made = copy.deepcopy(body)
    current = made["spec"]
    for name in path[:-1]:
        current = current.setdefault(name, {})
        if not isinstance(current, dict):
            return made
    current[path[-1]] = copy.deepcopy(value)
    return made


_CHANGES = [
    (index, *place)
    for index, body in enumerate(GOOD)
    for place in _places(admission.spec_schema(DEFINITIONS[body["kind"]]))
]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(_CHANGES), st.sampled_from(_CHANGES))
def test_models_and_definitions_agree(first: Any, second: Any) -> None:
    """Good objects with one or two fields changed: the API server refuses exactly what the models refuse."""
    index, path, value = first
    body = _changed(GOOD[index], path, value)
    if second[0] == index:
        body = _changed(body, *second[1:])
    refusals = _refusals(body)
    assert _model_refuses(body) == bool(refusals), (path, value, refusals)


@pytest.mark.parametrize("body", GOOD, ids=lambda body: f"{body['kind']}")
def test_what_is_stored_means_the_same(body: Schema) -> None:
    """The defaults that the API server fills in are those of the models."""
    kind = KINDS[body["kind"]]
    stored = admission.stored(DEFINITIONS[body["kind"]], body)
    before, after = kind.model_validate(body), kind.model_validate(stored)
    assert before.spec == after.spec
    if isinstance(before, Environment) and isinstance(after, Environment):
        assert before.digest == after.digest


def test_a_training_run_changes_only_in_how_it_is_run() -> None:
    assert changed_fields(dict.fromkeys(FREE, 1), dict.fromkeys(FREE, 2), FREE) == []  # so the operator says too
    old = _run(model=_TINY, rl={}, sandboxes={"runtimeClassName": None})
    definition = DEFINITIONS["TrainingRun"]
    assert admission.admit(definition, old, old) == []
    assert admission.admit(definition, _run(model=_TINY, rl={}, suspend=True), _run(model=_TINY, rl={})) == []
    spec_fields = TrainingRun.model_fields["spec"].annotation.model_fields  # type: ignore[union-attr]
    for name in (field.alias for field in spec_fields.values()):
        if name not in FREE:
            assert any(f"{name} cannot be changed" in rule["message"] for rule in _spec_rules(definition)), name
    for change, field in (
        ({"seed": 1}, "seed"),
        ({"sft": {"dataset": {"type": "gold"}}}, "sft"),
        ({"rl": {"steps": 3}}, "rl"),
        ({"evaluation": {"samples": 2}}, "evaluation"),
    ):
        refusals = admission.admit(definition, _run(**{"model": _TINY, "rl": {}} | change), _run(model=_TINY, rl={}))
        assert refusals == [f"spec: {field} cannot be changed; make a new object"]


def test_a_synthesis_run_does_not_change() -> None:
    old = _synthesis(count=1, environments=_TABLES)
    assert admission.admit(DEFINITIONS["SynthesisRun"], old, old) == []
    refusals = admission.admit(DEFINITIONS["SynthesisRun"], _synthesis(count=2, environments=_TABLES), old)
    assert refusals == ["spec: the spec of a SynthesisRun cannot be changed; make a new one"]


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_rules_have_the_types_that_the_schema_gives(definition: Schema) -> None:
    """A current API server refuses a CRD whose rules do not compile against its schema."""
    for path, schema, rule in admission.rules(admission.spec_schema(definition)):
        pool = descriptor_pool.DescriptorPool()
        pool.Add(_Messages().file(schema))
        environment = cel.NewEnv(
            descriptor_pool=pool, variables={"self": cel.Type("crd.Self"), "oldSelf": cel.Type("crd.Self")}
        )
        assert environment.compile(rule).return_type() == cel.Type.BOOL, f"{path}: {rule}"


def test_a_rule_of_the_wrong_type_is_noticed() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_Messages().file(schema))
    environment = cel.NewEnv(descriptor_pool=pool, variables={"self": cel.Type("crd.Self")})
    for rule in ("self.n == 'a'", "self.absent > 1", "self.n == 1.0"):
        with pytest.raises(Exception, match=r"no matching overload|undefined field"):
            environment.compile(rule)


class _Messages:
    """A structural schema as protocol-buffer messages: what CEL checks types against."""

    _SCALARS = {"string": 9, "integer": 3, "number": 1, "boolean": 8}  # noqa: RUF012

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def file(self, schema: Schema) -> descriptor_pb2.FileDescriptorProto:
        made = descriptor_pb2.FileDescriptorProto(name="crd.proto", package="crd", syntax="proto2")
        made.message_type.add(name="Free")
        self.message(made, "Self", schema)
        return made

    def message(self, made: descriptor_pb2.FileDescriptorProto, name: str, schema: Schema) -> str:
        message = made.message_type.add(name=name)
        for number, (field, inner) in enumerate(schema.get("properties", {}).items(), start=1):
            entry = message.field.add(name=escaped(field), number=number, label=1)
            if inner.get("type") == "array":
                inner, entry.label = inner["items"], 3
            if inner.get("type") == "object" and "properties" in inner:
                entry.type, entry.type_name = 11, f".crd.{self.message(made, f'M{next(self.numbers)}', inner)}"
            elif inner.get("type") in self._SCALARS:
                entry.type = self._SCALARS[inner["type"]]
            else:  # a map or free-form: no rule looks inside
                entry.type, entry.type_name = 11, ".crd.Free"
        return name


def _spec_rules(definition: Schema) -> list[Schema]:
    return admission.spec_schema(definition)["x-kubernetes-validations"]


def _every_schema(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _every_schema(inner, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from _every_schema(schema[inner], f"{path}[]")


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_everything_is_bounded_and_structural(definition: Schema) -> None:
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        for path, schema in _every_schema(root["properties"][part], part):
            assert not {"$ref", "oneOf", "allOf", "definitions"} & set(schema), path
            assert not ("properties" in schema and "additionalProperties" in schema), path
            free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string")
            assert "type" in schema or free, path
            if schema.get("type") == "string" and "enum" not in schema:
                assert "maxLength" in schema, path
            if schema.get("type") == "array":
                assert "maxItems" in schema, path
            if "additionalProperties" in schema:
                assert "maxProperties" in schema, path
            if part == "status":
                assert "default" not in schema, path


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_explain_has_something_to_say(definition: Schema) -> None:
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    described = [
        *_every_schema(root["properties"]["spec"], "spec"),
        *_every_schema(root["properties"]["status"], "status"),
    ]
    silent = [path for path, schema in described if "description" not in schema and not path.endswith(("[]", ".type"))]
    assert silent == []


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.37"])
def test_current_servers_know_every_word(version: str) -> None:
    for definition in DEFINITIONS.values():
        kubernetes_validate.validate(copy.deepcopy(definition), version, strict=True)


def test_names_for_kubectl() -> None:
    names = {kind: definition["spec"]["names"] for kind, definition in DEFINITIONS.items()}
    assert {kind: given["shortNames"] for kind, given in names.items()} == {
        "Environment": ["env"],
        "SynthesisRun": ["synth"],
        "TrainingRun": ["train"],
    }
    for kind, definition in DEFINITIONS.items():
        version = definition["spec"]["versions"][0]
        assert names[kind]["categories"] == [CATEGORY]
        assert version["subresources"]["status"] == {}
        assert version["additionalPrinterColumns"][-1]["type"] == "date"
    assert digest(DEFINITIONS["Environment"]["spec"]["versions"][0]["subresources"]["scale"]) == digest(
        {
            "specReplicasPath": ".spec.sandbox.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    )
