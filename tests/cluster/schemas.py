"""What a structural schema allows, made from the schema alone: values at a bound, and just beyond it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
Path = tuple[str | int, ...]  # names of fields, keys of maps (`KEY`), and 0 for the items of a list

KEY = "key"
_WORDS = (
    "a", "aa", "1", "1Gi", "/a", "s3://a", "file:///a", "http://a", "en", "a.b", "a/b", "A", "2026-01-01T00:00:00Z",
)  # fmt: skip
_WRONG = ("", "!", "☃", "-", "a b", " ")
_SAYS_NOTHING = {
    "type", "description", "default", "format", "properties", "items", "additionalProperties", "nullable", "anyOf",
    "x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """A bound of a field: a value that keeps it, one that breaks it, and what a server says of that one."""

    path: Path
    keyword: str
    kept: Any
    broken: Any
    words: str
    field: str  # as the server names what is wrong


def dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def parted(field: str) -> Path:
    """The path that a server writes so."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", field))


def places(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every field that the schema knows, with its own schema."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from places(inner, (*path, name))
    if "items" in schema:
        yield from places(schema["items"], (*path, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from places(schema["additionalProperties"], (*path, KEY))


def rules(schema: Schema) -> Iterator[tuple[Path, str]]:
    """The field and the message of each CEL rule."""
    for path, inner in places(schema):
        for rule in inner.get("x-kubernetes-validations", []):
            yield path, rule["message"]


def bounds(schema: Schema, root: str) -> Iterator[Bound]:
    """Each bound of each field below `root`. Raises KeyError at a keyword that it does not know."""
    for path, inner in places(schema):
        field = dotted((root, *path))
        for keyword in inner.keys() - _SAYS_NOTHING - {"required"}:
            kept, broken, words = _BREAKS[keyword](inner, inner[keyword])
            yield Bound(path, keyword, kept, broken, words, field)
        for name in inner.get("required", ()):
            whole = least(inner)
            without = {key: value for key, value in whole.items() if key != name}
            yield Bound(path, "required", whole, without, "Required value", f"{field}.{name}")
        if "type" in inner and not inner.get("x-kubernetes-int-or-string"):
            wrong = [1] if inner["type"] == "string" else "wrong"
            yield Bound(path, "type", least(inner), wrong, "must be of type", field)


def holding(schema: Schema, path: Path, value: Any) -> Any:
    """A value of the schema that is as small as can be, with `value` at `path`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    made = least(schema)
    if isinstance(head, int):
        return [holding(schema["items"], rest, value), *made[1:]]
    inner = schema["properties"][head] if "properties" in schema else schema["additionalProperties"]
    return {**made, head: holding(inner, rest, value)}


def _number(schema: Schema, value: float) -> Any:
    return float(value) if schema.get("type") == "number" else int(value)


def _minimum(schema: Schema, limit: float) -> tuple[Any, Any, str]:
    step = 0.0625 if schema.get("type") == "number" else 1
    if schema.get("exclusiveMinimum"):
        return _number(schema, limit + step), _number(schema, limit), f"should be greater than {limit:.12g}"
    return _number(schema, limit), _number(schema, limit - step), f"should be greater than or equal to {limit:.12g}"


def _maximum(schema: Schema, limit: float) -> tuple[Any, Any, str]:
    step = 0.0625 if schema.get("type") == "number" else 1
    if schema.get("exclusiveMaximum"):
        return _number(schema, limit - step), _number(schema, limit), f"should be less than {limit:.12g}"
    return _number(schema, limit), _number(schema, limit + step), f"should be less than or equal to {limit:.12g}"


def _of_length(schema: Schema, length: int) -> str:
    word = str(least(schema))
    return word + word[-1:] * (length - len(word)) if word else "a" * length


def _pattern(schema: Schema, pattern: str) -> tuple[Any, Any, str]:
    wrong = next(word for word in _WRONG if not re.search(pattern, word))
    return least(schema), wrong, "should match"


def _items(schema: Schema, count: int) -> list[Any]:
    return [least(schema["items"])] * count


def _map(schema: Schema, count: int) -> dict[str, Any]:
    inner = schema.get("additionalProperties")
    value = least(inner) if isinstance(inner, dict) else 1
    return {f"{KEY}{number}": value for number in range(count)}


_BREAKS: dict[str, Callable[[Schema, Any], tuple[Any, Any, str]]] = {
    "minimum": _minimum,
    "maximum": _maximum,
    "minLength": lambda s, n: (_of_length(s, n), "a" * (n - 1), f"at least {n} char"),
    "maxLength": lambda s, n: (_of_length(s, n), _of_length(s, n + 1), f"may not be more than {n} "),
    "pattern": _pattern,
    "enum": lambda s, n: (n[0], not n[0] if isinstance(n[0], bool) else "never", "Unsupported value"),
    "minItems": lambda s, n: (_items(s, n), _items(s, n - 1), f"at least {n} item"),
    "maxItems": lambda s, n: (_items(s, n), _items(s, n + 1), f"must have at most {n} item"),
    "minProperties": lambda s, n: (_map(s, n), _map(s, n - 1), f"at least {n} propert"),
    "maxProperties": lambda s, n: (_map(s, n), _map(s, n + 1), f"must have at most {n} item"),
}


def least(schema: Schema) -> Any:
    """The smallest value that keeps the schema; rules aside. Raises StopIteration where no word fits a pattern."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("x-kubernetes-int-or-string"):
        return "1"
    kind = schema.get("type")
    if kind == "string":
        shortest, pattern = schema.get("minLength", 0), schema.get("pattern", "")
        return next(word for word in ("", *_WORDS) if len(word) >= shortest and re.search(pattern, word))
    if kind in ("integer", "number"):
        bound = next((key for key in ("minimum", "maximum") if key in schema), None)
        return _BREAKS[bound](schema, schema[bound])[0] if bound else _number(schema, 1)
    if kind == "array":
        return _items(schema, schema.get("minItems", 0))
    if kind == "object":
        made = {name: least(schema["properties"][name]) for name in schema.get("required", ())}
        return made | _map(schema, schema.get("minProperties", 0))
    return False if kind == "boolean" else 1


def most(schema: Schema, longest: int) -> Any:
    """A large value: lists and maps as long as they may be, all fields, strings of at most `longest` characters."""
    if "enum" in schema or schema.get("x-kubernetes-int-or-string"):
        return least(schema)
    kind = schema.get("type")
    if kind == "string":
        length = max(schema.get("minLength", 0), min(schema.get("maxLength", longest), longest))
        words = [word + word[-1:] * (length - len(word)) for word in _WORDS if len(word) <= length]
        return next((word for word in words if re.search(schema.get("pattern", ""), word)), least(schema))
    if kind in ("integer", "number"):
        return _BREAKS["maximum"](schema, schema["maximum"])[0] if "maximum" in schema else least(schema)
    if kind == "array":
        item, keys = most(schema["items"], longest), schema.get("x-kubernetes-list-map-keys", ())
        words = {key: least(schema["items"]["properties"][key]) for key in keys}
        return [
            {**item, **{key: f"{word}{number}" for key, word in words.items()}} if keys else item
            for number in range(schema["maxItems"])
        ]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        inner = most(schema["additionalProperties"], longest)
        return {f"{KEY}{number}": inner for number in range(schema["maxProperties"])}
    if kind == "object":
        return {name: most(inner, longest) for name, inner in schema.get("properties", {}).items()}
    return True if kind == "boolean" else 1
