"""CustomResourceDefinitions, made from the models (`make crds` writes them into the chart).

The models say what is allowed, their docstrings what it means; this module says it in the words of the Kubernetes API:

* a *structural* schema: references resolved, unions merged into one object, closed by pruning;
* CEL rules for what the models' validators check across fields, and for what may not change;
* bounds on every string, list and map: the API server refuses rules whose worst case it cannot estimate.

Only what may be null in JSON (an answer) is `nullable`; elsewhere the API server refuses a null, or puts the default in
its place. Defaults are written out, so that a stored object keeps its meaning when a default changes.
"""

import ast
import inspect
import itertools
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, NoDefault
from pydantic_core import core_schema

from astra_api import synthesis_run, training_run
from astra_api.environment import LEAST_MEMORY, Environment
from astra_api.pod_template import NETWORK, RESERVED, ROOT
from astra_api.resource import API_VERSION, GROUP, Resource
from astra_api.synthesis_run import SynthesisRun, SynthesisRunSpec
from astra_api.training_run import TrainingRun, TrainingRunSpec

_HEADER = (
    "# Made from astra_api by `make crds`. Uninstalling the chart keeps it, and with it every object of the kind.\n"
)
VERSION = API_VERSION.partition("/")[2]
CATEGORY = "astra"
Schema = dict[str, Any]

# What the API server assumes the worst of, unless a model says otherwise.
_MAX_LENGTH, _MAX_ITEMS, _MAX_PROPERTIES = 4096, 1024, 64
_KEPT = ("type", "description", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
         "maxItems", "minProperties", "maxProperties", "default")  # fmt: skip
# A bound as pydantic writes it (by its own name where a validator runs before it), and as OpenAPI 3.0 does.
_BOUNDS = (
    ("ge", "minimum", False), ("gt", "minimum", True), ("exclusiveMinimum", "minimum", True),
    ("le", "maximum", False), ("lt", "maximum", True), ("exclusiveMaximum", "maximum", True),
)  # fmt: skip


_API_VERSION = f"Version of the API that the object is written in, which is {API_VERSION}."
# Lists whose items have a key: appliers may then own items, and no key is there twice.
_LIST_KEYS = {
    "Condition": "type", "EnvVar": "name", "Volume": "name", "LocalReference": "name", "VolumeMount": "mountPath",
}  # fmt: skip
_RESERVED = {
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """A CEL rule over `self` (and `oldSelf`: then it holds of changes only)."""

    rule: str
    message: str

    @property
    def schema(self) -> Schema:
        return {"rule": self.rule, "message": self.message}


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; those of priority 1 only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0

    @property
    def schema(self) -> Schema:
        schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return schema | ({"priority": self.priority} if self.priority else {})


@dataclass(frozen=True)
class Kind:
    """What a CRD says beyond its schema."""

    model: type[Resource]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: Schema | None = None


_READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status', priority=1)
_AGE = Column("Age", ".metadata.creationTimestamp", "date")
KINDS = (
    Kind(
        Environment,
        "environments",
        "env",
        (
            Column("Phase", ".status.phase"),
            Column("Domain", ".spec.domain"),
            Column("Scenario", ".spec.scenario"),
            _READY,
            Column("Replicas", ".status.replicas", "integer", priority=1),
            Column("Endpoint", ".status.endpoint", priority=1),
            _AGE,
        ),
        {
            "specReplicasPath": ".spec.sandbox.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        SynthesisRun,
        "synthesisruns",
        "synth",
        (
            Column("Phase", ".status.phase"),
            Column("Produced", ".status.produced", "integer"),
            Column("Wanted", ".spec.count", "integer"),
            Column("Rejected", ".status.rejected", "integer"),
            _READY,
            _AGE,
        ),
    ),
    Kind(
        TrainingRun,
        "trainingruns",
        "train",
        (
            Column("Phase", ".status.phase"),
            Column("Stage", ".status.stage"),
            Column("Step", ".status.step", "integer"),
            Column("Of", ".status.totalSteps", "integer"),
            Column("Reward", ".status.reward", "number"),
            Column("Success", ".status.success", "number"),
            Column("Sandboxes", ".status.sandboxes.ready", "integer", priority=1),
            Column("ETA", ".status.eta", priority=1),
            Column("Checkpoint", ".status.lastCheckpoint", priority=1),
            _READY,
            _AGE,
        ),
    ),
)


def escaped(field: str) -> str:
    """A field's name in CEL as Kubernetes writes it."""
    return f"__{field}__" if field in _RESERVED else field


def _one_of(*fields: str) -> Rule:
    listed = f"{', '.join(fields[:-1])} and {fields[-1]}"
    if len(fields) == 2:
        left, right = map(escaped, fields)
        return Rule(f"has(self.{left}) != has(self.{right})", f"give exactly one of {listed}")
    present = ", ".join(f"has(self.{escaped(field)})" for field in fields)
    return Rule(f"[{present}].exists_one(given, given)", f"give exactly one of {listed}")


def _unchanged(model: type[BaseModel], free: tuple[str, ...]) -> tuple[Rule, ...]:
    """Of a spec: each field but those that are free stays as it was made."""
    fields = {field.alias or name for name, field in model.model_fields.items()}
    same = "has(self.{0}) == has(oldSelf.{0}) && (!has(self.{0}) || self.{0} == oldSelf.{0})"
    return tuple(
        Rule(same.format(field), f"{field} cannot be changed; make a new object")
        for field in sorted(fields - set(free))
    )


_ORDERED = Rule("self.min <= self.max", "min must not be more than max")

_GPUS = "self.trainer.nodes * self.trainer.gpusPerNode"
_SEPARATE = "has(self.verl) && has(self.verl.rolloutGpus)"
_DIVISION = (
    Rule(f"!({_SEPARATE}) || self.verl.rolloutGpus < {_GPUS}", "verl.rolloutGpus leaves no GPU to train"),
    Rule(
        f"!({_SEPARATE}) || self.trainer.nodes == 1 || self.verl.rolloutGpus % self.trainer.gpusPerNode == 0",
        "verl.rolloutGpus must be whole nodes",
    ),
    Rule(
        f"!has(self.verl) || ({_SEPARATE} ? self.verl.rolloutGpus : {_GPUS}) % self.verl.tensorParallel == 0",
        "verl.tensorParallel must divide the GPUs that generate",
    ),
    Rule(
        f"!has(self.verl) || ({_GPUS} - ({_SEPARATE} ? self.verl.rolloutGpus : 0)) % self.verl.sequenceParallel == 0",
        "verl.sequenceParallel must divide the GPUs that train",
    ),
)

# By the name of the model: what its validators check across fields.
RULES: dict[str, tuple[Rule, ...]] = {
    "ResourceRequirements": (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            "requests must not be more than limits",
        ),
    ),
    "Toleration": (
        Rule(
            "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
            "key is required, unless operator is Exists",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator == 'Equal'",
            "value needs operator: Equal",
        ),
        Rule(
            "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
            "tolerationSeconds needs effect: NoExecute",
        ),
    ),
    "EnvVar": (
        Rule(
            f"!self.name.startsWith('{RESERVED}')",
            f"name must not begin with {RESERVED}: such variables are the operator's",
        ),
        Rule("!has(self.value) || !has(self.valueFrom)", "give value or valueFrom, not both"),
    ),
    "Volume": (_one_of("configMap", "secret", "persistentVolumeClaim", "emptyDir", "ephemeral", "csi", "nfs"),),
    "SeccompProfile": (
        Rule(
            "(self.type == 'Localhost') == has(self.localhostProfile)",
            "localhostProfile is required by type: Localhost, and belongs to it",
        ),
    ),
    "PodSecurity": (Rule("!has(self.runAsNonRoot) || self.runAsNonRoot", ROOT),),
    "PodTemplateSpec": (Rule("!has(self.hostNetwork) || !self.hostNetwork", NETWORK),),
    "Step": (
        Rule(
            "!has(self.tolerance) || self.tolerance == 0.0 || self.match == 'numeric'",
            "tolerance needs match: numeric",
        ),
    ),
    "EnvironmentSandbox": (
        Rule("self.isolation != 'pod' || self.replicas >= 1", "isolation: pod needs replicas of at least 1"),
        Rule(
            f"quantity(string(self.memory)).compareTo(quantity('{LEAST_MEMORY}')) >= 0",
            f"memory must be at least {LEAST_MEMORY}; 256Mi does for most",
        ),
    ),
    "EnvironmentSpec": (_one_of("source", "sourceRef"),),
    "ToolCount": (_ORDERED,),
    "HopRange": (_ORDERED,),
    "TablesSource": (_one_of("pack", "path"),),
    "KnowledgeSource": (_one_of("path", "domains"),),
    "SynthesisRunSpec": (
        Rule("self.kind != 'trajectories'", "kind: trajectories is not built yet; use kind: environments"),
        Rule(
            "has(self.environments) && !has(self.trajectories)",
            "kind: environments needs the field environments, and no field trajectories",
        ),
        Rule(
            "!has(self.environments) || self.environments.source.type == 'tables' || has(self.teacher)",
            "a source of this type needs a teacher",
        ),
        *_unchanged(SynthesisRunSpec, synthesis_run.FREE),
    ),
    "GgufModel": (_one_of("package", "path"),),
    "Model": (
        _one_of("name", "path", "gguf", "preset"),
        Rule("!has(self.context) || has(self.name) || has(self.path)", "context belongs to name or path"),
    ),
    "Holdout": (_one_of("fraction", "selector"),),
    "Bands": (Rule("self.medium < self.high", "medium must be less than high"),),
    "Rl": (Rule("self.batchSize % self.groupSize == 0", "batchSize must be a multiple of groupSize"),),
    "Sandboxes": (
        Rule(
            "!has(self.podTemplate) || !has(self.podTemplate.spec.runtimeClassName)",
            "podTemplate.spec.runtimeClassName is refused on sandboxes; set sandboxes.runtimeClassName instead",
        ),
    ),
    "Checkpoint": (
        Rule(
            "!has(self.storageClassName) || has(self.size)",
            "storageClassName belongs to size: give the size of the claim to make",
        ),
    ),
    "Verl": (
        Rule(
            "self.rollout != 'separate' || self.maxStaleness >= 1",
            "rollout: separate needs maxStaleness of at least 1",
        ),
        Rule(
            "(self.rollout == 'separate') == has(self.rolloutGpus)",
            "rolloutGpus is required by rollout: separate, and belongs to it",
        ),
    ),
    "TrainingRunSpec": (
        Rule(
            "self.engine != 'embedded' || self.trainer.nodes == 1",
            "engine: embedded needs trainer.nodes: 1; use engine: verl",
        ),
        Rule("has(self.sft) || has(self.rl)", "nothing to train: give sft, rl or both"),
        Rule("!has(self.verl) || self.engine == 'verl'", "verl belongs to engine: verl"),
        *_DIVISION,
        *_unchanged(TrainingRunSpec, training_run.FREE),
    ),
}


def definition(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind."""
    name = kind.model.__name__
    generated = kind.model.model_json_schema(by_alias=True, schema_generator=_Described)
    spec = _structural(generated["properties"]["spec"], generated["$defs"])
    bare = {name: _without_defaults(model) for name, model in generated["$defs"].items()}
    status = _structural(generated["properties"]["status"], bare)
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}} | ({"scale": kind.scale} if kind.scale else {}),
        "additionalPrinterColumns": [column.schema for column in kind.columns],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": _text(inspect.getdoc(sys.modules[kind.model.__module__]) or ""),
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string", "description": _API_VERSION},
                    "kind": {"type": "string", "description": f"Kind of the object, which is {name}."},
                    "metadata": {"type": "object"},
                    "spec": spec,
                    "status": status,
                },
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def definitions() -> list[Schema]:
    """All CustomResourceDefinitions, in the order of the data flow."""
    return [definition(kind) for kind in KINDS]


def files() -> dict[str, str]:
    """The YAML of each kind, by file name."""
    return {f"{kind.plural}.yaml": f"{_HEADER}{dump(definition(kind))}" for kind in KINDS}


class _Described(GenerateJsonSchema):
    """Adds what pydantic leaves out: defaults that a factory makes, docstrings of fields, the rules."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory = schema.get("default_factory")
        value = factory() if factory else schema.get("default", NoDefault)  # type: ignore[call-arg]
        return NoDefault if value is None else value

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", by_alias=True, exclude_none=True)  # whole: rules are evaluated on them
        return super().encode_default(dft)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _describe(schema["cls"], super().model_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return _describe(schema["cls"], super().typed_dict_schema(schema))


def _describe(model: type[Any], schema: JsonSchemaValue) -> JsonSchemaValue:
    for name, text in _field_docs(model).items():
        field = getattr(model, "model_fields", {}).get(name)
        schema["properties"][field.alias if field else name]["description"] = text
    if rules := RULES.get(model.__name__):
        schema["x-kubernetes-validations"] = [rule.schema for rule in rules]
    return schema


def _field_docs(model: type[Any]) -> dict[str, str]:
    """The string that follows a field in the source of its class, by field."""
    for node in _module(model.__module__).body:
        if isinstance(node, ast.ClassDef) and node.name == model.__name__:
            return {
                before.target.id: _text(after.value.value)
                for before, after in itertools.pairwise(node.body)
                if isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            }
    return {}


@cache
def _module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))


def _text(docstring: str) -> str:
    return " ".join(docstring.split())


def _structural(schema: Schema, models: dict[str, Schema]) -> Schema:
    """A JSON Schema of pydantic's as a structural schema."""
    schema = _resolved(schema, models)
    if "oneOf" in schema:
        return _union(schema, models)
    made = {key: schema[key] for key in _KEPT if key in schema}
    if "description" in made:
        made["description"] = _text(made["description"]) + _told(made)
    if "const" in schema:
        made["enum"] = [schema["const"]]
    for key, bound, exclusive in _BOUNDS:
        if key in schema:
            made |= {bound: schema[key]} | ({f"exclusive{bound.capitalize()}": True} if exclusive else {})
    match schema.get("type"):
        case "object":
            made |= _object(schema, models)
        case "array":
            made |= {"items": _structural(schema["items"], models), **_list_type(schema["items"])}
            made.setdefault("maxItems", _MAX_ITEMS)
        case "string" if schema.get("x-kubernetes-int-or-string"):
            del made["type"]
            made |= {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
        case "string" if "enum" not in made:
            made.setdefault("maxLength", _MAX_LENGTH)
        case "integer":
            made["format"] = "int64"
        case None:  # any JSON value
            made |= {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    return made


def _told(schema: Schema) -> str:
    """The default of a scalar, in words."""
    default = schema.get("default", "")
    if isinstance(default, dict | list) or default == "":
        return ""
    return f" Defaults to {default if isinstance(default, str) else json.dumps(default)}."


def _object(schema: Schema, models: dict[str, Schema]) -> Schema:
    made: Schema = {}
    if "properties" in schema:
        made["properties"] = {name: _structural(value, models) for name, value in schema["properties"].items()}
        if "required" in schema:
            made["required"] = schema["required"]
        if "x-kubernetes-validations" in schema:
            made["x-kubernetes-validations"] = schema["x-kubernetes-validations"]
    elif isinstance(values := schema.get("additionalProperties"), dict) and values:
        made["additionalProperties"] = _structural(values, models)
        made["maxProperties"] = schema.get("maxProperties", _MAX_PROPERTIES)
    else:
        made["x-kubernetes-preserve-unknown-fields"] = True
    return made


def _list_type(items: Schema) -> Schema:
    key = _LIST_KEYS.get(items.get("$ref", "").removeprefix("#/$defs/"))
    if key is not None:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return {"x-kubernetes-list-type": "atomic"}


def _resolved(schema: Schema, models: dict[str, Schema]) -> Schema:
    """Without a reference, and without the null that an optional field adds. The field's own words come first."""
    own = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        target = models[schema["$ref"].removeprefix("#/$defs/")]
    elif "anyOf" in schema:
        (alternative,) = (one for one in schema["anyOf"] if one != {"type": "null"})
        target = _resolved(alternative, models)
    else:
        return schema
    return target | own


def _union(schema: Schema, models: dict[str, Schema]) -> Schema:
    """One object that holds the fields of all variants of a union on `type`; rules keep each field to its variants."""
    references = schema["discriminator"]["mapping"]
    variants = {tag: _structural({"$ref": reference}, models) for tag, reference in references.items()}
    told = next(variant["properties"]["type"]["description"] for variant in variants.values())  # of all, by the first
    properties: dict[str, Schema] = {"type": {"type": "string", "description": told, "enum": list(variants)}}
    for name in {name: None for variant in variants.values() for name in variant["properties"] if name != "type"}:
        first, *others = (variant["properties"][name] for variant in variants.values() if name in variant["properties"])
        if any(_bare(other) != _bare(first) for other in others):
            raise ValueError(f"{name} differs between {', '.join(variants)}: a structural schema needs it to be one")
        properties[name] = {key: value for key, value in first.items() if key != "default"}
    rules = [rule for tag, variant in variants.items() for rule in _variant_rules(tag, variant)]
    for name in properties:
        takers = [tag for tag, variant in variants.items() if name in variant["properties"]]
        if len(takers) < len(variants):
            listed = ", ".join(f"'{tag}'" for tag in takers)
            rule = Rule(
                f"!has(self.{escaped(name)}) || self.type in [{listed}]",
                f"{name} goes with type: {' or '.join(takers)}",
            )
            rules.append(rule.schema)
    return {
        "type": "object",
        **({"description": _text(schema["description"])} if "description" in schema else {}),
        "required": ["type"],
        "properties": properties,
        "x-kubernetes-validations": rules,
    }


def _variant_rules(tag: str, variant: Schema) -> list[Schema]:
    needed = [
        Rule(f"has(self.{escaped(name)})", f"type: {tag} needs {name}").schema
        for name in variant["required"]
        if name != "type"
    ]
    return [
        rule | {"rule": f"self.type != '{tag}' || ({rule['rule']})"}
        for rule in [*needed, *variant.get("x-kubernetes-validations", [])]
    ]


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _without_defaults(schema: Schema) -> Schema:
    """Of a model in a status: a part of it that nobody wrote stays absent."""
    made = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in made:
        made["properties"] = {name: _without_defaults(value) for name, value in made["properties"].items()}
    return made


class _Dumper(yaml.SafeDumper):
    """No aliases: readers of a manifest do not expect them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(schema: Schema) -> str:
    """As YAML, wrapped for people."""
    return yaml.dump(schema, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """`python -m astra_api.crds FOLDER`: writes one file a kind."""
    if len(arguments) != 1:
        print("usage: python -m astra_api.crds FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
