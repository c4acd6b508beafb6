"""Perturbed arguments: valid, distinct, one place at a time, and the same every time."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from astra_api.canonical import canonical_json
from astra_sandbox.verification.data_columns import columns_of
from astra_sandbox.verification.perturbation import Perturbation, leaves, perturbations, value_at
from astra_sandbox.verification.tools import compile_schema

_SCALAR = st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=8)
_ARGUMENTS = st.dictionaries(
    st.sampled_from("abcd"), _SCALAR | st.lists(_SCALAR, max_size=3) | st.dictionaries(st.sampled_from("xy"), _SCALAR)
)


def _perturb(
    schema: dict[str, Any], arguments: dict[str, Any], neighbours: Callable[[Any], list[Any]] = lambda value: []
) -> list[Perturbation]:
    return perturbations(schema, arguments, compile_schema(schema).is_valid, neighbours, "seed")


@given(_ARGUMENTS)
def test_each_changes_one_place_and_no_two_are_equal(arguments: dict[str, Any]) -> None:
    found = _perturb({"type": "object"}, arguments)
    texts = [canonical_json(perturbation.arguments) for perturbation in found]
    assert len({canonical_json(arguments), *texts}) == len(texts) + 1
    for perturbation in found:
        kept = {path: value for path, value in leaves(arguments) if path[: len(perturbation.path)] != perturbation.path}
        assert all(canonical_json(value_at(perturbation.arguments, p)) == canonical_json(v) for p, v in kept.items())
    assert found == _perturb({"type": "object"}, arguments)


@given(_ARGUMENTS.filter(lambda arguments: any(True for _ in leaves(arguments))))
def test_every_place_is_perturbed(arguments: dict[str, Any]) -> None:
    paths = {perturbation.path for perturbation in _perturb({"type": "object"}, arguments)}
    assert {path for path, _ in leaves(arguments)} <= paths


def test_only_what_the_schema_allows() -> None:
    schema = {
        "type": "object",
        "properties": {
            "unit": {"enum": ["km", "mile", "yard"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 3},
            "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "day": {"type": "string"},
            "exact": {"type": "boolean"},
        },
        "required": ["unit"],
        "additionalProperties": False,
    }
    found = _perturb(schema, {"unit": "km", "count": 3, "code": "FR", "day": "2024-01-09"})
    values = {name: [p.value for p in found if p.path == (name,)] for name in schema["properties"]}  # type: ignore[attr-defined]
    assert values["unit"] == ["mile", "yard"]
    assert values["count"] == [2]
    assert values["code"] == []
    assert values["day"][2:] == ["2024-01-10", "2025-01-09"]
    assert values["exact"] == [True, False]
    assert [p.required for p in found if p.path == ("unit",)] == [True, True]
    assert [p.kind for p in found if p.path == ("day",)] == ["unknown", "unknown", "other", "other"]


def test_neighbours_come_from_the_data_of_the_source() -> None:
    source = """
import json
_BY_NAME = {"Paris": 1, "Rome": 2, "Oslo": 3}
_ROWS = [("Lima", "Peru"), ("Quito", "Ecuador")]
_OBJECTS = json.loads('[{"name": "Bern", "code": "CH"}, {"name": "Wien", "code": "AT"}]')
_TABLE = '''city,code
Baku,AZ
Kyiv,UA
'''
def f(x):
    if x == "north":
        return 1
    elif x == "south":
        return 2
"""
    columns = columns_of(source)

    def neighbours(value: Any) -> set[Any]:
        return set(columns.neighbours(value, 10, "seed"))

    assert neighbours("paris") == {"Rome", "Oslo"}
    assert neighbours("Peru") == {"Ecuador"}
    assert neighbours("Bern") == {"Wien"}
    assert neighbours("Baku") == {"Kyiv", "city"}
    assert neighbours("north") == {"south"}
    assert neighbours(2) == {1, 3}
    assert neighbours(77) == set()
    assert len(neighbours("nowhere")) == 10
    assert len(columns.neighbours("paris", 1, "seed")) == 1
    assert columns.neighbours("paris", 2, "a") == columns.neighbours("paris", 2, "a")
