"""Tools that share a state: documents and calls as ever, then one module for all, tried as the whole it is."""

from astra_api.environment import GoldCall, Step, Tool
from astra_api.graph import levels
from astra_sandbox.verification.verdict import Reason
from astra_synth.construction.assembly import Module, Workbench
from astra_synth.construction.building import call, document, expected
from astra_synth.construction.drafts import STATE_MODULE, shown
from astra_synth.rejection import Rejected
from astra_synth.teacher import Enquiry


async def build_module(enquiry: Enquiry, bench: Workbench, repairs: int, notes: list[str]) -> Module:
    """One module for all steps. Raises Rejected with the verdict that was left after `repairs`."""
    tools: list[Tool] = []
    calls: dict[str, GoldCall] = {}
    asked = []
    for step in in_order(bench):
        tool = await document(enquiry, bench, step, tuple(tools), notes)
        if tool not in tools:
            tools.append(tool)
        arguments = await call(enquiry, tool, step)
        calls[step.id] = GoldCall(tool=tool.name, arguments=arguments)
        asked.append(expected(tool, step, arguments))
    failure, source = "", ""
    for _ in range(repairs + 1):
        draft = await enquiry.ask(
            STATE_MODULE, tools=[shown(tool) for tool in tools], calls=asked, failure=failure, source=source
        )
        source = draft.source
        module = Module(tuple(tools), source, calls)
        environment = bench.environment(module)
        verdict = await bench.verify(environment)
        if verdict.verified:
            await bench.require_state(environment)
            return module
        if verdict.reason == Reason.ANSWER_IN_QUESTION:
            break  # no tool can mend a question
        failure = f"{verdict.reason}: {verdict.message}"
    raise Rejected(verdict.reason or "Rejected", verdict.message)


def in_order(bench: Workbench) -> list[Step]:
    """The steps that need a tool, each after what it depends on."""
    ordered = [step for level in levels(list(bench.steps.values())) for step in level]
    return [step for step in ordered if step.id in bench.instance.tool_steps]
