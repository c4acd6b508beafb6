"""Plans: a main question, its sub-questions as a DAG, and their answers. What a teacher drafts, as records.

A step's question names an earlier answer by reference: "What is the population of {s1}?". So what a step uses is read,
not guessed: a reference is a dependency, and a dependency that is not referenced must have changed state.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from astra_api.environment import Step, StepId
from astra_api.matching import Match
from astra_api.resource import Json
from astra_synth.teacher import Prompt, Reply

_REFERENCE = re.compile(r"\{([A-Za-z0-9][-A-Za-z0-9_]*)\}")


class PlanStep(Reply):
    """One sub-question, as a teacher writes it."""

    id: StepId
    question: Annotated[str, Field(min_length=1, max_length=2000)]
    answer: Json
    depends_on: Annotated[list[StepId], Field(max_length=32)]
    changes_state: bool

    @property
    def references(self) -> list[str]:
        """The steps whose answers the question names."""
        return list(dict.fromkeys(_REFERENCE.findall(self.question)))


class Plan(Reply):
    """A main question and its decomposition."""

    question: Annotated[str, Field(min_length=1, max_length=8000)]
    answer: Json
    steps: Annotated[list[PlanStep], Field(min_length=1, max_length=32)]

    @property
    def stateful(self) -> bool:
        return any(step.changes_state for step in self.steps)

    def read(self, step: PlanStep) -> str:
        """The question of a step with the answers it refers to written in."""
        answers = {other.id: other.answer for other in self.steps}
        return _REFERENCE.sub(lambda name: spoken(answers[name[1]]) if name[1] in answers else name[0], step.question)

    def as_steps(self) -> list[Step]:
        """The graph as an Environment holds it, without calls."""
        return [
            Step(id=step.id, question=self.read(step)[:4096], answer=step.answer, depends_on=step.depends_on)
            for step in self.steps
        ]

    def shown(self) -> dict[str, Any]:
        """The plan as prompts show it."""
        return self.model_dump(mode="json")


class Label(Reply):
    id: StepId
    needs_tool: bool
    why: str


class Labels(Reply):
    """Which sub-questions need a tool."""

    steps: Annotated[list[Label], Field(max_length=64)]


class StepReview(Reply):
    id: StepId
    missing: Annotated[list[StepId], Field(max_length=32)]  # steps that it needs and does not name
    excess: Annotated[list[StepId], Field(max_length=32)]  # steps that it names and does not need
    serialised: bool  # waits for a step without need
    atomic: bool  # one call can answer it
    why: str


class Review(Reply):
    """A judge's reading of the topology."""

    steps: Annotated[list[StepReview], Field(max_length=64)]


Score = Literal[0, 1]


class StepScores(Reply):
    id: StepId
    dependency: Score  # 1: depends_on is exactly right
    atomicity: Score  # 1: one call can answer it
    sequence: Score  # 0: forced to wait without need
    why: str


class Scores(Reply):
    """A judge's scores of a plan."""

    steps: Annotated[list[StepScores], Field(max_length=64)]
    completeness: Score  # 1: the steps suffice to answer the main question, and give this answer
    why: str


ASK = Prompt("ask", Plan)  # a domain or a knowledge text -> a plan
DECOMPOSE = Prompt("decompose", Plan)  # a question -> a plan
REPAIR_PLAN = Prompt("repair_plan", Plan)
LABEL = Prompt("label", Labels)
REVIEW = Prompt("review", Review)
SCORE = Prompt("score", Scores)


def spoken(value: Any) -> str:
    """An answer as it stands in a sentence."""
    if isinstance(value, list):
        return ", ".join(map(spoken, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def match_of(answer: Any) -> tuple[Match, float]:
    """How a step with this answer is matched, and the tolerance: half a unit of the last decimal written."""
    if isinstance(answer, str):
        return "text", 0.0
    if isinstance(answer, float) and not answer.is_integer():
        decimals = 12 if "e" in repr(answer) else len(repr(answer).partition(".")[2])
        return "numeric", 0.5 * 10.0**-decimals
    return "exact", 0.0
