"""A tool for one step: document, complexity scaling, gold call, code, trial in the sandbox, repair."""

from typing import Any

from astra_api.environment import Step, Tool
from astra_sandbox.verification import Verdict
from astra_sandbox.verification.tools import SchemaInvalid, compile_schema
from astra_sandbox.verification.verdict import Reason
from astra_synth.construction.assembly import BuiltTool, Workbench
from astra_synth.construction.drafts import (
    GOLD_CALL,
    REPAIR_TOOL,
    SCALE_TOOL,
    TOOL_DOCUMENT,
    TOOL_SOURCE,
    GoldArguments,
    ToolDocument,
    shown,
)
from astra_synth.rejection import Rejected
from astra_synth.teacher import CallFailed, Enquiry

Wrong = tuple[str, str] | None  # (reason, message)


async def build_tool(enquiry: Enquiry, bench: Workbench, step: Step, repairs: int, notes: list[str]) -> BuiltTool:
    """A tool that passed every check on its own. Raises Rejected with the verdict that was left after `repairs`."""
    tool = await document(enquiry, bench, step, (), notes)
    arguments = await call(enquiry, tool, step)
    draft = await enquiry.ask(TOOL_SOURCE, tool=shown(tool), call=expected(tool, step, arguments))
    built = BuiltTool(tool, draft.source, {step.id: arguments})
    verdict = await bench.try_tool(built)
    for _ in range(repairs):
        if verdict.verified or verdict.reason == Reason.ANSWER_IN_QUESTION:  # no tool can mend a question
            break
        built = await _mended(enquiry, built, step, verdict)
        verdict = await bench.try_tool(built)
    if not verdict.verified:
        raise Rejected(verdict.reason or "Rejected", f"{step.id}: {verdict.message}")
    return built


async def document(enquiry: Enquiry, bench: Workbench, step: Step, known: tuple[Tool, ...], notes: list[str]) -> Tool:
    """A tool that could answer the step, widened where that breaks nothing; one of `known` where it is named."""
    plan = bench.instance.plan
    found = await enquiry.ask(
        TOOL_DOCUMENT,
        check=lambda reply: schema_problem(reply.parameters),
        step=step_shown(step),
        question=plan.question,
        domain=bench.instance.domain,
        tools=[shown(tool) for tool in known],
    )
    for tool in known:
        if tool.name == found.name:
            return tool
    try:
        wide = await enquiry.ask(
            SCALE_TOOL,
            check=lambda reply: widening_problem(found, reply),
            tool=shown(found.tool),
            step=step_shown(step),
        )
    except CallFailed as failure:
        if failure.transient:
            raise
        notes.append(f"{step.id}: not widened: {failure.reason}")
        return found.tool
    return wide.tool


async def call(enquiry: Enquiry, tool: Tool, step: Step) -> dict[str, Any]:
    """The arguments of the step's call, which satisfy the tool's schema."""

    def check(reply: GoldArguments) -> Wrong:
        return arguments_problem(tool, reply.arguments)

    return (await enquiry.ask(GOLD_CALL, check=check, tool=shown(tool), step=step_shown(step))).arguments


async def _mended(enquiry: Enquiry, built: BuiltTool, step: Step, verdict: Verdict) -> BuiltTool:
    arguments = built.calls[step.id]
    reply = await enquiry.ask(
        REPAIR_TOOL,
        check=lambda reply: schema_problem(reply.parameters) or arguments_problem(reply.tool, reply.arguments),
        tool=shown(built.tool),
        source=built.source,
        call=expected(built.tool, step, arguments),
        reason=verdict.reason,
        message=verdict.message,
    )
    return BuiltTool(reply.tool, reply.source, {step.id: reply.arguments})


def schema_problem(parameters: dict[str, Any]) -> Wrong:
    """What keeps parameters from being the JSON Schema of an arguments object."""
    try:
        compile_schema(parameters)
    except SchemaInvalid as error:
        return "SchemaInvalid", f"parameters: {error}"
    if parameters.get("type") != "object" or not isinstance(parameters.get("properties", {}), dict):
        return "SchemaInvalid", "parameters: write a JSON Schema with type: object and properties"
    return None


def arguments_problem(tool: Tool, arguments: dict[str, Any]) -> Wrong:
    """What in the arguments does not satisfy the tool's schema."""
    for problem in compile_schema(tool.parameters).iter_errors(arguments):
        where = "".join(f".{key}" for key in problem.instance_path)
        return "ArgumentsInvalid", f"arguments{where}: {problem.message}"
    return None


def widening_problem(old: ToolDocument, new: ToolDocument) -> Wrong:
    """Why a call that suited the old tool might not suit the new one."""
    if wrong := schema_problem(new.parameters):
        return wrong
    if new.name != old.name:
        return "NotBackwardCompatible", f"name: keep {old.name}"
    before, after = old.parameters.get("properties", {}), new.parameters.get("properties", {})
    for name, schema in before.items():
        if name not in after:
            return "NotBackwardCompatible", f"parameters: {name} is gone; keep it"
        if _form(schema) != _form(after[name]):
            return "NotBackwardCompatible", f"parameters: {name} takes other values than before; keep its schema"
    if set(old.parameters.get("required", ())) != set(new.parameters.get("required", ())):
        return "NotBackwardCompatible", "required: keep it as it is; what is new is optional"
    if old.parameters.get("additionalProperties") != new.parameters.get("additionalProperties"):
        return "NotBackwardCompatible", "additionalProperties: keep it as it is"
    return None


def step_shown(step: Step) -> dict[str, Any]:
    """A step as prompts show it to whoever writes its tool."""
    return {"id": step.id, "question": step.question, "depends_on": step.depends_on, "expected_answer": step.answer}


def expected(tool: Tool, step: Step, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": step.id, "tool": tool.name, "arguments": arguments, "expected_answer": step.answer}


def _form(schema: Any) -> Any:
    """A property's schema without what is only said about it."""
    if not isinstance(schema, dict):
        return schema
    return {key: value for key, value in schema.items() if key not in ("description", "title", "examples", "default")}
