"""The CRDs say what the models say."""

import copy
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import kubernetes_validate
import pytest
from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from astra_api import synthesis_run, training_run
from astra_api.canonical import digest
from astra_api.crds import CATEGORY, RULES, definitions, escaped, files
from astra_api.environment import Environment
from astra_api.manifests import KINDS
from astra_api.yaml_documents import documents
from astra_operator.accepting import changed_fields
from custom_resources import ALLOWED_CHANGES, BAD, GOOD, REFUSED_CHANGES, TABLES, default_differences
from custom_resources import synthesis_run as synthesis_run_of

ROOT = Path(__file__).parents[2]
_module = importlib.util.spec_from_file_location("admission", Path(__file__).with_name("admission.py"))
assert _module is not None
assert _module.loader is not None
admission = importlib.util.module_from_spec(_module)
_module.loader.exec_module(admission)

DEFINITIONS = {definition["spec"]["names"]["kind"]: definition for definition in definitions()}
Schema = dict[str, Any]


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
    "quantity": (
        -1,
        0,
        1,
        "0",
        "0.0Ki",
        "1",
        ".5",
        "1.",
        "+1e3",
        "1e-3",
        "1Ei",
        "2P",
        "5u",
        "-1",
        "1 Gi",
        "Ki",
        "1e",
        "",
    ),
}


def _places(schema: Schema, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each field of a spec with each value that may break it."""
    for name, inner in schema.get("properties", {}).items():
        if name in ("labels", "nodeSelector", "matchLabels", "trajectories", "parameters", "arguments"):
            continue  # free-form, or checked by the operator alone
        kind = "quantity" if "x-kubernetes-int-or-string" in inner else inner.get("type", "")
        for value in (*inner.get("enum", _VALUES.get(kind, ())), None):
            yield (*path, name), value
        yield from _places(inner, (*path, name))
        yield from _places(inner.get("items", {}), (*path, name, 0))


def _changed(body: Schema, path: tuple[str | int, ...], value: Any) -> Schema:
    """A copy with one field of its spec replaced; as it was where the path leads through what is not there."""
    made = copy.deepcopy(body)
    current = made["spec"]
    for name in path[:-1]:
        if isinstance(current, dict) and isinstance(name, str):
            current = current.setdefault(name, {})
        elif isinstance(current, list) and isinstance(name, int) and current:
            current = current[name]
        else:
            return copy.deepcopy(body)
    if isinstance(current, dict):
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


def test_a_null_is_absent_unless_it_is_a_value() -> None:
    """Each field of a kind, left empty: what is made of it is what is made without it, here as there."""
    places = {(GOOD[index]["kind"], path): index for index, path, _ in _CHANGES}
    for (_, path), index in places.items():
        body, definition, kind = GOOD[index], DEFINITIONS[GOOD[index]["kind"]], KINDS[GOOD[index]["kind"]]
        empty = _changed(body, path, None)
        if path[-1] == "answer":
            continue
        without = _without(empty, path)
        assert _model_refuses(empty) == _model_refuses(without), path
        assert admission.stored(definition, empty) == admission.stored(definition, without), path
        if not _model_refuses(empty):
            assert kind.model_validate(empty) == kind.model_validate(without), path


def _without(body: Schema, path: tuple[str | int, ...]) -> Schema:
    made = copy.deepcopy(body)
    current = made["spec"]
    for name in path[:-1]:
        if isinstance(current, dict) and name not in current:
            return made
        current = current[name]
    current.pop(path[-1], None)
    return made


@pytest.mark.parametrize("body", GOOD, ids=lambda body: f"{body['kind']}")
def test_what_is_stored_means_the_same(body: Schema) -> None:
    """The defaults that the API server fills in are those of the models."""
    kind = KINDS[body["kind"]]
    stored = admission.stored(DEFINITIONS[body["kind"]], body)
    assert list(default_differences(body, stored)) == []
    before, after = kind.model_validate(body), kind.model_validate(stored)
    assert before.spec == after.spec
    if isinstance(before, Environment) and isinstance(after, Environment):
        assert before.digest == after.digest


def test_another_default_is_noticed() -> None:
    stored = admission.stored(DEFINITIONS["TrainingRun"], GOOD[7])
    stored["spec"]["rl"]["steps"] = 3
    del stored["spec"]["suspend"]
    assert list(default_differences(GOOD[7], stored)) == [
        "spec.rl.steps: the model has 140, the server 3",
        "spec.suspend: the model has False, the server None",
    ]


_FREE = {"TrainingRun": training_run.FREE, "SynthesisRun": synthesis_run.FREE}


@pytest.mark.parametrize(("old", "new"), ALLOWED_CHANGES)
def test_a_run_changes_in_how_it_is_run(old: Schema, new: Schema) -> None:
    assert admission.admit(DEFINITIONS[old["kind"]], new, old) == []


@pytest.mark.parametrize(("old", "new", "field"), REFUSED_CHANGES, ids=[field for *_, field in REFUSED_CHANGES])
def test_a_run_does_not_change_in_what_it_makes(old: Schema, new: Schema, field: str) -> None:
    definition = DEFINITIONS[old["kind"]]
    assert admission.admit(definition, old, old) == admission.admit(definition, new) == []
    assert admission.admit(definition, new, old) == [f"spec: {field} cannot be changed; make a new object"]


@pytest.mark.parametrize("kind", _FREE)
def test_every_field_is_free_or_cannot_be_changed(kind: str) -> None:
    free = _FREE[kind]
    assert changed_fields(dict.fromkeys(free, 1), dict.fromkeys(free, 2), free) == []  # so the operator says too
    schema = admission.spec_schema(DEFINITIONS[kind])
    bound = {rule["message"].split()[0] for rule in schema["x-kubernetes-validations"] if "oldSelf" in rule["rule"]}
    assert bound.isdisjoint(free)
    assert bound | set(free) == schema["properties"].keys()


def test_every_rule_refuses_something() -> None:
    refusals = [refusal for body, _ in BAD for refusal in _refusals(body)]
    old = synthesis_run_of(count=1, environments=TABLES)
    another_kind = synthesis_run_of(
        count=1, kind="trajectories", trajectories={}
    )  # which is refused for more than that
    changes = [*((old, new) for old, new, _ in REFUSED_CHANGES), (old, another_kind)]
    refusals += [refusal for old, new in changes for refusal in admission.admit(DEFINITIONS[old["kind"]], new, old)]
    for kind, definition in DEFINITIONS.items():
        for path, schema in _every_schema(admission.spec_schema(definition)):
            for rule in schema.get("x-kubernetes-validations", []):
                assert any(rule["message"] in refusal for refusal in refusals), f"{kind}{path}: {rule['message']}"


def test_every_check_across_fields_has_a_rule() -> None:
    """A model that checks itself as a whole has rules, and rules stand for such a check."""
    validators = {model.__name__: model.__pydantic_decorators__.model_validators for model in _models(*KINDS.values())}
    checked = {name for name, own in validators.items() if any(one.info.mode == "after" for one in own.values())}
    by_field = {"PodSecurity", "ResourceRequirements"}  # whose rules stand for checks of a field
    assert checked | by_field == RULES.keys()
    assert checked.isdisjoint(by_field)


def _models(*annotations: Any) -> set[type[BaseModel]]:
    """All models below."""
    found: set[type[BaseModel]] = set()
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            inner = [(field.annotation, *field.metadata) for field in annotation.model_fields.values()]
            found |= {annotation} | _models(*(one for part in inner for one in part))
        else:
            found |= _models(*get_args(annotation))
    return found


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_rules_have_the_types_that_the_schema_gives(definition: Schema) -> None:
    """A current API server refuses a CRD whose rules do not compile against its schema."""
    for path, schema, rule in admission.rules(admission.spec_schema(definition)):
        pool = _Messages().pool(schema)
        environment = admission.environment(cel.Type("crd.Self"), descriptor_pool=pool)
        assert environment.compile(rule).return_type() == cel.Type.BOOL, f"{path}: {rule}"


def test_a_rule_of_the_wrong_type_is_noticed() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    pool = _Messages().pool(schema)
    environment = admission.environment(cel.Type("crd.Self"), descriptor_pool=pool)
    for rule in ("self.n == 'a'", "self.absent > 1", "self.n == 1.0"):
        with pytest.raises(Exception, match=r"no matching overload|undefined field"):
            environment.compile(rule)


class _Messages:
    """A structural schema as protocol-buffer messages: what CEL checks types against."""

    _SCALARS = {"string": 9, "integer": 3, "number": 1, "boolean": 8}  # noqa: RUF012

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def pool(self, schema: Schema) -> descriptor_pool.DescriptorPool:
        struct = descriptor_pb2.FileDescriptorProto()
        struct_pb2.DESCRIPTOR.CopyToProto(struct)
        made = descriptor_pool.DescriptorPool()
        made.Add(struct)
        made.Add(self.file(schema))
        return made

    def file(self, schema: Schema) -> descriptor_pb2.FileDescriptorProto:
        made = descriptor_pb2.FileDescriptorProto(name="crd.proto", package="crd", syntax="proto2")
        made.dependency.append("google/protobuf/struct.proto")
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
            elif "x-kubernetes-int-or-string" in inner:
                entry.type, entry.type_name = 11, ".google.protobuf.Value"
            elif "x-kubernetes-int-or-string" in inner.get("additionalProperties", {}):
                entry.type, entry.type_name, entry.label = 11, f".crd.{name}.{self.map(message, field)}", 3
            else:  # free-form, or a map of strings: no rule looks inside
                entry.type, entry.type_name = 11, ".crd.Free"
        return name

    def map(self, message: descriptor_pb2.DescriptorProto, field: str) -> str:
        """A map of quantities, which are strings or numbers."""
        entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=9, label=1)
        entry.field.add(name="value", number=2, type=11, type_name=".google.protobuf.Value", label=1)
        return entry.name


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


# Prepositions, pronouns, and what asks or joins: words that begin a fragment.
_FRAGMENT = re.compile(
    "(about|above|across|after|against|along|among|around|as|at|before|behind|below|between|beyond|but|by|down|during|"
    "except|for|from|given|how|i|if|in|inside|into|it|its|like|near|of|off|on|once|or|our|out|over|per|she|since|such|"
    "than|that|their|them|then|these|they|this|those|through|to|toward|under|unless|until|up|upon|via|we|what|when|"
    r"where|whether|which|while|who|whom|whose|why|with|within|without|you|your)\b",
    re.IGNORECASE,
)


def _described(definition: Schema) -> Iterator[tuple[str, str]]:
    """(path, description) of all that `kubectl explain` shows: each field, and each object in a list or map."""
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    yield "", root.get("description", "")
    for path, schema in _every_schema(root):
        for name, inner in schema.get("properties", {}).items():
            if (path, name) != ("", "metadata"):  # which the server describes, and lets nobody else describe
                yield f"{path}.{name}", inner.get("description", "")
        for part in ("items", "additionalProperties"):
            if "properties" in schema.get(part, {}):
                yield f"{path}[]", schema[part].get("description", "")


def _faults(text: str) -> list[str]:
    words = text.split()
    return [
        fault
        for fault, found in (
            ("is missing", not text),
            ("has fewer than four words", len(words) < 4),
            ("does not begin with a capital", not text[:1].isupper()),
            ("does not end with a period", not text.endswith(".")),
            (
                "begins with a word that makes it a fragment",
                _FRAGMENT.match(text),
            ),
            ("is over 400 letters long", len(text) > 400),
            ("is a quotation of code", "`" in text),
        )
        if found
    ]


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_explain_has_a_sentence_for_every_field(definition: Schema) -> None:
    assert {path: faults for path, text in _described(definition) if (faults := _faults(text))} == {}


@pytest.mark.parametrize(
    "text", ["", "Of AdamW.", "On what they are measured here.", "share of the steps so far.", "Share of all the steps"]
)
def test_a_fragment_is_noticed(text: str) -> None:
    assert _faults(text)


def test_explain_tells_the_defaults_of_scalars() -> None:
    for definition in DEFINITIONS.values():
        for path, schema in _every_schema(admission.spec_schema(definition)):
            default = schema.get("default")
            if isinstance(default, str | int | float):
                shown = default if isinstance(default, str) else json.dumps(default)
                assert schema["description"].endswith(f" Defaults to {shown}."), path


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
