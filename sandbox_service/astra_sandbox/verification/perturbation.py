"""Perturbed gold calls: other arguments that the tool's own schema allows (METHOD section 2, "not constant").

Each changes one place of the arguments. `unknown` puts a name there that cannot exist, or a key that the data lacks;
`other` another value: of the enumeration, of a sibling step, of the source's data, or a number near by. A function of
(arguments, seed).
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

Path = tuple[Any, ...]  # object keys and list indices
Neighbours = Callable[[Any], Sequence[Any]]


@dataclass(frozen=True)
class Perturbation:
    """One perturbed call. `path` leads to what was changed, from the arguments object."""

    arguments: dict[str, Any]
    path: Path
    kind: Literal["unknown", "other"]
    required: bool  # what changed is an argument that the schema requires, as a whole

    @property
    def value(self) -> Any:
        """What now stands at the path; None where something was left out."""
        return value_at(self.arguments, self.path)


def perturbations(
    parameters: Mapping[str, Any],
    arguments: Mapping[str, Any],
    is_valid: Callable[[Any], bool],
    neighbours: Neighbours,
    seed: str,
    absent: Neighbours = lambda _: (),
) -> list[Perturbation]:
    """Distinct perturbations that satisfy the schema, the places taken in turn: unknown names first, then others.

    `neighbours(value)` gives further values that may stand where `value` does; `absent(value)` those that look like it
    and that the tool's data does not hold, if it holds `value`.
    """
    properties = _object(parameters.get("properties"))
    required = parameters.get("required")
    needed = set(required) if isinstance(required, list) else set()
    unknown: list[list[Perturbation]] = []
    other: list[list[Perturbation]] = []
    for path, value in leaves(dict(arguments)):
        schema = _object(properties.get(path[0]) if len(path) == 1 else None)
        must = len(path) == 1 and path[0] in needed
        if "enum" not in schema:
            names = [*(unknown_names(seed, path) if isinstance(value, str) else ()), *(absent(value) if must else ())]
            unknown.append([_changed(arguments, path, name, "unknown", must) for name in names])
        values = _other_values(value, schema, neighbours)
        other.append([_changed(arguments, path, new, "other", must) for new in values])
    other.append([change for change in _shortened(arguments, needed)])
    other.append([change for change in _supplied(properties, arguments)])
    seen = [dict(arguments)]
    found: list[Perturbation] = []
    for candidate in [*_in_turn(unknown), *_in_turn(other)]:
        if candidate.arguments not in seen and is_valid(candidate.arguments):
            seen.append(candidate.arguments)
            found.append(candidate)
    return found


def unknown_names(seed: str, path: Path) -> tuple[str, str]:
    """Two names that no data holds; one sorts first and one last, and their lengths and word counts differ."""
    mark = hashlib.sha256(f"{seed}:{path}".encode()).hexdigest()[:8]
    return f"Aaqx {mark}", f"zzvk-{mark}-unheard"


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every scalar in a JSON value, with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif path:
        yield path, value


def value_at(value: Any, path: Path) -> Any:
    """The value at a path, None where there is none."""
    for key in path:
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and key < len(value)
        if not inside:
            return None
        value = value[key]
    return value


def _other_values(value: Any, schema: Mapping[str, Any], neighbours: Neighbours) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(schema.get("enum"), list):
        return [item for item in schema["enum"] if item != value]
    known = list(neighbours(value))
    if isinstance(value, int):
        return [*known[:2], value + 1, -value, 2 * value + 3, value - 1, *known[2:], value + 10]
    if isinstance(value, float):
        return [*known[:2], value + 1.0, -value, 2.0 * value + 0.5, value - 1.0, *known[2:]]
    if isinstance(value, str):
        return [*known, *_next_numerals(value)]
    return []


def _next_numerals(text: str) -> list[str]:
    """`2024-01-09` -> `2024-01-10`, `2025-01-09`: texts that hold numbers have neighbours too."""
    numerals = list(re.finditer(r"\d{1,15}", text))
    ends = numerals[-1:] + numerals[:-1][:1]
    return [f"{text[: m.start()]}{int(m[0]) + 1:0{len(m[0])}d}{text[m.end() :]}" for m in ends]


def _shortened(arguments: Mapping[str, Any], needed: set[str]) -> Iterator[Perturbation]:
    """A list without its last item."""
    for name, value in arguments.items():
        if isinstance(value, list) and len(value) > 1:
            yield Perturbation({**arguments, name: value[:-1]}, (name,), "other", name in needed)


def _supplied(properties: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Perturbation]:
    """Optional arguments that the gold call leaves to their defaults."""
    for name, schema in properties.items():
        if name in arguments or not isinstance(schema, dict):
            continue
        samples: dict[str, list[Any]] = {"boolean": [True, False], "integer": [1, 2, 7], "number": [0.5, 3.0]}
        values = schema["enum"] if isinstance(schema.get("enum"), list) else samples.get(str(schema.get("type")), [])
        for value in values:
            yield Perturbation({**arguments, name: value}, (name,), "other", False)


def _changed(
    arguments: Mapping[str, Any], path: Path, value: Any, kind: Literal["unknown", "other"], required: bool
) -> Perturbation:
    return Perturbation(replaced(dict(arguments), path, value), path, kind, required)


def replaced(value: Any, path: Path, new: Any) -> Any:
    """A copy of a JSON value with another value at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def _in_turn(groups: Sequence[Sequence[Perturbation]]) -> Iterator[Perturbation]:
    for round_ in zip_longest(*groups):
        yield from (candidate for candidate in round_ if candidate is not None)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
