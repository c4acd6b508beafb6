"""The step graph of an Environment: order, levels, hops and scenario type."""

from collections.abc import Sequence

import networkx as nx

from astra_api.environment import Scenario, Step


def step_graph(steps: Sequence[Step]) -> "nx.DiGraph[str]":
    """A node a step id, an edge from each dependency to its dependant. Dangling dependencies become nodes too."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(step.id for step in steps)
    graph.add_edges_from((parent, step.id) for step in steps for parent in step.depends_on)
    return graph


def levels(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps by topological level, `steps` order within a level: what may run in one turn.

    Raises ValueError on a cycle or a dependency that is no step.
    """
    by_id = {step.id: step for step in steps}
    order = {step.id: position for position, step in enumerate(steps)}
    graph = step_graph(steps)
    if unknown := sorted(set(graph) - set(by_id)):
        raise ValueError(f"dependsOn names no step: {', '.join(unknown)}")
    try:
        generations = [sorted(level, key=order.__getitem__) for level in nx.topological_generations(graph)]
    except nx.NetworkXUnfeasible:
        raise ValueError("the steps depend on each other in a cycle") from None
    return [[by_id[name] for name in level] for level in generations]


def terminal_steps(steps: Sequence[Step]) -> list[Step]:
    """The steps nothing depends on, in order. The answer of the environment is the answer of one of them."""
    needed = {parent for step in steps for parent in step.depends_on}
    return [step for step in steps if step.id not in needed]


def hops(steps: Sequence[Step]) -> int:
    """How many tool calls the question takes: the steps that need a tool."""
    return sum(step.call is not None for step in steps)


def scenario(steps: Sequence[Step]) -> Scenario:
    """The scenario type of the tool-needing steps: do any depend on each other, and does any level hold several?"""
    called = [step for step in steps if step.call is not None]
    ids = {step.id for step in called}
    called = [step.model_copy(update={"depends_on": [d for d in step.depends_on if d in ids]}) for step in called]
    return _shape(called)


def scenarios(steps: Sequence[Step]) -> set[Scenario]:
    """The scenario types that steps may be said to have: where several need a tool, a step of reasoning that brings
    their answers together may be counted as a hop, or not."""
    several = hops(steps) > 1
    return {scenario(steps), *([_shape(steps)] if several else [])}


def _shape(steps: Sequence[Step]) -> Scenario:
    if len(steps) <= 1:
        return "single-hop"
    by_level = levels(steps)
    if len(by_level) == 1:
        return "parallel-single-hop"
    return "parallel-multi-hop" if any(len(level) > 1 for level in by_level) else "multi-hop"
