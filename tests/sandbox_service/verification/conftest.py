"""Environments to verify: one that passes every check, and a maker of small ones with a single tool."""

import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from astra_api.environment import Environment
from astra_sandbox.client import Retry
from astra_sandbox.interface import Isolation, Sandbox
from astra_sandbox.launching import launch_local

_CITY = {
    "metadata": {"name": "city-trip"},
    "spec": {
        "question": "How many more people live in the larger of Paris and Rome?",
        "answer": 725000,
        "domain": "travel",
        "scenario": "parallel-single-hop",
        "steps": [
            {
                "id": "s1",
                "question": "Population of Paris?",
                "answer": 2148000,
                "call": {"tool": "city_population", "arguments": {"city": "Paris"}},
            },
            {
                "id": "s2",
                "question": "Population of Rome?",
                "answer": 2873000,
                "call": {"tool": "city_population", "arguments": {"city": "Rome"}},
            },
            {"id": "s3", "question": "Difference?", "answer": 725000, "dependsOn": ["s1", "s2"]},
        ],
        "tools": [
            {
                "name": "city_population",
                "description": "Population of a city at the last census.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            }
        ],
        "source": '_POPULATION = {"paris": 2148000, "rome": 2873000, "oslo": 709000}\n\n'
        "def city_population(city: str) -> int:\n    return _POPULATION[city.strip().lower()]\n",
    },
}
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


@pytest.fixture
def city() -> dict[str, Any]:
    """The manifest of an environment that passes every check; each test has a copy to break."""
    return copy.deepcopy(_CITY)


@pytest.fixture(scope="session")
def one_tool() -> Callable[..., Environment]:
    """(source, answer, arguments, **spec) -> an environment whose one step calls `f` of the source."""

    def make(source: str, answer: Any = 42, arguments: dict[str, Any] | None = None, **spec: Any) -> Environment:
        given = {"x": "a"} if arguments is None else arguments
        schema = {
            "type": "object",
            "properties": {name: {"type": _TYPES[type(value)]} for name, value in given.items()},
            "required": list(given),
            "additionalProperties": False,
        }
        step = {"id": "s1", "question": "?", "answer": answer, "call": {"tool": "f", "arguments": given}}
        whole = {
            "question": "?",
            "answer": answer,
            "domain": "d",
            "scenario": "single-hop",
            "steps": [step],
            "tools": [{"name": "f", "description": "A tool.", "parameters": schema}],
            "source": source,
            **spec,
        }
        return Environment.model_validate({"metadata": {"name": "one"}, "spec": whole})

    return make


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def verifying_sandbox() -> AsyncIterator[Sandbox]:
    """A real server; its containment does not matter to verdicts, so the one that starts fastest."""
    async with launch_local(level=Isolation.PROCESS, retry=Retry(budget=20)) as sandbox:
        yield sandbox
