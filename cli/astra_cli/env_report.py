"""What `astra env` prints: the table of verdicts, and one environment for people."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from astra_api.display import shortened
from astra_api.environment import Environment, Tool
from astra_api.graph import levels

_COLOURS = {"Verified": "green", "Rejected": "red", "Pending": "yellow"}


def verdict_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row an environment: name, phase, reason, message."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "phase", "reason", "message"):
        table.add_column(name, overflow="fold")
    for row in rows:
        phase = Text(str(row["phase"]), style=_COLOURS.get(str(row["phase"]), ""))
        table.add_row(Text(row["name"]), phase, Text(row["reason"] or ""), Text(row["message"]))
    return table


def entry(environment: Environment) -> dict[str, Any]:
    """A row of a list of environments; its verdict is that of the file, null where there is none of this spec."""
    spec, status = environment.spec, environment.status
    return {
        "name": environment.name,
        "domain": spec.domain,
        "scenario": spec.scenario,
        "hops": len(spec.tool_steps),
        "steps": len(spec.steps),
        "tools": len(spec.tools),
        "state": spec.state,
        "language": spec.language,
        "verdict": status.phase if status is not None and status.digest in (None, environment.digest) else None,
        "digest": environment.digest,
        "question": spec.question,
    }


def environment_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row an environment; its question is the first to give way."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "domain", "scenario", "verdict"):
        table.add_column(name, overflow="fold")
    for name in ("hops", "steps", "tools"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("question", no_wrap=True, overflow="ellipsis")
    for row in rows:
        verdict = Text(str(row["verdict"] or "–"), style=_COLOURS.get(str(row["verdict"]), ""))
        texts = [Text(str(row[name])) for name in ("name", "domain", "scenario")]
        numbers = [str(row[name]) for name in ("hops", "steps", "tools")]
        table.add_row(*texts, verdict, *numbers, Text(shortened(row["question"], 80)))
    return table


def describe(environment: Environment) -> RenderableType:
    """The question and its answer, the steps by level, the tools with their signatures."""
    spec = environment.spec
    question = Text.assemble((spec.question, "bold"), "\n", ("= ", "dim"), (_json(spec.answer), "green"))
    caption = f"{spec.domain}, {spec.scenario}, {spec.language}, {spec.state}"
    return Group(
        Panel(
            question, title=Text(environment.name), subtitle=Text(caption), title_align="left", subtitle_align="left"
        ),
        _steps(environment),
        Text(),
        *(_tool(tool) for tool in spec.tools),
    )


def signature(tool: Tool) -> str:
    """`city_population(city: string, year: integer = ...)`: required arguments first, as the schema lists them."""
    properties = tool.parameters.get("properties")
    listed = tool.parameters.get("required")
    required = listed if isinstance(listed, list) else []
    arguments = [
        (name, schema, name in required)
        for name, schema in (properties if isinstance(properties, dict) else {}).items()
    ]
    parts = [
        f"{name}: {_type(schema)}" + ("" if needed else f" = {_default(schema)}")
        for name, schema, needed in sorted(arguments, key=lambda argument: not argument[2])
    ]
    return f"{tool.name}({', '.join(parts)})"


def _steps(environment: Environment) -> Table:
    steps = environment.spec.steps
    try:
        by_level = levels(steps)
    except ValueError:
        by_level = [list(steps)]  # not a DAG: `verify` says why
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("level", "step", "needs", "question", "call", "answer"):
        table.add_column(name, overflow="fold", justify="right" if name == "level" else "left")
    for level, steps_of_level in enumerate(by_level, start=1):
        for step in steps_of_level:
            given = (
                ", ".join(f"{key}={_json(value)}" for key, value in step.call.arguments.items()) if step.call else ""
            )
            call = Text(f"{step.call.tool}({given})", style="cyan") if step.call else Text("reasoning", style="dim")
            needs = ", ".join(step.depends_on)
            answer = Text(_json(step.answer), style="green")
            table.add_row(str(level), Text(step.id), Text(needs), Text(step.question), call, answer)
    return table


def _tool(tool: Tool) -> RenderableType:
    shown = Syntax(signature(tool), "python", theme="ansi_dark", background_color="default", word_wrap=True)
    return Group(shown, Text(f"    {tool.description}", style="dim"))


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(schema.get("enum"), list):
        return " | ".join(_json(value) for value in schema["enum"][:6]) + (" | ..." if len(schema["enum"]) > 6 else "")
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array[{_type(schema.get('items'))}]"
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _default(schema: Any) -> str:
    return _json(schema["default"]) if isinstance(schema, dict) and "default" in schema else "..."


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
