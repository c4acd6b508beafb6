"""Demonstrations from files: what is trained on, and what is refused where."""

import json
from pathlib import Path
from typing import Any

import pytest

from astra_api.errors import BadInput
from astra_trainer.chat import ChatFormat
from astra_trainer.file_dataset import load_demonstrations

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


def _with(index: int, *messages: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, "messages": [*GOOD["messages"][:index], *messages, *GOOD["messages"][index + 1 :]]}  # type: ignore[index]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 2"),
        ([1], "expected an object with `messages` and `tools`"),
        ({**GOOD, "messages": GOOD["messages"][:2]}, "then the assistant's turn"),
        (_with(1, {"role": "tool", "content": ""}), "must begin with an optional system and one user message"),
        (_with(4), r"messages\[2\]: 2 calls need 2 tool messages"),
        (_with(5, {"role": "user", "content": "more"}), r"messages\[5\]: expected the assistant's turn, not user"),
        (_with(5, GOOD["messages"][5], {"role": "user", "content": "x"}), "without calls must be the last"),  # type: ignore[index]
        (_with(1, {"role": "wizard", "content": ""}), "role"),
        ({**GOOD, "tools": [{"name": "no spaces", "description": "", "parameters": {}}]}, "name"),
        (
            _with(2, {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "[1]"}}] * 2}),
            "not a JSON object",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, chat: ChatFormat, bad: Any, message: str) -> None:
    with pytest.raises(BadInput, match=rf"(?s)data\.jsonl: line 2: .*{message}|{message}"):
        load_demonstrations(written(tmp_path, GOOD, bad), chat)


def test_nothing_is_refused_too(tmp_path: Path, chat: ChatFormat) -> None:
    with pytest.raises(BadInput, match="holds no conversation"):
        load_demonstrations(written(tmp_path, ""), chat)
    with pytest.raises(BadInput, match="there is no JSON-lines file"):
        load_demonstrations(tmp_path / "missing.jsonl", chat)
