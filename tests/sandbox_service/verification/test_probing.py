"""Probes: calls that satisfy their tools, about what another call was given and answered."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Tool
from astra_sandbox.verification.probing import probes
from astra_sandbox.verification.tools import compile_schema

_TYPES = {"string": st.text(max_size=4), "integer": st.integers(-9, 9), "boolean": st.booleans()}
_SCHEMAS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(sorted(_TYPES)), max_size=3)


def _tool(name: str, properties: dict[str, Any]) -> Tool:
    parameters = {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip
    return Tool(name=name, description="A tool.", parameters=parameters)


def test_they_speak_of_what_a_call_was_given_and_answered() -> None:
    tools = [
        _tool("create_order", {"customer": {"type": "string"}}),
        _tool("owner", {"order": {"type": "integer"}}),
        _tool("orders_of", {"customer": {"type": "string"}, "sort": {"enum": ["up", "down"]}}),
        _tool("clear", {}),
    ]
    call = ("create_order", {"customer": "Ada"})
    found = probes(tools, [call], call, {"id": 17, "state": "new"})
    for wanted in [
        call,
        ("owner", {"order": 17}),
        ("orders_of", {"customer": "Ada", "sort": "up"}),
        ("orders_of", {"customer": "Ada", "sort": "down"}),
        ("clear", {}),
    ]:
        assert wanted in found


@given(st.lists(_SCHEMAS, min_size=1, max_size=5), st.data())
def test_each_satisfies_its_tool_and_no_two_are_equal(schemas: list[dict[str, str]], data: st.DataObject) -> None:
    tools = [
        _tool(f"t{index}", {name: {"type": kind} for name, kind in schema.items()})
        for index, schema in enumerate(schemas)
    ]
    golds = [
        (f"t{index}", data.draw(st.fixed_dictionaries({name: _TYPES[kind] for name, kind in schema.items()})))
        for index, schema in enumerate(schemas[:2])
    ]
    found = probes(tools, golds, golds[0], data.draw(st.integers() | st.text(max_size=3)))
    assert len({repr(probe) for probe in found}) == len(found) <= 100
    for name, arguments in found:
        assert compile_schema(tools[int(name[1:])].parameters).is_valid(arguments)
    assert {name for name, _ in found} == {tool.name for tool in tools}
    assert set(map(repr, golds)) <= set(map(repr, found))
