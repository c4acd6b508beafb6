"""Joining modules: every function answers as it did alone, whatever names they share."""

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Tool
from astra_synth.construction.assembly import BuiltTool, Module
from astra_synth.construction.module import join

PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def built(step: str, source: str, name: str = "people", description: str = "People.") -> BuiltTool:
    tool = Tool(name=name, description=description, parameters=PARAMETERS)
    return BuiltTool(tool, source, {step: {"city": "Paris"}})


def answers(module: Module) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(module.source, names)
    return {step: names[call.tool](**call.arguments) for step, call in module.calls.items()}


def table(value: int, data: str = "_DATA", helper: str = "_key") -> str:
    return (
        f"import json\n{data} = {{'paris': {value}}}\n\ndef {helper}(city):\n    return city.casefold()\n\n"
        f"def people(city):\n    {data}.setdefault('x', 1)\n    return {data}[{helper}(city=city)]\n"
    )


def test_one_module_stands_as_it_was_written() -> None:
    source = "# a comment\n" + table(1)
    assert join([built("s1", source)]).source == source


def test_the_same_tool_is_there_once() -> None:
    module = join([built("s1", table(1)), built("s2", table(1))])
    assert len(module.tools) == 1
    assert answers(module) == {"s1": 1, "s2": 1}


def test_names_that_clash_are_kept_apart() -> None:
    module = join([built("s1", table(1)), built("s2", table(2)), built("s3", table(3))])
    assert [tool.name for tool in module.tools] == ["people", "people_2", "people_3"]
    assert answers(module) == {"s1": 1, "s2": 2, "s3": 3}
    assert ast.parse(module.source)


CLASHES = {
    "a parameter hides a name": "city = {'paris': 7}\ndef _data():\n    return city\n"
    "def people(city):\n    return _data()[city.casefold()]\n",
    "a global that is written": "_DATA = 6\ndef people(city):\n    global _DATA\n    _DATA = 7\n    return _DATA\n",
    "imports of one name": "from datetime import date as json\ndef people(city):\n    return json(2024, 1, 7).day\n",
    "a class": "class _DATA:\n    seven = 7\ndef people(city):\n    return _DATA().seven\n",
    "a lambda": "_DATA = 7\n_key = lambda _DATA: _DATA\ndef people(city):\n    return _key(_DATA)\n",
    "a comprehension": "_DATA = [6, 7]\ndef people(city):\n    return max(_DATA for _DATA in _DATA)\n",
    "a name that is free only at first sight": "_DATA, _DATA_2 = 3, 4\ndef people(city):\n    return _DATA + _DATA_2\n",
    "a future import": "from __future__ import annotations\n_DATA = 7\ndef people(city: X):\n    return _DATA\n",
}


@pytest.mark.parametrize("name", CLASHES)
def test_every_kind_of_clash(name: str) -> None:
    module = join([built("s1", table(1)), built("s2", CLASHES[name])])
    assert answers(module) == {"s1": 1, "s2": 7}


NAMES = st.sampled_from(["_DATA", "_key", "_rows", "data", "json", "people_2", "helper"])


@given(st.lists(st.tuples(st.integers(0, 5), NAMES, NAMES), min_size=2, max_size=5))
def test_answers_survive_joining(drawn: list[tuple[int, str, str]]) -> None:
    tools = [
        built(f"s{place}", table(value, data, helper))
        for place, (value, data, helper) in enumerate(drawn)
        if data != helper
    ]
    if tools:
        alone = {step: answer for tool in tools for step, answer in answers(join([tool])).items()}
        assert answers(join(tools)) == alone
