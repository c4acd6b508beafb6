"""Demonstrations from files: what is trained on, and what is refused where."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from astra_api.errors import BadInput
from astra_trainer.chat import ChatFormat
from astra_trainer.file_dataset import check_files, load_demonstrations

TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
GOOD = {
    "messages": [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ],
    "tools": [TOOL],
}


def written(folder: Path, *values: Any) -> Path:
    file = folder / "data.jsonl"
    file.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return file


def test_what_the_assistant_says_is_trained_on(tmp_path: Path, chat: ChatFormat) -> None:
    (found,) = load_demonstrations(written(tmp_path, GOOD), chat)
    said = [token for token, mask in zip(found.tokens, found.mask, strict=True) if mask]
    text = chat.text(said)
    assert text.count('"arguments": {"a": 1, "b": 2}') == 2
    assert text.endswith("It is 3.<|im_end|>")
    assert "1 + 2" not in text
    assert "1 + 2?" in chat.text(found.tokens)
    assert found.tools == ("add",)
    assert found.turns == 2


def test_a_folder_is_read_file_by_file(tmp_path: Path, chat: ChatFormat) -> None:
    written(tmp_path, GOOD, "", GOOD)
    (tmp_path / "more.jsonl").write_text(json.dumps(GOOD))
    assert [t.environment for t in load_demonstrations(tmp_path, chat)] == [
        "data.jsonl:1",
        "data.jsonl:3",
        "more.jsonl:1",
    ]


def _with(index: int, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    listed: list[dict[str, Any]] = GOOD["messages"]  # type: ignore[assignment]
    return {**GOOD, "messages": [*listed[:index], *messages, *listed[index + 1 :]], **fields}


def _calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def _call(identity: str | None, a: int = 1, **fields: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": json.dumps({"a": a})}
    return {"type": "function", "function": function, **({"id": identity} if identity else {}), **fields}


def _answer(identity: str | None, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **({"tool_call_id": identity} if identity else {}), **fields}


def _asked(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "1 + 2?"}, *turns], "tools": [TOOL], **fields}


SAID = {"role": "assistant", "content": "It is 3."}


def _trained(folder: Path, chat: ChatFormat, value: Any) -> tuple[str, str]:
    """The conversation as text, and what of it is trained on."""
    (found,) = load_demonstrations(written(folder, value), chat)
    said = [token for token, mask in zip(found.tokens, found.mask, strict=True) if mask]
    return chat.text(found.tokens), chat.text(said)


@pytest.mark.parametrize(
    ("calls", "answers"),
    [
        ([_call("a", 1), _call("b", 2)], [_answer("b", "two"), _answer("a", "one")]),
        ([_call("a", 1), _call("b", 2)], [_answer(None, "one"), _answer(None, "two")]),
        ([_call(None, 1), _call(None, 2)], [_answer(None, "one", name="add"), _answer(None, "two", name="add")]),
        ([_call("a", 1), _call("a", 2)], [_answer("a", "one"), _answer("a", "two")]),
    ],
)
def test_answers_stand_in_the_order_of_their_calls(
    tmp_path: Path, chat: ChatFormat, calls: list[Any], answers: list[Any]
) -> None:
    text, _ = _trained(tmp_path, chat, _asked(_calling(*calls), *answers, SAID))
    assert text.index('"a": 1') < text.index('"a": 2') < text.index("one") < text.index("two")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (0, "0"),
        (False, "false"),
        (None, "null"),
        ("", ""),
        ([], "[]"),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        ([{"type": "event", "at": 1}], '[{"type": "event", "at": 1}]'),
        ([{"type": "text", "text": "th"}, {"type": "text", "text": "ree"}], "three"),
    ],
)
def test_what_a_tool_returns_is_shown_as_json(tmp_path: Path, chat: ChatFormat, content: Any, shown: str) -> None:
    text, _ = _trained(tmp_path, chat, _asked(_calling(_call("a")), _answer("a", content), SAID))
    assert f"<tool_response>\n{shown}\n</tool_response>" in text


@pytest.mark.parametrize(
    ("value", "trained"),
    [
        (_asked({"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "3."}]}),
         "It is 3.<|im_end|>"),
        (_asked(_calling(_call("a"), content="BAD", weight=0), _answer("a", "3"), {**SAID, "weight": 1}),
         "It is 3.<|im_end|>"),
        (_asked({"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
                {"role": "function", "name": "add", "content": "3"}, SAID),
         '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>It is 3.<|im_end|>'),
        (_asked(_calling(_call("a"))), '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'),
        (_asked({**SAID, "refusal": None, "audio": None, "annotations": [], "tool_calls": None, "name": ""}),
         "It is 3.<|im_end|>"),
        (_asked(SAID, tools=None, functions=[TOOL["function"]], id=7, meta={"score": 1}), "It is 3.<|im_end|>"),
        (_asked(SAID, tools=json.dumps([TOOL])), "It is 3.<|im_end|>"),
        ({"messages": [{"role": "developer", "content": "Be exact."}, {"role": "user", "content": "?"}, SAID]},
         "It is 3.<|im_end|>"),
    ],
)  # fmt: skip
def test_what_the_format_can_say_is_taken_as_it_is_meant(
    tmp_path: Path, chat: ChatFormat, value: Any, trained: str
) -> None:
    text, said = _trained(tmp_path, chat, value)
    assert said == trained
    assert ("Adds." in text) == bool(value.get("tools") or value.get("functions"))


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "<think>\nso it is\n</think>\n\nIt is 3."},
        {"content": "so it is\n</think>\n\nIt is 3."},
        *({"content": "It is 3.", field: "so it is"} for field in ("reasoning_content", "reasoning", "thinking")),
        {"content": "<think>so it is</think>It is 3.", "reasoning_content": "so it is"},
        {"content": [{"type": "text", "text": "<think>so it is</think>It is 3."}]},
    ],
)
def test_a_thought_is_trained_as_the_models_template_writes_it(
    tmp_path: Path,
    make_tokenizer: Callable[[str], PreTrainedTokenizerFast],
    templates: dict[str, str],
    turn: dict[str, Any],
) -> None:
    thinking = templates["thinking"].replace(
        "<think>\n\n</think>", "<think>\n{{ (message.reasoning_content or '').strip('\n') }}\n</think>"
    )
    chat = ChatFormat(make_tokenizer(thinking))
    _, said = _trained(tmp_path, chat, _asked({"role": "assistant", **turn}))
    assert said == "<think>\nso it is\n</think>\n\nIt is 3.<|im_end|>"


THOUGHTS = {"role": "assistant", "content": "3", "reasoning_content": "so"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "not JSON: .*; give one conversation a line"),
        ("[", "not an array; write one conversation a line"),
        ([1], "expected an object with `messages` and `tools`"),
        ({**GOOD, "messages": GOOD["messages"][:2]}, "then the assistant's turn; here: system, user"),  # type: ignore[index]
        (_with(1, {"role": "tool", "content": ""}), "must begin with an optional system and one user message"),
        (_with(1, *[{"role": "user", "content": ""}] * 2), "here: system, user, user, assistant"),
        (_with(1, {"role": "user", "content": None}), r"messages\[1\]\.content: missing"),
        (_with(4), r"messages\[2\]: 2 calls need 2 tool messages"),
        (_with(5, {"role": "user", "content": "more"}), r"messages\[5\]: expected the assistant's turn, not user"),
        (_with(5, {"role": "system", "content": "more"}), r"messages\[5\]: expected the assistant's turn, not system"),
        (_with(5, _answer("c1", "3"), SAID), r"messages\[5\]\.tool_call_id: c1 is answered already"),
        (_with(5, SAID, {"role": "user", "content": "x"}), "without calls must be the last"),
        (_with(5, SAID, _answer(None, "x")), r"messages\[6\]: answers no call"),
        (_with(1, {"role": "wizard", "content": ""}), r"messages\[1\]\.role: 'wizard' is none of"),
        (_with(1, {"content": ""}), r"messages\[1\]\.role: None is none of"),
        (_with(1, "text"), r"messages\[1\]: a message must be an object"),  # type: ignore[arg-type]
        (_with(5, {"role": "assistant"}), r"messages\[5\]: says nothing"),
        (_with(5, {"role": "assistant", "content": {"a": 1}}), r"messages\[5\]\.content: expected a text"),
        (
            _with(5, {"role": "assistant", "content": [{"type": "image_url", "image_url": {}}]}),
            "'image_url' is not a part",
        ),
        (_with(4, _answer("c1", [{"type": "image_url", "image_url": {"url": "x"}}])), "only parts of text"),
        (_with(5, {**SAID, "refusal": "No."}), r"messages\[5\]\.refusal: not understood"),
        (_with(5, {**SAID, "name": "bot"}), r"messages\[5\]\.name: not understood"),
        (_with(5, {**SAID, "loss": False}), r"messages\[5\]\.loss: not understood .false.; take it out"),
        (_with(5, {**SAID, "weight": 0.5}), r"messages\[5\]\.weight: 0\.5 is neither 0"),
        (_with(5, {**SAID, "weight": True}), r"messages\[5\]\.weight: True is neither 0"),
        (_with(1, {"role": "user", "content": "?", "weight": 1}), r"messages\[1\]\.weight: only what the assistant"),
        (_asked({**SAID, "weight": 0}), "nothing to train on"),
        (_asked({**SAID, "tool_calls": "add"}), r"messages\[1\]\.tool_calls: expected a list"),
        (_asked(_calling({"type": "custom"})), r"tool_calls\[0\]\.type: 'custom' is not understood"),
        (_asked(_calling({"function": {"arguments": "{}"}})), r"function\.name: a call must name its tool"),
        (_asked(_calling({"function": {"name": "sub", "arguments": "{}"}})), "calls sub, which is not in tools"),
        (_asked(_calling({"function": {"name": "add", "arguments": "[1]"}})), r"arguments: not a JSON object: \[1\]"),
        (_asked(_calling({"function": {"name": "add", "arguments": '{"a":'}})), r"arguments: not JSON: .*: \{\"a\":"),
        (_asked(_calling({"function": {"name": "add", "arguments": None}})), r"arguments: not a JSON object: null"),
        (_asked(_calling(_call("a")), _answer("b", "3"), SAID), r"messages\[2\]\.tool_call_id: b is the id of no call"),
        (
            _asked(_calling(_call(None)), _answer("b", "3"), SAID),
            r"messages\[2\]\.tool_call_id: b is the id of no call",
        ),
        (
            _asked(_calling(_call("a"), _call("b")), _answer("a", "3"), _answer(None, "4"), SAID),
            "some have none; give all",
        ),
        (_asked(_calling(_call("a"), _call("b")), _answer("a", "3")), "2 calls need 2 tool messages"),
        (
            _asked(_calling(_call("a")), _answer("a", "3", name="sub"), SAID),
            "name: sub does not answer the call of add",
        ),
        (_asked({**SAID, "tool_calls": [_call("a")], "function_call": {"name": "add"}}), "give tool_calls alone"),
        (_asked({**THOUGHTS, "reasoning": "no"}), r"messages\[1\]\.reasoning: the turn has another thought"),
        (_asked({**SAID, "reasoning_content": ["so"]}), "reasoning_content: a thought must be a text"),
        (_asked({"role": "assistant", "content": "<think>so"}), r"messages\[1\]\.content: <think> stands where no"),
        (_asked(THOUGHTS), "the chat template has no place for this thought"),
        (_asked(SAID, functions=[TOOL["function"]]), "functions: give tools alone"),
        (_asked(SAID, tools={"name": "add"}), "tools: expected a list"),
        (_asked(SAID, tools=["add"]), r"tools\[0\]: not JSON"),
        (_asked(SAID, tools=[TOOL, TOOL]), "tools: add is there twice"),
        (_asked(SAID, tools=[{"name": "no spaces", "description": "", "parameters": {}}]), r"tools\[0\]\.name: "),
        (_asked(SAID, system="Be exact."), "system: not understood beside messages"),
        (_asked(SAID, chat_template_kwargs={"enable_thinking": False}), "chat_template_kwargs: not understood"),
        (_asked({"role": "assistant", "content": "\ud800"}), "surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, chat: ChatFormat, bad: Any, message: str) -> None:
    with pytest.raises(BadInput, match=rf"data\.jsonl: line 2: .*{message}|line 2: {message}") as refused:
        load_demonstrations(written(tmp_path, GOOD, bad), chat)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "line 1: the file is a git-lfs pointer; run git",
        ),
        (b"PAR1\x15\x04\x15\xff", "line 1: byte 8 is not UTF-8; give JSON lines"),
        (b'{"messages":', "line 1: not JSON"),
    ],
)
def test_what_is_no_json_lines_is_told_before_a_model_is_there(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=rf"{tmp_path}/data\.jsonl: {message}"):
        check_files(tmp_path)


def test_nothing_is_refused_too(tmp_path: Path, chat: ChatFormat) -> None:
    with pytest.raises(BadInput, match="holds no conversation"):
        load_demonstrations(written(tmp_path, ""), chat)
    with pytest.raises(BadInput, match="there is no JSON-lines file"):
        load_demonstrations(tmp_path / "missing.jsonl", chat)
