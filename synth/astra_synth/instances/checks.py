"""What code finds wrong with a plan, before any model is asked about it and before anything is built."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx

from astra_api.graph import step_graph, terminal_steps
from astra_api.matching import fold, matches
from astra_api.synthesis_run import HopRange
from astra_sandbox.verification.topology import edge_findings
from astra_synth.instances.language import is_in
from astra_synth.instances.plan import Labels, Plan, Review, match_of

_VAGUE = {
    "", "unknown", "n a", "na", "none", "null", "tbd", "todo", "not available", "not specified", "not known", "varies",
    "it depends", "depends", "undefined", "placeholder", "answer", "unbekannt", "nicht bekannt", "keine angabe",
    "kommt darauf an", "未知", "不详", "不确定", "暂无", "无法确定", "待定",
}  # fmt: skip
_LONG_ANSWER = 2000  # characters
_TELLING = 3  # letters or digits from which on an answer in a question is no coincidence


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a plan, in words that its author can act on."""

    reason: str
    message: str


@dataclass(frozen=True)
class Wanted:
    """What a plan was asked to be."""

    language: str
    hops: HopRange
    stateful: bool
    question: str | None = None  # the given one


def plan_problems(plan: Plan, wanted: Wanted) -> list[Problem]:
    """Everything that code finds, the topology first."""
    edges = [Problem(str(finding.reason), finding.message) for finding in edge_findings(plan.as_steps())]
    if edges:
        return edges  # the rest reads the graph
    return [
        *_references(plan),
        *_hard_coded(plan),
        *_answers(plan),
        *_state(plan, wanted),
        *_languages(plan, wanted),
    ]


def label_problems(plan: Plan, labels: Labels, wanted: Wanted) -> list[Problem]:
    """The leaf-only rule, and the number of tool calls."""
    calls = {label.id for label in labels.steps if label.needs_tool}
    if not calls:
        return [Problem("NoToolStep", "no sub-question needs a tool: ask what only data can answer")]
    found = [
        Problem("NotLeaf", f"{step.id} depends on {parent}, which needs no tool: fold {parent} into {step.id}")
        for step in plan.steps
        for parent in step.depends_on
        if parent not in calls
    ]
    found += [
        Problem("ChangeWithoutTool", f"{step.id} changes state, and is labelled as if no tool were needed")
        for step in plan.steps
        if step.changes_state and step.id not in calls
    ]
    limits = wanted.hops
    if not limits.min <= len(calls) <= limits.max:
        problem = f"{len(calls)} sub-questions need a tool; between {limits.min} and {limits.max} have to"
        found.append(Problem("HopsOutOfRange", problem))
    return found


def review_problems(plan: Plan, review: Review) -> list[Problem]:
    """What a judge found, as problems to repair. Findings that the graph refutes are dropped."""
    by_id = {step.id: step for step in plan.steps}
    found = []
    for item in review.steps:
        step = by_id[item.id]
        found += [
            Problem("MissingDependency", f"{item.id} needs the answer of {other} and does not refer to it: {item.why}")
            for other in item.missing
            if other in by_id and other != item.id and other not in step.depends_on
        ]
        found += [
            Problem("ExcessDependency", f"{item.id} does not need {other}: {item.why}")
            for other in item.excess
            if other in step.depends_on
        ]
        if item.serialised and step.depends_on:
            found.append(Problem("ForcedSerialisation", f"{item.id} waits without need: {item.why}"))
        if not item.atomic:
            found.append(Problem("NotAtomic", f"{item.id} takes more than one call; split it: {item.why}"))
    return found


def same_steps(plan: Plan, ids: list[str]) -> tuple[str, str] | None:
    """(reason, message) where an answer does not speak of every step exactly once."""
    wanted = [step.id for step in plan.steps]
    if sorted(ids) == sorted(wanted):
        return None
    return "TeacherMalformed", f"steps: speak of each of {', '.join(wanted)} exactly once, not of {', '.join(ids)}"


def _answers(plan: Plan) -> Iterator[Problem]:
    for where, answer in [("the main answer", plan.answer), *((f"the answer of {s.id}", s.answer) for s in plan.steps)]:
        if _vague(answer):
            yield Problem("VagueAnswer", f"{where} is {answer!r}: give one concrete value")
        elif len(str(answer)) > _LONG_ANSWER:
            yield Problem("LongAnswer", f"{where} is longer than {_LONG_ANSWER} characters: ask for less")
    ends = [step.id for step in terminal_steps(plan.as_steps())]
    giving = _giving(plan)
    if not giving:
        problem = f"the main answer is the answer of no last step ({', '.join(ends)})"
        yield Problem("AnswerNotTerminal", f"{problem}: end with the step that answers the main question")
        return
    graph = step_graph(plan.as_steps())
    useful = set(giving).union(*(nx.ancestors(graph, end) for end in giving))
    for step in plan.steps:
        if step.id not in useful:
            yield Problem("UnreachedStep", f"the main answer does not rest on {step.id}: use it or leave it out")


def _giving(plan: Plan) -> list[str]:
    """The last steps whose answer is the main answer."""
    ends = {step.id for step in terminal_steps(plan.as_steps())}
    return [
        step.id for step in plan.steps if step.id in ends and matches(step.answer, plan.answer, *match_of(plan.answer))
    ]


def _references(plan: Plan) -> Iterator[Problem]:
    by_id = {step.id: step for step in plan.steps}
    for step in plan.steps:
        for name in step.references:
            if name not in by_id:
                yield Problem("UnknownDependency", f"{step.id} refers to {{{name}}}, and there is no such step")
            elif name not in step.depends_on:
                yield Problem("MissingDependency", f"{step.id} refers to {{{name}}}: list {name} in depends_on")
        for parent in step.depends_on:
            if parent not in step.references and not by_id[parent].changes_state:
                problem = f"{step.id} depends on {parent} and does not use its answer"
                yield Problem("ExcessDependency", f"{problem}: refer to it as {{{parent}}} or drop it")


def _hard_coded(plan: Plan) -> Iterator[Problem]:
    """A step whose question simply knows what another step has yet to find."""
    graph = step_graph(plan.as_steps())
    given = f" {fold(plan.question)} "
    for step in plan.steps:
        asks = f" {fold(step.question)} "
        after = nx.descendants(graph, step.id)
        for other in plan.steps:
            if other is step or other.id in after or other.id in step.references or isinstance(other.answer, bool):
                continue
            known = f" {fold(str(other.answer))} " if isinstance(other.answer, str | int | float) else ""
            if len(known.strip()) >= _TELLING and known in asks and known not in given:
                problem = f"{step.id} says {other.answer!r}, which {other.id} has yet to find"
                yield Problem("MissingDependency", f"{problem}: refer to it as {{{other.id}}}")


def _state(plan: Plan, wanted: Wanted) -> Iterator[Problem]:
    if wanted.stateful and not plan.stateful:
        yield Problem("NoStateChange", "no step changes state: let one create, update or cancel something")
    if not plan.stateful:
        return
    graph = step_graph(plan.as_steps())
    changing = {step.id for step in plan.steps if step.changes_state}
    ends = _giving(plan)
    if ends and not any(changing & nx.ancestors(graph, end) for end in ends):
        problem = "the main answer does not rest on what changed"
        yield Problem("StateUnused", f"{problem}: end with a step that depends on a change and asks what it led to")


def _languages(plan: Plan, wanted: Wanted) -> Iterator[Problem]:
    asked = f"the language with the code {wanted.language}"
    steps = " ".join(step.question.replace("{", " ").replace("}", " ") for step in plan.steps)
    if wanted.question is None and not is_in(plan.question, wanted.language):
        yield Problem("WrongLanguage", f"the question is not in {asked}: write it in that")
    elif not is_in(steps, wanted.language):
        yield Problem("WrongLanguage", f"the sub-questions are not in {asked}: write them in that")


def _vague(answer: Any) -> bool:
    if answer is None or answer in ([], {}):
        return True
    if isinstance(answer, str):
        return fold(answer) in _VAGUE
    if isinstance(answer, list | dict):
        return any(map(_vague, answer.values() if isinstance(answer, dict) else answer))
    return False
