"""What code finds wrong with plans, labels and reviews."""

from typing import Any

import pytest

from astra_api.synthesis_run import HopRange
from astra_synth.instances.checks import Wanted, label_problems, plan_problems, review_problems, same_steps
from astra_synth.instances.language import is_in, language_of
from astra_synth.instances.plan import Label, Labels, Plan, Review, Scores, match_of, spoken
from astra_synth.instances.quality import quality_of
from astra_synth.instances.refinement import Instance

WANTED = Wanted("en", HopRange(min=1, max=3), stateful=False)


def step(
    name: str, question: str, answer: Any, needs: list[str] | None = None, changes: bool = False
) -> dict[str, Any]:
    return {"id": name, "question": question, "answer": answer, "depends_on": needs or [], "changes_state": changes}


def plan(*steps: dict[str, Any], answer: Any = 725000, question: str = "") -> Plan:
    asked = question or "How many more people live in the larger of the two capitals than in the other one?"
    return Plan.model_validate({"question": asked, "answer": answer, "steps": list(steps)})


CAPITAL = step("s1", "What is the capital of France?", "Paris")
PEOPLE = step("s2", "How many people live in the city of {s1}?", 725000, ["s1"])


def test_a_good_plan_has_no_problem() -> None:
    assert plan_problems(plan(CAPITAL, PEOPLE), WANTED) == []


CHANGED: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "DuplicateStep": ([CAPITAL, PEOPLE | {"id": "s1"}], 725000),
    "SelfDependency": ([CAPITAL, PEOPLE | {"depends_on": ["s1", "s2"]}], 725000),
    "UnknownDependency": ([CAPITAL, PEOPLE | {"depends_on": ["s1", "s7"]}], 725000),
    "CyclicTopology": ([CAPITAL | {"depends_on": ["s2"]}, PEOPLE], 725000),
    "VagueAnswer": ([CAPITAL | {"answer": "It depends"}, PEOPLE], 725000),
    "AnswerNotTerminal": ([CAPITAL, PEOPLE], "Paris"),
    "UnreachedStep": ([CAPITAL, step("s2", "How many people live there in all?", 725000)], 725000),
    "MissingDependency": ([CAPITAL, PEOPLE | {"depends_on": []}], 725000),
    "ExcessDependency": ([CAPITAL, PEOPLE | {"question": "How many people live in the largest city?"}], 725000),
    "WrongLanguage": (
        [
            step("s1", "Was ist die Hauptstadt von Frankreich, und wie heißt sie?", "Paris"),
            step("s2", "Wie viele Menschen wohnen in der Stadt {s1} insgesamt?", 725000, ["s1"]),
        ],
        725000,
    ),
}


@pytest.mark.parametrize("reason", CHANGED)
def test_each_fault_has_its_reason(reason: str) -> None:
    steps, answer = CHANGED[reason]
    found = plan_problems(plan(*steps, answer=answer), WANTED)
    assert found[0].reason == reason, found


def test_a_reference_to_no_step_is_found() -> None:
    found = plan_problems(plan(CAPITAL, PEOPLE | {"question": "How many people live in {s1} or {s9}?"}), WANTED)
    assert [(problem.reason, "{s9}" in problem.message) for problem in found] == [("UnknownDependency", True)]


def test_a_step_that_knows_an_answer_without_asking_is_found() -> None:
    """ "Paris" in the second question is what the first one has yet to find."""
    steps = [CAPITAL, step("s2", "How many people live in Paris and {s1}?", 725000, ["s1"])]
    assert plan_problems(plan(*steps), WANTED) == []  # it refers to it as well
    third = step("s3", "How many people live in Paris?", 12)
    total = step("s2", "How many people live in {s1}, where {s3} do not?", 725000, ["s1", "s3"])
    found = plan_problems(plan(CAPITAL, third, total), WANTED)
    assert [problem.reason for problem in found] == ["MissingDependency"]
    given = plan(CAPITAL, third, total, question="How many people live in Paris, the capital of France?")
    assert plan_problems(given, WANTED) == []  # the main question says it


def test_state() -> None:
    book = step("s1", "Reserve three berths in the harbour. What is the code?", "R12X", changes=True)
    free = step("s2", "How many berths are free in the harbour now?", 725000, ["s1"])
    stateful = Wanted("en", HopRange(min=1, max=3), stateful=True)
    assert plan_problems(plan(book, free), stateful) == []
    assert plan_problems(plan(CAPITAL, PEOPLE), stateful)[0].reason == "NoStateChange"
    both = step("s2", "How many berths are free now, after {s1}?", 725000, ["s1"])
    assert plan_problems(plan(book, both), stateful) == []
    alone = plan(step("s1", "Reserve three berths in the harbour, how many are left?", 725000, changes=True))
    assert plan_problems(alone, stateful)[0].reason == "StateUnused"


@pytest.mark.parametrize(
    ("needs", "reasons"),
    [
        ((True, True), []),
        ((True, False), []),
        ((False, True), ["NotLeaf"]),
        ((False, False), ["NoToolStep"]),
    ],
)
def test_the_leaf_only_rule(needs: tuple[bool, bool], reasons: list[str]) -> None:
    labels = Labels(steps=[Label(id=f"s{n}", needs_tool=need, why="") for n, need in enumerate(needs, start=1)])
    assert [problem.reason for problem in label_problems(plan(CAPITAL, PEOPLE), labels, WANTED)] == reasons


def test_hops_are_the_steps_that_need_a_tool() -> None:
    labels = Labels(steps=[Label(id="s1", needs_tool=True, why=""), Label(id="s2", needs_tool=True, why="")])
    narrow = Wanted("en", HopRange(min=1, max=1), stateful=False)
    assert [p.reason for p in label_problems(plan(CAPITAL, PEOPLE), labels, narrow)] == ["HopsOutOfRange"]


def review(**change: Any) -> Review:
    fine = {"missing": [], "excess": [], "serialised": False, "atomic": True, "why": ""}
    return Review.model_validate({"steps": [{"id": "s1"} | fine, {"id": "s2"} | fine | change]})


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"missing": ["s1"]}, []),  # it is there
        ({"excess": ["s1"]}, ["ExcessDependency"]),
        ({"excess": ["s9"]}, []),
        ({"serialised": True}, ["ForcedSerialisation"]),
        ({"atomic": False}, ["NotAtomic"]),
    ],
)
def test_a_review_becomes_problems_unless_the_graph_refutes_it(change: dict[str, Any], reasons: list[str]) -> None:
    assert [problem.reason for problem in review_problems(plan(CAPITAL, PEOPLE), review(**change))] == reasons


def test_every_step_has_to_be_spoken_of_once() -> None:
    made = plan(CAPITAL, PEOPLE)
    assert same_steps(made, ["s2", "s1"]) is None
    for ids in (["s1"], ["s1", "s2", "s2"], ["s1", "s3"]):
        assert same_steps(made, ids) is not None


def test_quality_is_the_mean_of_four_and_a_summary_need_not_be_atomic() -> None:
    made = plan(CAPITAL, PEOPLE)
    instance = Instance(made, "travel", "en", frozenset({"s1"}), 0)
    scores = Scores.model_validate(
        {
            "steps": [
                {"id": "s1", "dependency": 1, "atomicity": 1, "sequence": 1, "why": ""},
                {"id": "s2", "dependency": 0, "atomicity": 0, "sequence": 1, "why": ""},
            ],
            "completeness": 1,
            "why": "",
        }
    )
    quality = quality_of(scores, instance)
    assert quality.model_dump() == {
        "dependency": 0.5, "atomicity": 1.0, "sequence": 1.0, "completeness": 1.0, "mean": 0.875,
    }  # fmt: skip


def test_references_are_read_with_their_answers() -> None:
    made = plan(CAPITAL, PEOPLE)
    assert made.as_steps()[1].question == "How many people live in the city of Paris?"
    assert spoken(["Paris", 3, True]) == "Paris, 3, yes"


@pytest.mark.parametrize(
    ("answer", "match", "tolerance"),
    [("Paris", "text", 0.0), (7, "exact", 0.0), (7.0, "exact", 0.0), (7.25, "numeric", 0.005), ([1], "exact", 0.0),
     (True, "exact", 0.0)],
)  # fmt: skip
def test_the_answer_says_how_it_is_matched(answer: Any, match: str, tolerance: float) -> None:
    assert match_of(answer) == (match, pytest.approx(tolerance))


TEXTS = {
    "en": ["Population of Paris?", "Cancel order 12 and count the orders that are still open."],
    "de": ["Wie viele Einwohner hat Paris?", "Storniere Bestellung 12 und zähle die offenen Bestellungen."],
    "zh": ["巴黎有多少人口？", "港口 Norvik-0012 有多少个泊位？"],
}


@pytest.mark.parametrize("language", TEXTS)
def test_languages(language: str) -> None:
    for text in TEXTS[language]:
        assert is_in(text, language)
    assert language_of(TEXTS[language][-1]) == language
    for other in TEXTS.keys() - {language}:
        assert not is_in(TEXTS[other][-1], language)
