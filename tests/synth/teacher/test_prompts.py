"""Every prompt: it renders, it says what form an answer has, and it takes such an answer and no other."""

import json
from importlib.resources import files
from typing import Any

import jinja2
import jsonschema_rs
import pytest

from astra_api.synthesis_run import HopRange
from astra_synth.construction import drafts
from astra_synth.instances import plan
from astra_synth.instances.checks import Problem, Wanted
from astra_synth.teacher import Prompt
from astra_synth.teacher.errors import Malformed

STEP = {"id": "s1", "question": "How many?", "answer": 7, "depends_on": [], "changes_state": False}
PLAN = {"question": "How many are there?", "answer": 7, "steps": [STEP]}
TOOL = {"name": "count_things", "description": "Counts.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "s1", "tool": "count_things", "arguments": {}, "expected_answer": 7}
WANTED = Wanted("en", HopRange(min=1, max=4), stateful=True, question="How many are there?")
SHOWN = {"id": "s1", "question": "How many?", "depends_on": [], "expected_answer": 7}

VALUES: dict[str, dict[str, Any]] = {
    "ask": {"domain": "travel", "text": "A text.", "wanted": WANTED, "turn": 2},
    "decompose": {"domain": "travel", "wanted": WANTED},
    "repair_plan": {"plan": PLAN, "problems": [Problem("NotAtomic", "s1 asks two things")], "wanted": WANTED},
    "label": {"plan": PLAN},
    "review": {"plan": PLAN, "summaries": ["s1"]},
    "score": {"plan": PLAN, "summaries": []},
    "tool_document": {"domain": "travel", "step": SHOWN, "question": "How many are there?", "tools": [TOOL]},
    "scale_tool": {"tool": TOOL},
    "gold_call": {"tool": TOOL, "step": SHOWN},
    "tool_source": {"tool": TOOL, "call": CALL},
    "repair_tool": {"tool": TOOL, "source": "def f(): ...", "call": CALL, "reason": "ToolRaised", "message": "x"},
    "state_module": {"tools": [TOOL], "calls": [CALL], "failure": "ToolRaised: x", "source": "def f(): ..."},
    "merge_clusters": {"steps": [SHOWN]},
    "merge_tools": {"tools": [TOOL], "sources": ["def f(): ..."], "calls": [CALL], "failure": "GoldMismatch: x"},
}
REPLIES: dict[str, Any] = {
    "ask": PLAN,
    "decompose": PLAN,
    "repair_plan": PLAN,
    "label": {"steps": [{"id": "s1", "needs_tool": True, "why": "data"}]},
    "review": {
        "steps": [{"id": "s1", "missing": [], "excess": [], "serialised": False, "atomic": True, "why": "fine"}]
    },
    "score": {
        "steps": [{"id": "s1", "dependency": 1, "atomicity": 1, "sequence": 1, "why": "fine"}],
        "completeness": 1,
        "why": "fine",
    },
    "tool_document": TOOL,
    "scale_tool": TOOL,
    "gold_call": {"arguments": {"city": "Paris"}},
    "tool_source": {"source": "def f(): ..."},
    "repair_tool": TOOL | {"arguments": {}, "source": "def f(): ..."},
    "state_module": {"source": "def f(): ..."},
    "merge_clusters": {"clusters": [["s1", "s2"]]},
    "merge_tools": TOOL | {"calls": [{"id": "s1", "arguments": {}}], "source": "def f(): ..."},
}
PROMPTS = {
    prompt.name: prompt for module in (plan, drafts) for prompt in vars(module).values() if isinstance(prompt, Prompt)
}


def test_each_file_is_a_prompt_that_is_tested_here() -> None:
    named = {file.name for file in files("astra_synth").joinpath("prompts").iterdir() if file.name.endswith(".md")}
    included = {"system.md", "_plan_rules.md", "_code_rules.md", "_form.md"}
    assert {f"{name}.md" for name in PROMPTS} == named - included
    assert set(PROMPTS) == set(VALUES) == set(REPLIES)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_prompt_renders_and_says_the_form_of_its_answer(name: str) -> None:
    system, user = PROMPTS[name].messages(**VALUES[name])
    assert (system["role"], user["role"]) == ("system", "user")
    assert "one JSON object" in user["content"]
    assert json.dumps(PROMPTS[name].schema, ensure_ascii=False) in user["content"]
    assert "{{" not in user["content"]
    assert "{%" not in user["content"]


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_prompt_needs_all_its_values(name: str) -> None:
    for missing in VALUES[name]:
        with pytest.raises((jinja2.UndefinedError, TypeError)):
            PROMPTS[name].messages(**{key: value for key, value in VALUES[name].items() if key != missing})


@pytest.mark.parametrize("name", sorted(REPLIES))
def test_schema_and_record_take_the_same_answers(name: str) -> None:
    prompt, good = PROMPTS[name], REPLIES[name]
    schema = jsonschema_rs.validator_for(prompt.schema)
    assert "$ref" not in json.dumps(prompt.schema)
    assert schema.is_valid(good)
    assert prompt.read(json.dumps(good)).model_dump(mode="json") == good
    for key in good:
        bad = {name: value for name, value in good.items() if name != key}
        assert not schema.is_valid(bad)
        with pytest.raises(Malformed, match=key):
            prompt.read(json.dumps(bad))


WRAPPED = {
    "plain": "{}",
    "fenced": "Here it is:\n```json\n{}\n```\nDone.",
    "fenced as code": "Here:\n```JSON5\n{}\n```\nWhere {{}} is.",
    "thoughts": "<think>Maybe {{}}?</think>\n{}",
    "two thoughts": "<think>Maybe {{}}? </think> no.\n</think>\n\n{}",
    "thoughts without a beginning": "hm, {{}} so\n</think>\n\n{}",
    "other thoughts": "[THINK]{{}}[/THINK]{}",
    "byte order mark": "\ufeff{}",
    "chatter": "Sure! {} That is all.",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_stands_around_an_answer_is_passed_over(name: str) -> None:
    good = REPLIES["gold_call"]
    text = WRAPPED[name].replace("{{}}", "{a}").replace("{}", json.dumps(good))
    assert PROMPTS["gold_call"].read(text).model_dump(mode="json") == good


@pytest.mark.parametrize(
    "text",
    ["", "I cannot do that.", '{"arguments": {"city": "Par', "{'arguments': {}}", '{"arguments": NaN}', "[]", "{} {}",
     '{"arguments": {}, "arguments": {"a": 1}}', '{"arguments": {"a": 1e999}}'],
)  # fmt: skip
def test_what_is_no_answer_is_never_made_one(text: str) -> None:
    with pytest.raises(Malformed):
        PROMPTS["gold_call"].read(text)


def test_the_mark_of_thoughts_may_stand_in_an_answer() -> None:
    good = {"arguments": {"html": "a </think> b {c} </think>"}}
    for text in (json.dumps(good), f"<think>hm</think>{json.dumps(good)}"):
        assert PROMPTS["gold_call"].read(text).model_dump(mode="json") == good


@pytest.mark.parametrize("text", ['<think>{"arguments": {}}</think>', '{"arguments": {}} hm </think>\n'])
def test_thoughts_are_no_answer(text: str) -> None:
    with pytest.raises(Malformed):
        PROMPTS["gold_call"].read(text)


def test_types_are_not_converted() -> None:
    label = {"steps": [{"id": "s1", "needs_tool": "yes", "why": "data"}]}
    with pytest.raises(Malformed, match=r"steps\.0\.needs_tool"):
        PROMPTS["label"].read(json.dumps(label))
