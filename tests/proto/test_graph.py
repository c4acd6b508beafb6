import pytest

from astra_api.environment import Step
from astra_api.graph import hops, levels, scenario, terminal_steps


def steps(**depends: str) -> list[Step]:
    """Steps by id; a value lists what a step depends on, `-` first for a step without a call."""
    return [
        Step.model_validate(
            {
                "id": name,
                "question": "?",
                "answer": 1,
                "dependsOn": list(text.removeprefix("-")),
                "call": None if text.startswith("-") else {"tool": "t", "arguments": {}},
            }
        )
        for name, text in depends.items()
    ]


def test_levels_keep_the_order_of_steps() -> None:
    assert [[step.id for step in level] for level in levels(steps(b="", a="", c="ab", d="b"))] == [
        ["b", "a"],
        ["c", "d"],
    ]


def test_terminal_steps() -> None:
    assert [step.id for step in terminal_steps(steps(a="", b="a", c="-a"))] == ["b", "c"]


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (steps(a=""), "single-hop"),
        (steps(a="", b="-a"), "single-hop"),
        (steps(a="", b=""), "parallel-single-hop"),
        (steps(a="", b="", c="-ab"), "parallel-single-hop"),
        (steps(a="", b="a"), "multi-hop"),
        (steps(a="", b="", c="ab"), "parallel-multi-hop"),
    ],
)
def test_scenario(graph: list[Step], kind: str) -> None:
    assert scenario(graph) == kind


def test_hops_count_tool_calls() -> None:
    assert hops(steps(a="", b="a", c="-b")) == 2


@pytest.mark.parametrize("graph", [steps(a="b", b="a"), steps(a="a"), steps(a="z")])
def test_impossible_topologies_are_refused(graph: list[Step]) -> None:
    with pytest.raises(ValueError, match=r"cycle|no step"):
        levels(graph)
