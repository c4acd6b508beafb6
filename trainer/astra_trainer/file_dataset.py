"""Demonstrations from JSON-lines files, one conversation a line: {"messages": [...], "tools": [...]} as OpenAI's API.

A conversation is an optional system message, a user message, then assistant turns, each with calls followed by one tool
message a call, and at last an assistant turn without calls, or one whose calls nothing answers. What the assistant says
is trained on, but turns of `weight` 0. Trajectories that runs write are conversations too.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.errors import BadInput
from astra_api.records import Reward, Trajectory
from astra_trainer.chat import ChatFormat
from astra_trainer.conversations import Conversation, Unusable, conversation

Note = Callable[[str], object]
_FIELD = "spec.sft.dataset.path"
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_files(path: Path) -> None:
    """Reads all conversations of a data set, as far as that needs no model. Raises BadInput: file, line, reason."""
    for _ in _read(path, lambda text: None):
        pass


def load_demonstrations(path: Path, chat: ChatFormat, note: Note = lambda text: None) -> list[Trajectory]:
    """Every conversation of a file, or of the `*.jsonl` files of a folder. Raises BadInput: file, line, reason.

    Trajectories of our own that nothing can be learned from are left out; `note` is told how many, and why.
    """
    found: list[Trajectory] = []
    for file, number, said in _read(path, note):
        try:
            found.append(_demonstration(said, chat, f"{file.name}:{number}", len(found)))
        except ValueError as error:
            raise BadInput(f"{file}: line {number}: {error}") from None
    return found


def _read(path: Path, note: Note) -> Iterator[tuple[Path, int, Conversation]]:
    """The conversations of a file or folder, each with its file and line."""
    try:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise BadInput(f"{_FIELD}: there is no JSON-lines file at {path}")
        found = 0
        left_out: list[str] = []
        for file in files:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.strip():
                        continue
                    try:
                        said = conversation(_value(line, number))
                    except Unusable as error:
                        left_out.append(f"{file}: line {number}: {error}")
                        continue
                    except ValueError as error:
                        raise BadInput(f"{file}: line {number}: {error}") from None
                    found += 1
                    yield file, number, said
    except OSError as error:
        raise BadInput(f"{_FIELD}: {error.filename or path} cannot be read: {error.strerror}") from None
    if not found:
        raise BadInput(
            f"{_FIELD}: {path} holds no conversation" + (f" to learn from: {left_out[0]}" if left_out else "")
        )
    if left_out:
        note(f"{len(left_out)} of {found + len(left_out)} trajectories are left out; the first: {left_out[0]}")


def _value(line: bytes, number: int) -> object:
    if number == 1 and line.startswith(_POINTER):
        raise ValueError("the file is a git-lfs pointer; run git lfs pull")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; give JSON lines, one conversation a line") from None
    if text.lstrip().startswith("["):
        raise ValueError("expected an object with `messages` and `tools`, not an array; write one conversation a line")
    try:
        value = parse_json(text)
    except NotCanonicalError as error:
        raise ValueError(f"not JSON: {error}; give one conversation a line") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError: a lone surrogate is no text
    return value


def _demonstration(said: Conversation, chat: ChatFormat, name: str, number: int) -> Trajectory:
    tokens = chat.prompt(said.prompt, said.tools)
    mask = [0] * len(tokens)
    for turn in said.turns:
        spoken = chat.assistant_turn(turn.content, turn.calls, thought=turn.thought, answered=bool(turn.responses))
        given = chat.tool_responses(turn.responses) if turn.responses else []
        tokens += spoken + given
        mask += [turn.weight] * len(spoken) + [0] * len(given)
    return Trajectory(
        environment=name,
        digest=said.environment,
        domain="",
        split="train",
        stage="sft",
        step=0,
        group=number,
        index=0,
        messages=said.messages,
        tools=tuple(tool.name for tool in said.tools),
        tool_schemas=tuple(tool.as_json() for tool in said.tools),
        tokens=tuple(tokens),
        mask=tuple(mask),
        turns=len(said.turns),
        calls=(),
        ended="answered",
        reward=Reward(value=0.0, recall=0.0, precision=0.0, f1=0.0, solved=(), needed=0, calls=0),
    )
