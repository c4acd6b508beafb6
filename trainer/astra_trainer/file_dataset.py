"""Demonstrations from JSON-lines files, one conversation a line: {"messages": [...], "tools": [...]} as OpenAI's API.

A conversation is an optional system message, a user message, then assistant turns, each with calls followed by one tool
message a call, and at last an assistant turn without calls. All that the assistant says is trained on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.errors import BadInput
from astra_api.records import Message, Reward, ToolCall, ToolSpec, Trajectory
from astra_trainer.chat import ChatFormat


def load_demonstrations(path: Path, chat: ChatFormat) -> list[Trajectory]:
    """Every conversation of a file, or of the `*.jsonl` files of a folder. Raises BadInput: file, line, reason."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise BadInput(f"spec.sft.dataset.path: there is no JSON-lines file at {path}")
    found: list[Trajectory] = []
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                try:
                    found.append(_demonstration(parse_json(text), chat, f"{file.name}:{number}", len(found)))
                except (NotCanonicalError, ValidationError, ValueError) as error:
                    raise BadInput(f"{file}: line {number}: {error}") from None
    if not found:
        raise BadInput(f"spec.sft.dataset.path: {path} holds no conversation")
    return found


def _demonstration(value: Any, chat: ChatFormat, name: str, number: int) -> Trajectory:
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError("expected an object with `messages` and `tools`")
    messages = [_message(message) for message in value["messages"]]
    tools = [ToolSpec.model_validate(tool.get("function", tool)) for tool in value.get("tools") or []]
    start = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    if [m.role for m in messages[:start]] not in (["user"], ["system", "user"]) or start == len(messages):
        raise ValueError("messages must begin with an optional system and one user message, then the assistant's turn")
    tokens = chat.prompt(messages[:start], tools)
    mask = [0] * len(tokens)
    turns = 0
    position = start
    while position < len(messages):
        said = messages[position]
        if said.role != "assistant":
            raise ValueError(f"messages[{position}]: expected the assistant's turn, not {said.role}")
        turn = chat.assistant_turn(said.content, said.tool_calls)
        answers = _answers(messages, position)
        given = chat.tool_responses(answers) if answers else []
        tokens += turn + given
        mask += [1] * len(turn) + [0] * len(given)
        position += 1 + len(answers)
        turns += 1
    return Trajectory(
        environment=name,
        digest="",
        domain="",
        split="train",
        stage="sft",
        step=0,
        group=number,
        index=0,
        messages=tuple(messages),
        tools=tuple(tool.name for tool in tools),
        tokens=tuple(tokens),
        mask=tuple(mask),
        turns=turns,
        calls=(),
        ended="answered",
        reward=Reward(value=0.0, recall=0.0, precision=0.0, f1=0.0, solved=(), needed=0, calls=0),
    )


def _answers(messages: Sequence[Message], position: int) -> list[str]:
    """The tool messages after an assistant turn: one a call, and none after the last turn."""
    calls = len(messages[position].tool_calls)
    following = messages[position + 1 : position + 1 + calls]
    if len(following) < calls or any(message.role != "tool" for message in following):
        raise ValueError(f"messages[{position}]: {calls} calls need {calls} tool messages after them")
    if not calls and position + 1 < len(messages):
        raise ValueError(f"messages[{position}]: a turn without calls must be the last")
    return [message.content for message in following]


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise ValueError("a message must be an object")
    content = value.get("content")
    calls = []
    for call in value.get("tool_calls") or []:
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        calls.append(ToolCall(tool=function["name"], arguments_json=_text(arguments)))
    return Message(role=value.get("role", ""), content=_text(content or ""), tool_calls=tuple(calls))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
