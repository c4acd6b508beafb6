"""Does what a model is told of a tool already say a gold answer? (METHOD section 2.)

The rule, so that trivial answers do not accuse honest tools:

- Text answers of at least 3 letters and numbers of at least 3 digits leak where they stand as whole words or numerals
  (case, punctuation, camelCase and thousands separators folded) in any tool's description, or in a title, description,
  default, example, const or pattern of its schema; in its name, its property names and its enumerations only where the
  tool gives that answer, for `capital_of_france` may well answer a later step.
- Shorter ones leak only where they are announced: "always returns 42".
- A list or an object leaks where all that it holds stands in one place.
- Booleans, null, yes and no never leak; a tool that picks one of its arguments may enumerate the choice.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from astra_api.environment import EnvironmentSpec, Tool
from astra_api.matching import fold, matches
from astra_sandbox.verification.mentions import number_mentions, plain, significant, spaceless, text_mentions
from astra_sandbox.verification.verdict import Finding, Reason

NEVER = {"", "yes", "no", "true", "false", "none", "null", "unknown"}
_ANNOUNCED = (
    r"(?i:\b(?:answers?|returns?|returned|results?|gives?|yields?|outputs?|equals?|always|solution)"
    r"(?:\s+(?:is|are|be|to|the|a|with|by|always|value|of|exactly|simply))*\s*[:=]?\s*[\"'`(]*)"
)
_END = r"\s*(?:$|[.,;:!?)\]\"'`])"
_WORD_EDGE = re.compile(r"_+|(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_MIN_LENGTH = 3
_SUBSCHEMA_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_TEXT_KEYWORDS = {"description", "title", "$comment", "pattern"}
_VALUE_KEYWORDS = {"default", "const", "examples", "example"}


class Surface(NamedTuple):
    """One place a model reads. `spoken` names (identifiers, enumerations) count only for the tool's own answers."""

    field: str
    text: str
    values: tuple[Any, ...]
    kind: str  # text | name | enum


class Gold(NamedTuple):
    """One answer to keep secret, and the tools whose answer it is."""

    field: str
    answer: Any
    tolerance: float
    tools: frozenset[str]
    chosen: bool  # one of the call's own arguments


def check_leakage(spec: EnvironmentSpec) -> Iterator[Finding]:
    """No gold answer stands where a model reads about a tool."""
    golds = list(_golds(spec))
    for index, tool in enumerate(spec.tools):
        for surface in _surfaces(tool, f"spec.tools[{index}]"):
            for gold in golds:
                if surface.kind != "text" and (tool.name not in gold.tools or (surface.kind == "enum" and gold.chosen)):
                    continue
                if _stands(gold.answer, gold.tolerance, surface):
                    message = f"{surface.field}: says {gold.answer!r}, which {gold.field} asks for; take it out"
                    yield Finding("leakage", Reason.GOLD_LEAKED, message)


def _golds(spec: EnvironmentSpec) -> Iterator[Gold]:
    ends: set[str] = set()
    for index, step in enumerate(spec.steps):
        if step.call is None:
            continue
        given = list(scalars(step.call.arguments))
        chosen = any(matches(value, step.answer, "text") or matches(value, step.answer) for value in given)
        if step.matches(spec.answer):
            ends.add(step.call.tool)
        yield Gold(f"spec.steps[{index}].answer", step.answer, step.tolerance, frozenset({step.call.tool}), chosen)
    if not ends:
        yield Gold("spec.answer", spec.answer, 0.0, frozenset(), False)


def _surfaces(tool: Tool, field: str) -> Iterator[Surface]:
    yield Surface(f"{field}.name", _WORD_EDGE.sub(" ", tool.name), (), "name")
    yield Surface(f"{field}.description", tool.description, (), "text")
    yield from _schema_surfaces(tool.parameters, f"{field}.parameters")


def _schema_surfaces(schema: Any, field: str) -> Iterator[Surface]:
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _schema_surfaces(item, f"{field}[{index}]")
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        here = f"{field}.{keyword}"
        if keyword in _SUBSCHEMA_MAPS and isinstance(value, Mapping):
            for name, subschema in value.items():
                yield Surface(f"{here}.{name}", _WORD_EDGE.sub(" ", name), (), "name")
                yield from _schema_surfaces(subschema, f"{here}.{name}")
        elif keyword in _TEXT_KEYWORDS and isinstance(value, str):
            yield Surface(here, value, (), "text")
        elif keyword in _VALUE_KEYWORDS:
            yield Surface(here, "", tuple(scalars(value)), "text")
        elif keyword == "enum" and isinstance(value, list):
            yield Surface(here, "", tuple(scalars(value)), "enum")
        elif keyword not in {"type", "required", "format", "$ref", "$schema", "$id"}:
            yield from _schema_surfaces(value, here)


def _stands(answer: Any, tolerance: float, surface: Surface) -> bool:
    if isinstance(answer, list | dict):
        parts = [part for part in scalars(answer) if not isinstance(part, bool) and part is not None]
        told = [_stands(part, 0.0, surface) for part in parts]
        return bool(told) and all(told)
    if answer is None or isinstance(answer, bool) or fold(str(answer)) in NEVER:
        return False
    if matches(answer, answer, "numeric"):  # a number, or a numeral in a string
        return _number_stands(answer, tolerance, surface)
    return _text_stands(str(answer), surface)


def _number_stands(answer: Any, tolerance: float, surface: Surface) -> bool:
    for text in _texts(surface):
        for mention in number_mentions(answer, text, tolerance):
            if len(significant(mention.digits)) >= _MIN_LENGTH:
                return True
        for mention in number_mentions(answer, text):
            if _announced(plain(text)[mention.start : mention.end], plain(text)):
                return True
    return False


def _text_stands(answer: str, surface: Surface) -> bool:
    if len(fold(answer)) < _MIN_LENGTH and not spaceless(answer):
        return _announced(answer, surface.text)
    return any(True for text in _texts(surface) for _ in text_mentions(answer, text))


def _texts(surface: Surface) -> list[str]:
    return [surface.text, *(str(value) for value in surface.values if not isinstance(value, bool))]


def _announced(answer: str, text: str) -> bool:
    """`always returns 42.`, but neither `returns 2 letters` nor `returns 1 if so`."""
    return re.search(_ANNOUNCED + re.escape(answer) + _END, text) is not None and answer not in ("0", "1")


def scalars(value: Any) -> Iterator[Any]:
    """Every scalar in a JSON value."""
    if isinstance(value, list):
        for item in value:
            yield from scalars(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from scalars(item)
    else:
        yield value
