"""What an API server does with a custom resource, as far as a CRD decides it: fields and nulls pruned, defaults set,
the schema and its CEL rules checked. Written for tests, from the Kubernetes documentation; rules run on cel-cpp.
"""

import copy
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import jsonschema_rs
from cel_expr_python import cel

from astra_api.crds import escaped

Schema = dict[str, Any]


def admit(definition: Schema, body: Schema, old: Schema | None = None) -> list[str]:
    """Why an object (and its change from `old`) is refused: messages that begin with the field. Empty: admitted."""
    spec = spec_schema(definition)
    new = stored(definition, body)
    before = stored(definition, old)["spec"] if old is not None else None
    validator = jsonschema_rs.Draft202012Validator(_json_schema(spec))
    refused = [
        f"spec{''.join(f'[{k}]' if isinstance(k, int) else f'.{k}' for k in error.instance_path)}: {error.message}"
        for error in validator.iter_errors(new.get("spec"))
    ]
    return refused or [*_duplicates(spec, new["spec"], "spec"), *_broken_rules(spec, new["spec"], before, "spec")]


def spec_schema(definition: Schema) -> Schema:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def stored(definition: Schema, body: Schema) -> Schema:
    """The object as it would be stored, if it were admitted."""
    kept = copy.deepcopy(body)
    if isinstance(kept.get("spec"), dict):
        kept["spec"] = _prepared(spec_schema(definition), kept["spec"])
    return kept


def _prepared(schema: Schema, value: Any) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [_prepared(schema["items"], item) for item in value]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if "additionalProperties" in schema:
        return {key: _prepared(schema["additionalProperties"], item) for key, item in value.items()}
    properties = schema.get("properties", {})
    made = {}
    for name, inner in properties.items():
        given = value.get(name)
        if given is not None or (name in value and inner.get("nullable")):
            made[name] = _prepared(inner, given)
        elif "default" in inner:
            made[name] = _prepared(inner, copy.deepcopy(inner["default"]))
    return made


def _json_schema(schema: Schema) -> Schema:
    """OpenAPI 3.0's words in those of JSON Schema 2020-12."""
    kept = ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "required", "anyOf")
    made = {key: schema[key] for key in kept if key in schema}
    if "type" in schema:
        made["type"] = schema["type"]
    for bound in ("minimum", "maximum"):
        if bound in schema:
            strict = schema.get(f"exclusive{bound.capitalize()}")
            made[f"exclusive{bound.capitalize()}" if strict else bound] = schema[bound]
    if "properties" in schema:
        made["properties"] = {name: _json_schema(inner) for name, inner in schema["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            made[inner] = _json_schema(schema[inner])
    return made


def _duplicates(schema: Schema, value: Any, path: str) -> Iterator[str]:
    """Items with the same key, in a list that is a map."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            yield from _duplicates(inner, value.get(name), f"{path}.{name}")
    if isinstance(value, list):
        seen = []
        for index, item in enumerate(value):
            yield from _duplicates(schema["items"], item, f"{path}[{index}]")
            if keys := schema.get("x-kubernetes-list-map-keys"):
                key = [item[name] for name in keys]
                if key in seen:
                    yield f"{path}[{index}]: Duplicate value: {key}"
                seen.append(key)


def rules(schema: Schema, path: str = "spec") -> Iterator[tuple[str, Schema, str]]:
    """(path, schema of self, rule) of every rule below."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield path, schema, rule["rule"]
    for name, inner in schema.get("properties", {}).items():
        yield from rules(inner, f"{path}.{name}")
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from rules(schema["additionalProperties"], f"{path}.*")


def environment(of_self: cel.Type, **more: Any) -> cel.Env:
    """Where rules are compiled: Kubernetes' quantities, here as fractions in strings, besides CEL's own functions."""
    quantity = cel.Overload("quantity", cel.Type.STRING, [cel.Type.STRING], False, _quantity)
    compare = cel.Overload("compareTo", cel.Type.INT, [cel.Type.STRING, cel.Type.STRING], True, _compare)
    functions = [cel.FunctionDecl("quantity", [quantity]), cel.FunctionDecl("compareTo", [compare])]
    return cel.NewEnv(variables={"self": of_self, "oldSelf": of_self}, functions=functions, **more)


_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def _quantity(text: str) -> str:
    if text.endswith("i"):
        factor, number = Fraction(1024) ** ("KMGTPE".index(text[-2]) + 1), text[:-2]
    elif text[-1] in _POWERS:
        factor, number = Fraction(10) ** _POWERS[text[-1]], text[:-1]
    else:
        mantissa, _, exponent = text.lower().partition("e")
        factor, number = Fraction(10) ** int(exponent or 0), mantissa
    whole, _, part = number.lstrip("+").partition(".")
    return str(Fraction(int(f"0{whole}{part}"), 10 ** len(part)) * factor)


def _compare(left: str, right: str) -> int:
    return (Fraction(left) > Fraction(right)) - (Fraction(left) < Fraction(right))


@cache
def _compiled(rule: str) -> cel.Expression:
    return environment(cel.Type.DYN).compile(rule)


def _broken_rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        data = {"self": _in_cel(schema, value), "oldSelf": _in_cel(schema, old)}
        result = _compiled(rule["rule"]).eval(data=data).value()
        if result is not True:  # an error refuses the object too
            yield f"{path}: {rule['message']}" + ("" if result is False else f" ({result})")
    for name, inner in schema.get("properties", {}).items():
        if isinstance(value, dict) and value.get(name) is not None:
            before = old.get(name) if isinstance(old, dict) else None
            yield from _broken_rules(inner, value[name], before, f"{path}.{name}")
    if "items" in schema:
        for index, item in enumerate(value):
            yield from _broken_rules(schema["items"], item, None, f"{path}[{index}]")


def _in_cel(schema: Schema, value: Any) -> Any:
    """Reserved names escaped, numbers as doubles, null fields absent, what has no schema out of sight."""
    if isinstance(value, dict) and "properties" in schema:
        return {
            escaped(name): _in_cel(inner, value[name])
            for name, inner in schema["properties"].items()
            if value.get(name) is not None
        }
    if isinstance(value, list) and "items" in schema:
        return [_in_cel(schema["items"], item) for item in value]
    return float(value) if schema.get("type") == "number" else value
