"""YAML as kubectl reads it: one text, the same objects here and on a cluster.

kubectl's YAML library resolves plain scalars by rules of its own (YAML 1.1 booleans, Go's integer literals, exponents
without a dot, no timestamps), then converts to JSON, where an integral float is an integer. PyYAML parses; its
resolver is replaced. What JSON cannot hold is refused: NaN, infinities, integers beyond 2^53, duplicate keys,
binary and custom tags, aliases that refer to themselves or multiply into millions of nodes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from astra_api.canonical import MAX_INTEGER
from astra_api.errors import BadInput

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100
MAX_NODES = 2_000_000  # of one document, aliases expanded

_BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_NOT_NUMBERS = {sign + dot for sign in ("", "+", "-") for dot in (".inf", ".Inf", ".INF")} | {".nan", ".NaN", ".NAN"}
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_PLAIN = "plain scalar"


class YamlError(BadInput):
    """Text that kubectl could not turn into JSON objects; says where (line and column, from 1) and why."""


@dataclass(frozen=True)
class Document:
    """One document: its number in the file (from 1), its first line (from 1) and its JSON value."""

    number: int
    line: int
    value: Any


def documents(text: str) -> Iterator[Document]:
    """The non-empty documents of a YAML (or JSON) text. Raises YamlError at the first that cannot be read."""
    if len(text) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES // 2**20} MiB")
    number = 0
    try:
        for node in yaml.compose_all(text, Loader=_Loader):
            number += 1
            if node is None:
                continue
            value = _Converter().value(node, 0)
            if value is not None:
                yield Document(number, node.start_mark.line + 1, value)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{where}{error.problem or error.context or 'not YAML'}") from None
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise YamlError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels") from None


def scalar(text: str) -> Any:
    """The JSON value of a plain (unquoted) scalar, as kubectl resolves it."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _NULLS:
        return None
    if text in _NOT_NUMBERS:
        raise YamlError(f"{text} is not a JSON number; quote it if it is text")
    if text[0] in "+-.0123456789":
        bare = text.replace("_", "")
        if match := _INTEGER.fullmatch(bare):
            return _integer(match)
        if _FLOAT.fullmatch(bare):
            return _float(bare)
    return text


def _integer(match: re.Match[str]) -> int:
    sign, hexadecimal, binary, octal, decimal = match.groups()
    digits, base = next(
        (text, base) for text, base in ((hexadecimal, 16), (binary, 2), (octal, 8), (decimal, 10)) if text
    )
    if len(digits) > 64:
        raise YamlError("an integer beyond 2^53; quote it if it is text")
    return _bounded(-int(digits, base) if sign == "-" else int(digits, base))


def _float(text: str) -> float | int:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise YamlError(f"{text[:40]} is too large for a number; quote it if it is text")
    return _bounded(int(number)) if number.is_integer() and abs(number) < 1e21 else number


def _bounded(number: int) -> int:
    if abs(number) > MAX_INTEGER:
        raise YamlError(f"integer {number} is beyond 2^53, where JSON readers disagree; quote it if it is text")
    return number


class _Loader(yaml.CSafeLoader):
    """Marks plain scalars instead of guessing their type."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TAG + "str"
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class _Converter:
    """Turns one composed document into JSON values."""

    def __init__(self) -> None:
        self.nodes = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _at(node, "aliases multiply this document beyond all bounds")
        if depth > MAX_DEPTH:
            raise _at(node, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open:
            raise _at(node, "an alias refers to what contains it")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                if node.tag != _TAG + "seq":
                    raise _at(node, f"tag {_short(node.tag)} has no JSON value")
                return [self.value(item, depth + 1) for item in node.value]
            return self._mapping(node, depth)
        finally:
            self.open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if node.tag == _TAG + "str":  # quoted, a block, or tagged !!str
            return text
        if node.tag != _PLAIN and _short(node.tag) not in ("int", "float", "bool", "null"):
            raise _at(node, f"tag {_short(node.tag)} has no JSON value")
        try:
            return scalar(text)
        except YamlError as error:
            raise _at(node, str(error)) from None

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            raise _at(node, f"tag {_short(node.tag)} has no JSON value")
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _PLAIN and key_node.value == "<<":
                self._merge(merged, value_node, depth)
                continue
            key = self._key(key_node)
            if key in result:
                raise _at(key_node, f"duplicate key {key!r}")
            result[key] = self.value(value_node, depth + 1)
        return {**merged, **result}

    def _merge(self, merged: dict[str, Any], node: yaml.Node, depth: int) -> None:
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                raise _at(source, "<< takes a mapping or a list of mappings")
            for key, value in self.value(source, depth + 1).items():
                merged.setdefault(key, value)

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise _at(node, "a key must be a scalar")
        key = self.value(node, 0)
        if key is None:
            raise _at(node, "a key must not be null")
        if isinstance(key, bool):
            return "true" if key else "false"
        return key if isinstance(key, str) else f"{key:g}" if isinstance(key, float) else str(key)


def _short(tag: str) -> str:
    return tag.removeprefix(_TAG)


def _at(node: yaml.Node, message: str) -> YamlError:
    return YamlError(f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}: {message}")
