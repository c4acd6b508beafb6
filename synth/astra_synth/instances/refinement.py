"""From a seed to a plan whose topology holds: draft, code checks, labels, a judge's review, repair, and all again."""

from dataclasses import dataclass

from astra_api.synthesis_run import EnvironmentSynthesis
from astra_synth.instances.checks import Problem, Wanted, label_problems, plan_problems, review_problems, same_steps
from astra_synth.instances.language import language_of
from astra_synth.instances.plan import ASK, DECOMPOSE, LABEL, REPAIR_PLAN, REVIEW, Plan
from astra_synth.instances.seeds import SeedDraw
from astra_synth.rejection import Rejected
from astra_synth.teacher import Enquiry


@dataclass(frozen=True)
class Instance:
    """A plan that holds, and which of its steps need a tool."""

    plan: Plan
    domain: str
    language: str
    tool_steps: frozenset[str]
    repairs: int


def wanted_of(draw: SeedDraw, synthesis: EnvironmentSynthesis) -> Wanted:
    """What to ask for. A given question keeps its language."""
    question = draw.seed.question
    language = draw.language or language_of(question or "")
    return Wanted(language, synthesis.hops, draw.stateful, question)


async def draft(enquiry: Enquiry, draw: SeedDraw, wanted: Wanted) -> Plan:
    """The first draft of a plan."""
    if wanted.question is None:
        return await enquiry.ask(ASK, domain=draw.seed.domain, text=draw.seed.text, wanted=wanted, turn=draw.turn)
    plan = await enquiry.ask(DECOMPOSE, domain=draw.seed.domain, wanted=wanted)
    return _as_given(plan, wanted)


async def refine(enquiry: Enquiry, plan: Plan, domain: str, wanted: Wanted, repairs: int) -> Instance:
    """The plan, repaired until nothing is found wrong with it. Raises Rejected with the first problem left."""
    problems, calls = await _examine(enquiry, plan, wanted)
    repaired = 0
    while problems and repaired < repairs:
        repaired += 1
        plan = _as_given(await enquiry.ask(REPAIR_PLAN, plan=plan.shown(), problems=problems, wanted=wanted), wanted)
        problems, calls = await _examine(enquiry, plan, wanted)
    if problems:
        first, more = problems[0], len(problems) - 1
        raise Rejected(
            first.reason, f"{first.message}{f' (and {more} more)' if more else ''}; {repaired} repairs tried"
        )
    return Instance(plan, domain, wanted.language, calls, repaired)


async def _examine(enquiry: Enquiry, plan: Plan, wanted: Wanted) -> tuple[list[Problem], frozenset[str]]:
    """Problems, found by the cheapest means first, and the steps that need a tool."""
    if problems := plan_problems(plan, wanted):
        return problems, frozenset()
    labels = await enquiry.ask(
        LABEL, check=lambda reply: same_steps(plan, [item.id for item in reply.steps]), plan=plan.shown()
    )
    if problems := label_problems(plan, labels, wanted):
        return problems, frozenset()
    calls = frozenset(label.id for label in labels.steps if label.needs_tool)
    review = await enquiry.ask(
        REVIEW,
        judge=True,
        check=lambda reply: same_steps(plan, [item.id for item in reply.steps]),
        plan=plan.shown(),
        summaries=[step.id for step in plan.steps if step.id not in calls],
    )
    return review_problems(plan, review), calls


def _as_given(plan: Plan, wanted: Wanted) -> Plan:
    """A given question stands as it was given."""
    return plan if wanted.question is None else plan.model_copy(update={"question": wanted.question})
