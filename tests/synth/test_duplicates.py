"""Near-duplicate environments are found by question and by tools or answer."""

from typing import Any

import numpy as np
import pytest

from astra_api.environment import Environment
from astra_synth.duplicates import KnownEnvironments, embedding


def environment(name: str, question: str, answer: Any, tool: str = "population", city: str = "Paris") -> Environment:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    step = {"id": "s1", "question": "How many?", "answer": answer, "call": {"tool": tool, "arguments": {"city": city}}}
    spec = {
        "question": question,
        "answer": answer,
        "domain": "travel",
        "scenario": "single-hop",
        "steps": [step],
        "tools": [{"name": tool, "description": "x", "parameters": parameters}],
        "source": "",
    }
    return Environment.model_validate({"metadata": {"name": name}, "spec": spec})


FIRST = environment("first", "How many people live in the old town of Paris today?", 725000)
ALIKE = "How many people live in the old town of Paris today, please?"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (environment("b", "Something else entirely is asked here", 725000), "Duplicate"),  # the same calls and answers
        (environment("b", ALIKE, 5), "NearDuplicate"),  # the same tools
        (environment("b", ALIKE, 725000, "people", "Lyon"), "NearDuplicate"),  # the same answer
        (environment("b", ALIKE, 5, "people"), None),  # alike in words alone
        (environment("b", "Which river flows through it?", 5), None),
        (environment("b", "老城区有多少人口？", 5), None),
    ],
)
def test_what_is_a_duplicate(other: Environment, reason: str | None) -> None:
    known = KnownEnvironments(0.85)
    assert known.duplicate(FIRST) is None
    known.add(FIRST)
    found = known.duplicate(other)
    assert (found[0] if found else None) == reason
    if found:
        assert "first" in found[1]


def test_many_are_kept() -> None:
    known = KnownEnvironments(0.9)
    for number in range(300):
        known.add(environment(f"e{number}", f"Question {number * 7919} about {number}", number, f"tool_{number}"))
    assert known.duplicate(environment("x", f"Question {211 * 7919} about 211", -1, "tool_211")) is not None


def test_an_embedding_has_length_one_in_any_script() -> None:
    for text in ("How many?", "老城区有多少人口？", "Wie viele?"):
        assert np.linalg.norm(embedding(text)) == pytest.approx(1.0)
    assert not embedding("").any()
    assert embedding("老城区有多少人口？") @ embedding("老城区有多少居民？") > 0.4
