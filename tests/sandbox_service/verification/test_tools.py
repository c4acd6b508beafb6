"""names, imports and schema: found by reading, nothing is run."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_sandbox.verification.reading import read_environment
from astra_sandbox.verification.standard_library import MODULES

Manifest = dict[str, Any]


def _reasons(environment: Environment) -> dict[str, str]:
    return {finding.reason: finding.message for finding in read_environment(environment)}


def test_a_sound_environment_reads_well(city: Manifest) -> None:
    assert _reasons(Environment.model_validate(city)) == {}


def test_the_pinned_standard_library_exists_here() -> None:
    assert {name for name in MODULES if not name.startswith("__")} <= set(sys.stdlib_module_names)
    assert {"json", "datetime", "collections"} <= MODULES
    assert not {"distutils", "imp", "asyncore", "numpy"} & MODULES


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "import numpy.linalg as la",
        "import json, requests",
        "from torch import nn",
        "from . import sibling",
        "import distutils.core",
        "__import__('numpy')",
        "import importlib; importlib.import_module('pandas.core')",
        "from importlib import import_module; import_module(name='yaml')",
        "__import__('num' + 'py')",
    ],
)
@pytest.mark.parametrize("place", ["{}\ndef f(x):\n    return 1\n", "def f(x):\n    {}\n    return 1\n"])
def test_only_the_standard_library_may_be_imported(one_tool: Callable[..., Environment], line: str, place: str) -> None:
    found = _reasons(one_tool(place.format(line)))
    assert list(found) == ["ForbiddenImport"]
    assert "spec.source line" in found["ForbiddenImport"]


def test_a_forbidden_import_is_found_though_the_machine_has_it(one_tool: Callable[..., Environment]) -> None:
    import numpy  # noqa: F401

    assert "ForbiddenImport" in _reasons(one_tool("import numpy\ndef f(x):\n    return 1\n"))


@pytest.mark.parametrize(
    "lines",
    [
        "import os.path, json",
        "from __future__ import annotations",
        "import xml.etree.ElementTree as t",
        "__import__('re')",
    ],
)
def test_the_standard_library_may_be_imported(one_tool: Callable[..., Environment], lines: str) -> None:
    assert _reasons(one_tool(f"{lines}\ndef f(x):\n    return 1\n")) == {}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def g(x):\n    return 1\n", "ToolNotDefined"),
        ("f = lambda x: 1\n", "ToolNotDefined"),
        ("if True:\n    def f(x):\n        return 1\n", "ToolNotDefined"),
        ("async def f(x):\n    return 1\n", "ToolNotDefined"),
        ("class f:\n    pass\n", "ToolNotDefined"),
        ("def f(x):\n    return 1\ndef f(x):\n    return 2\n", "DuplicateName"),
        ("def f(x:\n", "SourceInvalid"),
        ("def f(x):\n    return 1\0\n", "SourceInvalid"),
        ("x = " + "(" * 5000 + ")" * 5000, "SourceInvalid"),
        ("def f(x):\n    print(x)\n    return 1\n", "PrintsOutput"),
        ("import sys\ndef f(x):\n    sys.stdout.write('x')\n    return 1\n", "PrintsOutput"),
        ("import sys\ndef f(x):\n    print(x, file=sys.stderr)\n    return 1\n", "PrintsOutput"),
        ("import os\ndef f(x):\n    os.write(1, b'x')\n    return 1\n", "PrintsOutput"),
        ("import logging\ndef f(x):\n    logging.warning('x')\n    return 1\n", "PrintsOutput"),
        ("def f():\n    return 1\n", "SignatureMismatch"),
        ("def f(x, y):\n    return 1\n", "SignatureMismatch"),
        ("def f(x, /):\n    return 1\n", "SignatureMismatch"),
        ("def f(x, *, y):\n    return 1\n", "SignatureMismatch"),
    ],
)
def test_a_source_that_cannot_serve_its_tool(one_tool: Callable[..., Environment], source: str, reason: str) -> None:
    assert reason in _reasons(one_tool(source))


@pytest.mark.parametrize(
    "source",
    [
        "def f(x, y=1, *, z=2):\n    return 1\n",
        "def f(**given):\n    return 1\n",
        "import functools\n@functools.cache\ndef f(x):\n    return 1\n",
        "import io\ndef f(x):\n    print(x, file=io.StringIO())\n    return 1\n",
        "def f(x):\n    return 1\nif __name__ == '__main__':\n    print(f('a'))\n",
        r"def f(x):\n    return '\d'\n".replace(r"\n", "\n"),
    ],
)
def test_a_source_that_can(one_tool: Callable[..., Environment], source: str) -> None:
    assert _reasons(one_tool(source)) == {}


def test_two_tools_of_one_name_and_a_call_of_none(city: Manifest) -> None:
    city["spec"]["tools"].append(city["spec"]["tools"][0])
    city["spec"]["steps"][1]["call"]["tool"] = "population"
    found = _reasons(Environment.model_validate(city))
    assert found["DuplicateName"].startswith("spec.tools[1].name")
    assert found["UnknownTool"].startswith("spec.steps[1].call.tool")


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "objekt"},
        {"type": "array"},
        {},
        {"type": "object", "properties": {"city": {"type": "strin"}}},
        {"type": "object", "properties": {"city": {"pattern": "["}}},
        {"type": "object", "properties": {"city": {"$ref": "#/$defs/missing"}}},
        {"type": "object", "properties": {"city": {"$ref": "http://127.0.0.1:1/schema.json"}}},
        {"type": "object", "properties": {"city": {"$ref": "file:///etc/hostname"}}},
    ],
)
def test_parameters_that_are_no_schema_of_an_object(city: Manifest, parameters: Manifest) -> None:
    city["spec"]["tools"][0]["parameters"] = parameters
    found = _reasons(Environment.model_validate(city))
    assert found["SchemaInvalid"].startswith("spec.tools[0].parameters")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "spec.steps[0].call.arguments:"),
        ({"city": 3}, "spec.steps[0].call.arguments.city:"),
        ({"city": "Paris", "year": 2020}, "spec.steps[0].call.arguments:"),
    ],
)
def test_gold_arguments_that_the_schema_refuses(city: Manifest, arguments: Manifest, field: str) -> None:
    city["spec"]["steps"][0]["call"]["arguments"] = arguments
    found = _reasons(Environment.model_validate(city))
    assert found["ArgumentsInvalid"].startswith(field)
