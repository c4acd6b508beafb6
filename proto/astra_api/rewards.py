"""The reward of a rollout: sub-questions solved, against calls made (METHOD section 3)."""

from collections.abc import Sequence
from typing import Any, Literal

from astra_api.answers import is_right
from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.environment import EnvironmentSpec
from astra_api.records import CallRecord, Message, Reward, ToolResult

RewardKind = Literal["f1", "recall", "precision"]


def score(
    spec: EnvironmentSpec, calls: Sequence[CallRecord], kind: RewardKind = "f1", messages: Sequence[Message] = ()
) -> Reward:
    """Scores a rollout: its calls, in the order they ran, and what its messages answer in the end.

    r = solved/needed, p = solved/calls (0 without calls), f1 = 2pr/(p+r) (0 when nothing is solved). A step is solved,
    once, when a successful call of its tool returns its gold answer; a call credits the first unsolved step in `steps`
    order that it answers. Failed and irrelevant calls count.
    """
    unsolved = list(spec.tool_steps)
    needed = len(unsolved)
    solved: list[str] = []
    for call in calls:
        if not isinstance(call.outcome, ToolResult):
            continue
        try:
            value: Any = parse_json(call.outcome.json_text)
        except NotCanonicalError:
            continue
        for step in unsolved:
            if step.call is not None and step.call.tool == call.tool and step.matches(value):
                unsolved.remove(step)
                solved.append(step.id)
                break
    recall = len(solved) / needed if needed else 0.0
    precision = len(solved) / len(calls) if calls else 0.0
    f1 = 2 * precision * recall / (precision + recall) if solved else 0.0
    value = {"f1": f1, "recall": recall, "precision": precision}[kind]
    answer = is_right(spec, messages)
    return Reward(
        value=value,
        recall=recall,
        precision=precision,
        f1=f1,
        solved=tuple(solved),
        needed=needed,
        calls=len(calls),
        answer=answer,
        success=answer and not unsolved,
    )
