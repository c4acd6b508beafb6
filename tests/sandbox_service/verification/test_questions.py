"""Questions that say their answers, and honest ones that only seem to."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Environment, Step
from astra_api.graph import scenario
from astra_sandbox.verification.questions import check_questions
from astra_sandbox.verification.reading import read_environment

Ask = tuple[str, Any, list[str], dict[str, Any] | None]  # question, answer, dependsOn, arguments


def _environment(question: str, *asks: Ask, state: str = "stateless", match: str = "exact") -> Environment:
    """Steps s0, s1, ...; the main answer is that of the last."""
    steps = [
        {
            "id": f"s{index}", "question": asked, "answer": answer, "dependsOn": needs, "match": match,
            **({} if arguments is None else {"call": {"tool": f"tool_{sorted(arguments)}", "arguments": arguments}}),
        }
        for index, (asked, answer, needs, arguments) in enumerate(asks)
    ]  # fmt: skip
    for step in steps:
        if "call" in step:
            step["call"]["tool"] = "f_" + "_".join(sorted(step["call"]["arguments"]))
    spec = {
        "question": question,
        "answer": asks[-1][1],
        "domain": "d",
        "scenario": scenario([Step.model_validate(step) for step in steps]),
        "steps": steps,
        "tools": [{"name": "f", "description": "A tool.", "parameters": {"type": "object"}}],
        "source": "",
        "state": state,
    }
    return Environment.model_validate({"metadata": {"name": "e"}, "spec": spec})


def _fields(question: str, *asks: Ask, **options: str) -> list[str]:
    found = list(check_questions(_environment(question, *asks, **options).spec))
    assert {(finding.check, finding.reason) for finding in found} <= {("leakage", "AnswerInQuestion")}
    return [finding.message.partition(":")[0] for finding in found]


def _single(question: str, answer: Any, **arguments: Any) -> list[str]:
    """What is found in the main question of one call."""
    return _fields(question, ("?", answer, [], arguments or {"x": "zzz"}))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Find the city served by Pantelleria Airport.", "Pantelleria"),
        ("Find the city served by PANTELLERIA airport.", "Pantelleria"),
        ("Which city does Malmö Sturup Airport serve?", "Malmo"),
        ("Which city does Malmo Sturup Airport serve?", "Malmö"),
        ("Which element is magnesium-25 an isotope of?", "magnesium"),
        ("Of which kind are the lamps of Arbo?", "lamp"),
        ("What is the capital of Guinea-Bissau?", "Bissau"),
        ("Who wrote the sonnet by Ada Lovelace about tea?", "ada lovelace"),
        ("Which country has the code USA?", "USA"),
        ("東京タワーはどの都市にありますか。", "東京"),
        ("In which year did the revolution of 1848 begin?", 1848),
        ("In which year did the revolution of 1848 begin?", "1848"),
        ("How many people live in Oslo, a city of 709,000?", 709000),
        ("How many people live in Oslo, a city of 709 000?", 709000.0),
        ("How many people live in Rome, a city of 2.8 million?", 2_800_000),
        ("What is the atomic number of element 79?", 79),
        ("What is the mass number of magnesium-25?", 25),
        ("Which cities do Basco Airport and Katiu Airport serve?", ["Basco", "Katiu"]),
        ("Which cities do Basco Airport and Katiu Airport serve?", [["Katiu"], "Basco"]),
        ("What are the name and the population of Oslo, with its 709000 people?", {"name": "Oslo", "n": 709000}),
        ("Do you know the city that Pantelleria Airport serves?", "Pantelleria"),
        ("Which city is served by Heathrow or London City Airport?", "London"),
        ("Which city does Chicago O'Hare International Airport serve?", "Chicago"),
        ("Was ist die Stadt, die der Flughafen Pantelleria bedient?", "Pantelleria"),
        ("I wonder if you could find the city served by Pantelleria Airport.", "Pantelleria"),
        ("For the airport of Pantelleria, tell me the city or town that it serves.", "Pantelleria"),
        ("For the airport of Pantelleria, what city or town is nearest?", "Pantelleria"),
    ],
)
def test_a_question_that_says_its_answer(question: str, answer: Any) -> None:
    assert _single(question, answer) == ["spec.question"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Can you tell me the three-letter code of Canada?", "CAN"),
        ("It is Rome: what is the code of its country?", "IT"),
        ("Is the museum open?", "open"),
        ("Is the shop open or closed?", "closed"),
        ("Was flight LH1 late, early or on time?", "early"),
        ("What is the flight: late, early, or on time?", "late"),
        ("What is the state of the flight, late, early or on time?", "late"),
        ("Ist der Laden offen?", "offen"),
        ("Name the larger: Boston or New York, please.", "New York"),
        ("Name the larger: Boston or New York, please.", "Boston"),
        ("Kostet es 5 oder 50 Euro?", 50),
        ("价格是5还是50元？", 50),
        ("博物馆开放吗？", "开放"),
        ("What is the entry fee if the museum is open?", "open"),
        ("Check whether the payment is approved.", "approved"),
        ("Was it in 1848 or 1849?", 1849),
        ("Does it rain, yes or no?", "yes"),
        ("Is it true that Oslo is large?", "true"),
        ("Which is the 3rd of the 5 cities?", 5),
        ("What is the comparison with Parisian prices?", "Paris"),
        ("How many cities besides Lyon are there?", ["Lyon", "Nice"]),
        ("Which cities are there?", []),
        ("Are there any, true or false?", [True]),
        ("How much was it on 2025-11-24 at 10:24?", 24),
        ("How many berths has Port-0012?", 12),
        ("How many people live in Oslo, a city of 7 million?", 709000),
    ],
)
def test_a_question_that_does_not(question: str, answer: Any) -> None:
    assert _single(question, answer) == []


def test_a_number_that_a_call_takes_is_there_for_that_call() -> None:
    assert _single("How many of the top 50 cities are coastal?", 50, count=50) == []
    assert _single("What is 1200, rounded to hundreds?", 1200, number=1200, digits=-2) == []
    assert _single("What is the mean of 10, 20 and 30?", 20, numbers=[10, 20, 30]) == []
    assert _single("How many of the top 50 cities are coastal?", 50, count=10) == ["spec.question"]


_LARGER = [
    ("How many people live in Rome?", 28, [], {"city": "Rome"}),
    ("How many people live in Paris?", 21, [], {"city": "Paris"}),
]


@pytest.mark.parametrize(
    "question",
    ["Which of Rome and Paris is larger?", "Compare Rome with Paris: which is larger?", "Is Rome or Paris larger?"],
)
def test_a_choice_names_its_candidates(question: str) -> None:
    assert _fields(question, *_LARGER, ("Which of Rome and Paris is larger?", "Rome", ["s0", "s1"], None)) == []
    assert _fields(question, ("Which of Rome and Paris is larger?", "Rome", [], {"a": "Rome", "b": "Paris"})) == []
    assert _fields(question, ("Which of these is larger?", "Rome", [], {"cities": ["Rome", "Paris"]})) == []


def test_an_order_and_a_selection_name_their_candidates() -> None:
    question = "Sort Rome and Paris by population."
    assert _fields(question, *_LARGER, (question, ["Rome", "Paris"], ["s0", "s1"], None)) == []
    question = "Which of Rome, Paris and Oslo have over a million people?"
    assert _fields(question, (question, ["Rome", "Paris"], [], {"cities": ["Rome", "Paris", "Oslo"]})) == []


def test_one_candidate_is_no_choice() -> None:
    assert _single("What is the capital of Monaco?", "Monaco", country="Monaco") == ["spec.question"]
    assert _single("What is the capital of Monaco?", "Monaco", country="Monaco", style="short") == ["spec.question"]


def test_a_step_whose_answer_the_main_question_says_is_needless() -> None:
    capital = ("What is the capital of France?", "Paris", [], {"country": "France"})
    people = ("How many people live in Paris?", 2148000, ["s0"], {"city": "Paris"})
    assert _fields("How many people live in the capital of France?", capital, people) == []
    assert _fields("How many people live in Paris, the capital of France?", capital, people) == ["spec.question"]
    total = ("What is 2148000 and 5 together?", 2148005, ["s1"], {"left": 2148000, "right": 5})
    question = "Add 5 to the 2,148,000 people of the capital of France."
    assert _fields(question, capital, people, total) == ["spec.question"]


def test_the_question_of_a_step() -> None:
    code = ("Which airport has the code PNL?", "Pantelleria Airport", [], {"code": "PNL"})
    city = ("Which city does Pantelleria Airport serve?", "Pantelleria", ["s0"], {"airport": "Pantelleria Airport"})
    assert _fields("Which city does the airport with the code PNL serve?", code, city) == ["spec.steps[1].question"]


def test_a_step_without_a_call_may_say_what_came_before() -> None:
    asks = [("Which?", "Rome", [], {"x": "one"}), ("Which?", "Paris", [], {"x": "two"})]
    assert (
        _fields("Which are they?", *asks, ("Give in order: Rome; Paris.", ["Rome", "Paris"], ["s0", "s1"], None)) == []
    )


def test_a_step_that_knows_what_another_has_yet_to_find() -> None:
    capital = ("What is the capital of France?", "Paris", [], {"country": "France"})
    question = "How many people live in the capital of France?"
    people = ("How many people live in Paris?", 2148000, [], {"city": "Paris"})
    assert _fields(question, capital, people) == ["spec.steps[1].question"]
    euros = ("How many euros is a croissant?", 3, [], {"country": "France"})
    assert _fields("What are currency and price?", ("Currency?", "euro", [], {"of": "France"}), euros) == []


def test_in_a_stateful_environment_a_question_says_what_to_change() -> None:
    done = ("?", "done", [], {"task": 3})
    move = ("?", "Red", [], {"person": "Ada", "room": "Red"})
    where = ("?", "Red", ["s0"], {"person": "Ada"})
    assert _fields("Mark task 3 as done.", done, state="stateful") == []
    assert _fields("Move Ada to room Red. Where is she now?", move, where, state="stateful") == []
    assert _fields("Add Paris; which is it?", ("?", "Paris", [], {"x": 1}), state="stateful") == ["spec.question"]


def test_it_is_one_of_the_checks_that_read() -> None:
    found = read_environment(
        _environment("Find the city of Basco Airport.", ("?", "Basco", [], {"x": "Basco Airport"}))
    )
    message = next(finding.message for finding in found if finding.reason == "AnswerInQuestion")
    assert message == "spec.question: says 'Basco', which is the answer; ask so that a tool is needed to know it"


@pytest.mark.parametrize("text", ["Rome, aaaaaaaa", "Rome ", "if Rome", "1,", "1 ", "Is Rome", "Rome or "])
def test_a_long_question_is_read_at_once(text: str) -> None:
    started = time.process_time()
    _single((text * 16_384)[:16_384], "Rome")
    _single((text * 16_384)[:16_384], 111111)
    assert time.process_time() - started < 2


_WORDS = st.lists(st.sampled_from(["green", "river", "stone", "harbour", "seven", "north"]), min_size=1, max_size=3)


@given(_WORDS, _WORDS, st.sampled_from([str.upper, str.title, str.lower]))
def test_whatever_stands_in_the_question_is_said(answer: list[str], other: list[str], written: Any) -> None:
    text = " ".join(answer)
    assert _single(f"Tell me about {'-'.join(other)} {written(' '.join(answer))} now.", text) == ["spec.question"]
    assert _single(f"Tell me about {' '.join(word + 'x' for word in answer)} now.", text) == []


@given(st.lists(st.lists(st.integers(0, 5), max_size=2), min_size=1, max_size=6), st.booleans())
def test_any_graph_can_be_read(parents: list[list[int]], calls: bool) -> None:
    steps = [
        ("Where is Rome?", "Rome", [f"s{p}" for p in needs], {"x": "Rome"} if calls else None) for needs in parents
    ]
    spec = _environment("Where?", ("Where is Rome?", "Rome", [], {"x": "y"})).spec
    broken = [
        Step.model_validate({"id": f"s{i}", "question": q, "answer": a, "dependsOn": needs})
        for i, (q, a, needs, _) in enumerate(steps)
    ]
    list(check_questions(spec.model_copy(update={"steps": broken})))
