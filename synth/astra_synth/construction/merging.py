"""One tool for equivalent sub-questions: proposed by the teacher, proven by every gold call, else left as they were."""

from astra_synth.construction.assembly import BuiltTool, Workbench
from astra_synth.construction.building import arguments_problem, expected, schema_problem
from astra_synth.construction.drafts import MERGE_CLUSTERS, MERGE_TOOLS, MergedTool, shown
from astra_synth.teacher import CallFailed, Enquiry


async def merge(
    enquiry: Enquiry, bench: Workbench, tools: list[BuiltTool], repairs: int, notes: list[str]
) -> list[BuiltTool]:
    """The tools with equivalent ones made one where that can be proven. A merge that fails changes nothing."""
    if len(tools) < 2:
        return tools
    for cluster in await _clusters(enquiry, bench, tools, notes):
        members = [tool for tool in tools if cluster & tool.calls.keys()]
        merged = await _merged(enquiry, bench, members, repairs, notes)
        if merged is not None:
            place = tools.index(members[0])
            tools = [tool for tool in tools if tool not in members]
            tools.insert(place, merged)
    return tools


async def _clusters(enquiry: Enquiry, bench: Workbench, tools: list[BuiltTool], notes: list[str]) -> list[set[str]]:
    """The groups of steps that a teacher takes for one; what is not a group of distinct known steps is passed over."""
    steps = [
        {"id": step, "question": bench.steps[step].question, "tool": shown(built.tool), "arguments": arguments}
        for built in tools
        for step, arguments in built.calls.items()
    ]
    try:
        proposed = (await enquiry.ask(MERGE_CLUSTERS, steps=steps)).clusters
    except CallFailed as failure:
        if failure.transient:
            raise
        notes.append(f"not merged: {failure.reason}")
        return []
    found: list[set[str]] = []
    free = {step for built in tools for step in built.calls}
    for ids in proposed:
        cluster = set(ids)
        if len(cluster) > 1 and cluster <= free:
            found.append(cluster)
            free -= cluster
    return found


async def _merged(
    enquiry: Enquiry, bench: Workbench, members: list[BuiltTool], repairs: int, notes: list[str]
) -> BuiltTool | None:
    """One tool that passes every check with the calls of all members, or None."""
    calls = {step: arguments for member in members for step, arguments in member.calls.items()}

    def check(reply: MergedTool) -> tuple[str, str] | None:
        given = [item.id for item in reply.calls]
        if sorted(given) != sorted(calls):
            return "TeacherMalformed", f"calls: give one for each of {', '.join(calls)}, not for {', '.join(given)}"
        problems = (arguments_problem(reply.tool, item.arguments) for item in reply.calls)
        return schema_problem(reply.parameters) or next((problem for problem in problems if problem), None)

    where, failure = ", ".join(calls), ""
    asked = [
        expected(member.tool, bench.steps[step], arguments)
        for member in members
        for step, arguments in member.calls.items()
    ]
    try:
        for _ in range(repairs + 1):
            reply = await enquiry.ask(
                MERGE_TOOLS,
                check=check,
                tools=[shown(member.tool) for member in members],
                sources=[member.source for member in members],
                calls=asked,
                failure=failure,
            )
            by_step = {item.id: item.arguments for item in reply.calls}
            merged = BuiltTool(reply.tool, reply.source, {step: by_step[step] for step in calls})
            verdict = await bench.try_tool(merged)
            if verdict.verified:
                return merged
            failure = f"{verdict.reason}: {verdict.message}"
        notes.append(f"{where}: not merged: {verdict.reason}")
    except CallFailed as problem:
        if problem.transient:
            raise
        notes.append(f"{where}: not merged: {problem.reason}")
    return None
