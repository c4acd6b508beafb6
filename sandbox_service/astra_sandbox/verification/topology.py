"""The step graph: is it a DAG whose end gives the main answer, and are steps without a tool its leaves?"""

from collections.abc import Iterator, Sequence

import networkx as nx

from astra_api.environment import EnvironmentSpec, Step
from astra_api.graph import scenario, scenarios, step_graph, terminal_steps
from astra_sandbox.verification.verdict import Finding, Reason


def check_topology(spec: EnvironmentSpec) -> Iterator[Finding]:
    """Distinct ids, dependencies that exist, no cycle, a step that needs a tool, calls of the scenario's shape, and the
    main answer at an end."""
    broken = list(edge_findings(spec.steps))
    yield from broken
    if not spec.tool_steps:
        yield _found(Reason.NO_TOOL_STEP, "spec.steps: no step has a call; give at least one the call that answers it")
    elif not broken and spec.scenario not in scenarios(spec.steps):
        shape = scenario(spec.steps)
        problem = f"spec.scenario: says {spec.scenario}, but the calls are {shape}: {_shape(spec)}"
        yield _found(Reason.SCENARIO_MISMATCH, f"{problem}; write {shape}, or mend the steps' dependsOn")
    ends = terminal_steps(spec.steps)
    if not broken and not any(step.matches(spec.answer) for step in ends):
        yield _found(
            Reason.ANSWER_NOT_TERMINAL,
            f"spec.answer: is the answer of no terminal step ({', '.join(step.id for step in ends)}); "
            "make it the answer of the step that ends the graph",
        )


def check_leaf_only(spec: EnvironmentSpec) -> Iterator[Finding]:
    """Nothing may depend on a step that is reasoning only: no call could be checked against it."""
    without_call = {step.id for step in spec.steps if step.call is None}
    for index, step in enumerate(spec.steps):
        for position, parent in enumerate(step.depends_on):
            if parent in without_call:
                yield Finding(
                    "leafOnly",
                    Reason.NOT_LEAF,
                    f"spec.steps[{index}].dependsOn[{position}]: {parent} has no call, so it must be a leaf; "
                    f"give {parent} a call or drop the dependency",
                )


def edge_findings(steps: Sequence[Step]) -> Iterator[Finding]:
    """Distinct ids, dependencies that exist, no cycle."""
    first: dict[str, int] = {}
    for index, step in enumerate(steps):
        if first.setdefault(step.id, index) != index:
            yield _found(
                Reason.DUPLICATE_STEP,
                f"spec.steps[{index}].id: {step.id} is taken by spec.steps[{first[step.id]}]; give it its own",
            )
    for index, step in enumerate(steps):
        for position, parent in enumerate(step.depends_on):
            field = f"spec.steps[{index}].dependsOn[{position}]"
            if parent == step.id:
                yield _found(Reason.SELF_DEPENDENCY, f"{field}: {step.id} depends on itself; drop the entry")
            elif parent not in first:
                yield _found(Reason.UNKNOWN_DEPENDENCY, f"{field}: no step is called {parent}; name an existing step")
    graph = step_graph(steps)
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    try:
        cycle = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return
    path = " -> ".join([cycle[0][0], *(edge[1] for edge in cycle)])
    yield _found(Reason.CYCLIC_TOPOLOGY, f"spec.steps: {path} is a cycle; drop one of these dependencies")


def _shape(spec: EnvironmentSpec) -> str:
    """What needs what, in words: "s1; s2; s3 after s1 and s2"."""
    called = {step.id for step in spec.tool_steps}
    needs = {step.id: [parent for parent in step.depends_on if parent in called] for step in spec.tool_steps}
    return "; ".join(f"{name} after {' and '.join(parents)}" if parents else name for name, parents in needs.items())


def _found(reason: Reason, message: str) -> Finding:
    return Finding("topology", reason, message)
