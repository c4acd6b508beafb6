"""topology and leafOnly."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Environment, Step
from astra_sandbox.verification.topology import check_leaf_only, check_topology
from astra_sandbox.verification.verdict import Finding

Manifest = dict[str, Any]


def _findings(manifest: Manifest) -> list[Finding]:
    spec = Environment.model_validate(manifest).spec
    return [*check_topology(spec), *check_leaf_only(spec)]


def _needs(*edges: tuple[int, list[str]]) -> Callable[[list[Manifest]], None]:
    def change(steps: list[Manifest]) -> None:
        for index, parents in edges:
            steps[index]["dependsOn"] = parents

    return change


def _reason_only(steps: list[Manifest]) -> None:
    del steps[0]["call"]


def _no_calls(steps: list[Manifest]) -> None:
    for step in steps:
        step.pop("call", None)
        step["dependsOn"] = []


def test_a_sound_graph_passes(city: Manifest) -> None:
    assert _findings(city) == []


@pytest.mark.parametrize(
    ("change", "check", "reason", "field"),
    [
        (_needs((0, ["s2"]), (1, ["s1"])), "topology", "CyclicTopology", "spec.steps"),
        (_needs((0, ["s2"]), (1, ["s0"])), "topology", "UnknownDependency", "spec.steps[1].dependsOn[0]"),
        (_needs((1, ["s2"])), "topology", "SelfDependency", "spec.steps[1].dependsOn[0]"),
        (lambda steps: steps[1].update(id="s1"), "topology", "DuplicateStep", "spec.steps[1].id"),
        (_no_calls, "topology", "NoToolStep", "spec.steps"),
        (_reason_only, "leafOnly", "NotLeaf", "spec.steps[2].dependsOn[0]"),
    ],
)
def test_a_broken_graph_names_the_field(
    city: Manifest, change: Callable[[list[Manifest]], None], check: str, reason: str, field: str
) -> None:
    change(city["spec"]["steps"])
    findings = [finding for finding in _findings(city) if finding.reason == reason]
    assert findings, _findings(city)
    assert findings[0].check == check
    assert findings[0].message.startswith(field)


_SHAPES = ["single-hop", "parallel-single-hop", "multi-hop", "parallel-multi-hop"]


@pytest.mark.parametrize("label", _SHAPES)
def test_the_scenario_is_the_shape_of_the_calls(city: Manifest, label: str) -> None:
    city["spec"]["scenario"] = label
    found = _findings(city)
    fits = label in ("parallel-single-hop", "parallel-multi-hop")  # the last step brings both answers together
    assert [finding.reason for finding in found] == ["ScenarioMismatch"] * (not fits)
    for finding in found:
        assert finding.check == "topology"
        assert finding.message == (
            f"spec.scenario: says {label}, but the calls are parallel-single-hop: s1; s2; "
            "write parallel-single-hop, or mend the steps' dependsOn"
        )


@given(st.lists(st.sets(st.integers(0, 5), max_size=2), min_size=1, max_size=6), st.sampled_from(_SHAPES))
def test_one_scenario_fits_a_graph(parents: list[set[int]], label: str) -> None:
    """Calls that need none are side by side; a call is one hop; a level of several is parallel."""
    needs = {index: {parent for parent in wanted if parent < index} for index, wanted in enumerate(parents)}
    depth = {index: 0 for index in needs}
    for index, wanted in needs.items():
        depth[index] = 1 + max((depth[parent] for parent in wanted), default=-1)
    widest, longest = max(list(depth.values()).count(level) for level in depth.values()), max(depth.values())
    shape = {(False, False): 0, (False, True): 1, (True, False): 2, (True, True): 3}[longest > 0, widest > 1]
    steps = [
        {
            "id": f"s{index}", "question": "?", "answer": 1, "dependsOn": [f"s{parent}" for parent in sorted(wanted)],
            "call": {"tool": "f", "arguments": {}},
        }
        for index, wanted in needs.items()
    ]  # fmt: skip
    spec = {
        "question": "?", "answer": 1, "domain": "d", "scenario": label, "steps": steps, "source": "",
        "tools": [{"name": "f", "description": "", "parameters": {"type": "object"}}],
    }  # fmt: skip
    mismatch = [finding.reason for finding in _findings({"metadata": {"name": "e"}, "spec": spec})]
    assert mismatch == ([] if label == _SHAPES[shape] else ["ScenarioMismatch"])


@pytest.mark.parametrize("answer", [2148000, "725000", 725001, None])
def test_the_main_answer_is_the_answer_of_a_terminal_step(city: Manifest, answer: Any) -> None:
    city["spec"]["answer"] = answer
    assert [finding.reason for finding in _findings(city)] == ["AnswerNotTerminal"]


def test_the_main_answer_is_matched_like_its_terminal_step(city: Manifest) -> None:
    city["spec"]["answer"] = "725,001"
    city["spec"]["steps"][2].update(match="numeric", tolerance=1.0)
    assert _findings(city) == []


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
def test_every_graph_is_either_refused_or_has_an_order(parents: list[list[int]]) -> None:
    from astra_api.graph import levels

    steps = [
        Step(id=f"s{index}", question="?", answer=1, depends_on=[f"s{parent}" for parent in needed])
        for index, needed in enumerate(parents)
    ]
    manifest = {
        "metadata": {"name": "e"},
        "spec": {
            "question": "?",
            "answer": 1,
            "domain": "d",
            "scenario": "multi-hop",
            "steps": [step.model_dump(by_alias=True, exclude_none=True) for step in steps],
            "tools": [{"name": "f", "description": "", "parameters": {"type": "object"}}],
            "source": "",
        },
    }
    spec = Environment.model_validate(manifest).spec
    broken = {f.reason for f in check_topology(spec)} - {"NoToolStep"}
    if broken:
        with pytest.raises(ValueError, match=r"cycle|no step"):
            levels(spec.steps)
    else:
        assert sum(map(len, levels(spec.steps))) == len(steps)
