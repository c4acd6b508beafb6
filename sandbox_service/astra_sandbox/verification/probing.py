"""Calls that may show what another call changed: of every tool, about what that call was given and what it answered.

A setter may answer null and show its effect through another tool with other arguments alone. So the probes of a call
take, where the parameters allow it, the values of its arguments and of its answer: the name of an account, the number
of a new order. A function of what it is given; it asks nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from astra_api.environment import Tool
from astra_sandbox.verification.perturbation import leaves, replaced
from astra_sandbox.verification.tools import compile_schema

Probe = tuple[str, dict[str, Any]]  # a tool and its arguments

_SAMPLES: dict[str, list[Any]] = {
    "string": ["a"], "integer": [1, 0], "number": [1, 0, 0.5], "boolean": [True, False], "array": [[]], "object": [{}],
    "null": [None],
}  # fmt: skip
_PROBES_OF_A_TOOL = 12
_PROBES = 100


def probes(tools: Sequence[Tool], golds: Sequence[Probe], call: Probe, answer: Any) -> list[Probe]:
    """Distinct calls that satisfy their tools' parameters, those of the tool of `call` last.

    `call` is the one in question, and `answer` what it answered; `golds` are known good calls.
    """
    values = [(path[-1], value) for path, value in [*leaves(call[1]), *leaves({"answer": answer})] if value is not None]
    usual = [(path[-1], value) for _, arguments in golds for path, value in leaves(arguments)]
    of_tools: list[list[Probe]] = []
    for tool in tools:
        known = [arguments for name, arguments in golds if name == tool.name]
        is_valid = compile_schema(tool.parameters).is_valid
        drawn = _arguments(tool.parameters, known, values, usual)
        distinct = {repr(given): (tool.name, given) for given in islice(filter(is_valid, drawn), _PROBES_OF_A_TOOL)}
        of_tools.append(list(distinct.values()))
    in_turn = (probe for round_ in zip_longest(*of_tools) for probe in round_ if probe is not None)
    kept = list(islice(in_turn, _PROBES))
    return sorted(kept, key=lambda probe: probe[0] == call[0])  # its own tool might overwrite what it changed


def _arguments(
    parameters: Mapping[str, Any],
    known: Sequence[dict[str, Any]],
    values: Sequence[tuple[Any, Any]],
    usual: Sequence[tuple[Any, Any]],
) -> Iterator[dict[str, Any]]:
    """Arguments that are known to be good, or made up, as they are and with `values` in every place."""
    bases = list(known) or list(_made_up(parameters, values, usual))
    yield from bases
    for base in bases:
        for path, old in leaves(base):
            near = [old + 1] if isinstance(old, int) and not isinstance(old, bool) else []
            for value in [*(value for _, value in values), *near]:
                if type(value) is type(old) and value != old:
                    yield replaced(base, path, value)


def _made_up(
    parameters: Mapping[str, Any], values: Sequence[tuple[Any, Any]], usual: Sequence[tuple[Any, Any]]
) -> Iterator[dict[str, Any]]:
    """Arguments for a tool that no gold call shows how to call, the likeliest first."""
    properties, required = parameters.get("properties"), parameters.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        yield {}
        return
    options = {name: _likely(name, properties.get(name), values, usual) for name in required}
    if any(not option for option in options.values()):
        return
    first = {name: option[0] for name, option in options.items()}
    yield first
    for name, option in options.items():
        for value in option[1:]:
            yield {**first, name: value}


def _likely(name: str, schema: Any, values: Sequence[tuple[Any, Any]], usual: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Values for a parameter: those that were given under its name, then others, then of its schema."""
    told = schema if isinstance(schema, dict) else {}
    listed: list[Any] = next((told[word] for word in ("enum", "examples") if isinstance(told.get(word), list)), [])
    samples = _SAMPLES.get(str(told.get("type")), [])
    kinds = {type(sample) for sample in samples}
    given = [(of, value) for of, value in [*values, *usual] if not kinds or type(value) in kinds]
    named = [value for of, value in given if of == name]
    others = [value for of, value in given if of != name]
    return list({repr(value): value for value in [*listed, *named, *others, *samples]}.values())
