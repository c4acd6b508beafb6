import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import EnvironmentSpec
from astra_api.records import CallRecord, Message, ToolError, ToolErrorKind, ToolResult
from astra_api.rewards import score


def spec(*golds: tuple[str, Any]) -> EnvironmentSpec:
    steps = [
        {"id": f"s{i}", "question": "?", "answer": answer, "call": {"tool": tool, "arguments": {}}}
        for i, (tool, answer) in enumerate(golds)
    ]
    steps.append({"id": "leaf", "question": "?", "answer": 0})
    tools = [{"name": tool, "description": "", "parameters": {}} for tool in {tool for tool, _ in golds}]
    return EnvironmentSpec.model_validate(
        {
            "question": "?",
            "answer": 0,
            "domain": "d",
            "scenario": "single-hop",
            "steps": steps,
            "tools": tools,
            "source": "x",
        }
    )


def returned(tool: str, value: Any) -> CallRecord:
    return CallRecord(call_id="c", tool=tool, arguments_json="{}", outcome=ToolResult(json_text=json.dumps(value)))


def failed(tool: str) -> CallRecord:
    error = ToolError(kind=ToolErrorKind.RAISED, message="1")
    return CallRecord(call_id="c", tool=tool, arguments_json="{}", outcome=error)


def test_a_perfect_rollout_scores_exactly_one() -> None:
    reward = score(spec(("a", 1), ("b", 2)), [returned("b", 2), returned("a", 1)])
    assert (reward.value, reward.recall, reward.precision) == (1.0, 1.0, 1.0)
    assert reward.solved == ("s1", "s0")


def test_no_call_scores_zero() -> None:
    reward = score(spec(("a", 1)), [])
    assert (reward.value, reward.recall, reward.precision) == (0.0, 0.0, 0.0)


def test_failed_and_irrelevant_calls_count() -> None:
    reward = score(spec(("a", 1), ("b", 2)), [failed("a"), returned("other", 1), returned("a", 1)])
    assert reward.recall == 0.5
    assert reward.precision == pytest.approx(1 / 3)
    assert reward.value == pytest.approx(0.4)


def test_a_call_credits_one_step_the_first_unsolved_in_order() -> None:
    twins = spec(("a", 1), ("a", 1))
    assert score(twins, [returned("a", 1)]).solved == ("s0",)
    assert score(twins, [returned("a", 1)] * 3).solved == ("s0", "s1")


def test_the_answer_of_another_tool_solves_nothing() -> None:
    assert score(spec(("a", 1)), [returned("b", 1)]).solved == ()


def test_recall_only_and_precision_only_stay_selectable() -> None:
    calls = [returned("a", 1), returned("a", 5)]
    assert score(spec(("a", 1), ("b", 2)), calls, "recall").value == 0.5
    assert score(spec(("a", 1), ("b", 2)), calls, "precision").value == 0.5
    assert score(spec(("a", 1)), calls, "precision").value == 0.5
    assert score(spec(("a", 1)), calls, "recall").value == 1.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), min_size=1, max_size=4), st.data())
def test_bounds_and_arithmetic(golds: list[tuple[str, int]], data: st.DataObject) -> None:
    calls = data.draw(
        st.lists(st.builds(returned, st.sampled_from("abc"), st.integers(0, 3)) | st.builds(failed, st.just("a")))
    )
    reward = score(spec(*golds), calls)
    assert 0 <= reward.value <= 1
    assert len(reward.solved) <= min(len(golds), len(calls))
    assert (reward.value == 0) == (not reward.solved)
    assert (reward.value == 1) == (len(calls) == len(golds) == len(reward.solved))
    assert len(set(reward.solved)) == len(reward.solved)


def test_success_takes_every_step_and_the_answer_and_pays_nothing_yet() -> None:
    found, right = spec(("a", 1)), [Message(role="assistant", content="The answer is 0.")]
    wrong = [Message(role="assistant", content="The answer is 1.")]
    both = score(found, [returned("a", 1)], messages=right)
    assert (both.answer, both.success, both.value) == (True, True, 1.0)
    guessed = score(found, [], messages=right)
    assert (guessed.answer, guessed.success, guessed.value) == (True, False, 0.0)
    spoilt = score(found, [returned("a", 1)], messages=wrong)
    assert (spoilt.answer, spoilt.success, spoilt.value) == (False, False, 1.0)
    assert not score(found, [returned("a", 1)]).answer, "a rollout without a last message answered nothing"
