"""Widened tools: whatever call suited the old one suits the new one."""

from typing import Any

import pytest

from astra_synth.construction.building import arguments_problem, schema_problem, widening_problem
from astra_synth.construction.drafts import ToolDocument

CITY = {"type": "string", "description": "Name of the city."}
UNIT = {"type": "string", "enum": ["people", "thousands"], "description": "Unit."}


def document(name: str = "population", required: tuple[str, ...] = ("city",), **properties: Any) -> ToolDocument:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return ToolDocument(name=name, description="People of a city.", parameters=schema)


OLD = document(city=CITY)


@pytest.mark.parametrize(
    "new",
    [OLD, document(city=CITY, unit=UNIT), document(city=CITY | {"description": "A city, in any language."}, unit=UNIT)],
)
def test_what_is_only_added_is_a_widening(new: ToolDocument) -> None:
    assert widening_problem(OLD, new) is None


WORSE = {
    "another name": (document("people", city=CITY), "name: keep population"),
    "a parameter gone": (document(town=CITY), "city is gone"),
    "another type": (document(city={"type": "integer"}), "city takes other values"),
    "a new duty": (document(required=("city", "unit"), city=CITY, unit=UNIT), "required: keep it"),
    "less duty": (document(required=(), city=CITY), "required: keep it"),
    "no schema": (
        ToolDocument(name="population", description="x", parameters={"type": "array"}),
        "write a JSON Schema with type: object",
    ),
}


@pytest.mark.parametrize("name", WORSE)
def test_what_would_break_a_call_is_none(name: str) -> None:
    new, message = WORSE[name]
    found = widening_problem(OLD, new)
    assert found is not None
    assert message in found[1]


def test_schemas_and_arguments() -> None:
    assert schema_problem({"type": "objekt"}) is not None
    assert arguments_problem(OLD.tool, {"city": "Paris"}) is None
    assert arguments_problem(OLD.tool, {"city": 3}) is not None
    assert arguments_problem(OLD.tool, {}) is not None
