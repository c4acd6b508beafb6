"""How much of what is held out stands in what is trained on."""

import random
from typing import Any

from astra_api.environment import Environment
from astra_trainer.overlap import Overlap, Seen, overlap, template
from astra_trainer.split import EnvironmentSplit


def environment(question: str, answer: Any, *calls: tuple[str, dict[str, Any], Any]) -> Environment:
    steps = [
        {"id": f"s{number}", "question": "?", "answer": gold, "call": {"tool": tool, "arguments": arguments}}
        for number, (tool, arguments, gold) in enumerate(calls)
    ]
    tools = [
        {"name": tool, "description": "", "parameters": {"type": "object"}} for tool in {call[0] for call in calls}
    ]
    spec = {
        "question": question, "answer": answer, "domain": "lab", "scenario": "single-hop", "steps": steps,
        "tools": tools, "source": "pass",
    }  # fmt: skip
    return Environment.model_validate(
        {"apiVersion": "astra.farm/v1alpha1", "kind": "Environment", "metadata": {"name": "a"}, "spec": spec}
    )


def people(city: str, count: int) -> Environment:
    question = f"How many people live in the city of {city} as of the last census?"
    return environment(question, count, ("people", {"city": city}, count))


def test_each_kind_of_overlap_is_counted() -> None:
    train = [people("Rome", 3), environment("Which river is long?", "Po", ("river", {"rank": 1}, "Po"))]
    held = [
        people("Rome", 3),
        people("Oslo", 1),
        environment("Which lake is deep?", "Garda", ("lake", {"rank": 1}, "Garda")),
    ]
    assert overlap(EnvironmentSplit(train, held)) == Overlap(
        gold_calls=Seen(seen=1, of=3),
        arguments=Seen(seen=2, of=3),
        tools=Seen(seen=1, of=2),
        templates=Seen(seen=2, of=3),
        answers=Seen(seen=1, of=3),
        questions=Seen(seen=1, of=3),
    )


def test_nothing_in_common_is_nothing() -> None:
    found = overlap(EnvironmentSplit([people("Rome", 3)], [environment("Which lake?", "A", ("lake", {"n": 2}, "A"))]))
    assert all(value.seen == 0 for _, value in found)
    assert "gold calls 0%" in found.sentence()


def test_order_and_form_of_arguments_do_not_matter() -> None:
    first = environment("Sum of these?", 3, ("add", {"a": 1, "b": 2.0}, 3))
    second = environment("Sum of those?", 3, ("add", {"b": 2, "a": 1.0}, 3))
    assert overlap(EnvironmentSplit([first], [second])).gold_calls == Seen(seen=1, of=1)


def test_a_template_is_the_question_without_what_fills_it() -> None:
    assert template(people("Rome", 3)) == template(people("New York", 8_000_000))
    assert template(people("Rome", 3)) != template(environment("Who lives in Rome?", "x", ("who", {"c": "Rome"}, "x")))


def test_near_duplicates_are_those_that_comparing_all_finds() -> None:
    draw = random.Random(3)
    words = [
        "how",
        "many",
        "people",
        "live",
        "in",
        "the",
        "old",
        "city",
        "of",
        "rome",
        "oslo",
        "when",
        "it",
        "rains",
        "hard",
    ]
    questions = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(120)]
    questions += [f"{text} please" for text in questions[:40]]
    draw.shuffle(questions)
    train, held = questions[:100], questions[100:]

    def triples(text: str) -> set[tuple[str, ...]]:
        split = text.split()
        return {tuple(split[at : at + 3]) for at in range(len(split) - 2)} or {tuple(split)}

    def near(one: str, other: str) -> bool:
        left, right = triples(one), triples(other)
        return len(left & right) / len(left | right) >= 0.8

    expected = sum(any(near(one, other) for other in train) for one in held)
    assert 0 < expected < len(held)
    sides = ([environment(text, 1, ("t", {"n": 1}, 1)) for text in texts] for texts in (train, held))
    assert overlap(EnvironmentSplit(*sides)).questions.seen == expected
