"""A conversation of a data set: {"messages": [...], "tools": [...]} as in OpenAI's API, or a trajectory of our own.

Nothing here knows a tokenizer: what is wrong with the data is told before any model is there. What the format can say
is either taken as it is meant or refused by its field; nothing that changes what is learned is passed over.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.records import Message, ToolCall, ToolSpec, Trajectory
from astra_trainer.thoughts import Thought, split_thought

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_FIELDS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "function_call", "weight", *_THOUGHTS),
    "tool": ("role", "content", "tool_call_id", "name"),
}
_ROLES = {"developer": "system", "function": "tool"}  # other names of the same
_OTHER_DATA = (  # fields of a line that say what to learn, in a way that is not this one's
    "system", "prompt", "completion", "chosen", "rejected", "weight", "images", "image", "audios", "audio", "videos",
    "video", "documents", "chat_template_kwargs",
)  # fmt: skip
_TRAJECTORY = {"environment", "messages", "tokens", "mask"}
_MEDIA = ("image_url", "image", "input_image", "input_audio", "audio", "audio_url", "video", "video_url", "file")
_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Turn:
    """What the assistant thinks, says and calls, and what came back."""

    content: str
    calls: tuple[ToolCall, ...]
    thought: Thought | None
    weight: int  # 1: trained on; 0: context
    responses: tuple[str, ...]  # in the order of the calls; none where a conversation ends with calls


@dataclass(frozen=True)
class Conversation:
    """What a demonstration is made of."""

    prompt: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    turns: tuple[Turn, ...]
    environment: str = ""  # the digest of the environment that a trajectory of ours is of

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole as messages; a thought stands in its turn's text."""
        messages = list(self.prompt)
        for turn in self.turns:
            text = turn.thought.before(turn.content) if turn.thought else turn.content
            messages.append(Message(role="assistant", content=text, tool_calls=turn.calls, weight=turn.weight))
            messages += [Message(role="tool", content=response) for response in turn.responses]
        return tuple(messages)


class Unusable(ValueError):
    """A trajectory of our own, whole and sound, from which nothing can be learned; the message says why."""


def conversation(value: Any) -> Conversation:
    """The conversation that a line holds. Raises ValueError, which names the field; Unusable for our own."""
    if isinstance(value, dict) and value.keys() >= _TRAJECTORY:
        return _of_trajectory(value)
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError("expected an object with `messages` and `tools`")
    if other := next((key for key in _OTHER_DATA if value.get(key) not in _EMPTY), None):
        raise ValueError(f"{other}: not understood beside messages; what is to be learned stands in messages and tools")
    if value.get("functions") not in _EMPTY and value.get("tools") not in _EMPTY:
        raise ValueError("functions: give tools alone, functions are their older form")
    field = "functions" if value.get("functions") not in _EMPTY else "tools"
    return _conversation(value["messages"], _tools(value.get(field), field))


def _of_trajectory(value: Mapping[str, Any]) -> Conversation:
    """Messages and schemas of a trajectory; its tokens are those of the model that made it, and not read."""
    try:
        trajectory = Trajectory.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"not a trajectory: {_first(error)}") from None
    if len(trajectory.tool_schemas) != len(trajectory.tools):
        raise ValueError("tool_schemas: a schema for each of tools is needed; versions before this one wrote none")
    messages = [_as_openai(message) for message in trajectory.messages]
    if messages and messages[-1]["role"] == "assistant" and messages[-1]["weight"] == 0:
        messages.pop()  # it was cut: nothing follows from it
    try:
        found = _conversation(messages, _tools(trajectory.tool_schemas, "tool_schemas"))
    except ValueError as error:
        raise Unusable(str(error)) from None
    return Conversation(found.prompt, found.tools, found.turns, trajectory.digest)


def _as_openai(message: Message) -> dict[str, Any]:
    calls = [{"name": call.tool, "arguments": call.arguments_json} for call in message.tool_calls]
    return {"role": message.role, "content": message.content, "tool_calls": calls, "weight": message.weight}


def _conversation(values: Sequence[Any], tools: tuple[ToolSpec, ...]) -> Conversation:
    messages = [_message(value, f"messages[{index}]") for index, value in enumerate(values)]
    roles = [message["role"] for message in messages]
    start = roles.index("assistant") if "assistant" in roles else len(roles)
    if roles[:start] not in (["user"], ["system", "user"]) or start == len(roles):
        raise ValueError(
            "messages must begin with an optional system and one user message, then the assistant's turn; here: "
            + ", ".join(roles[: start + 1])
        )
    prompt = [
        Message(role=message["role"], content=_said(message, f"messages[{index}]"))
        for index, message in enumerate(messages[:start])
    ]
    names = {tool.name for tool in tools}
    turns: list[Turn] = []
    position = start
    while position < len(messages):
        turn, position = _turn(messages, position, names)
        turns.append(turn)
    if not any(turn.weight for turn in turns):
        raise ValueError("messages: nothing to train on: no assistant's turn has weight 1")
    return Conversation(tuple(prompt), tools, tuple(turns))


def _message(value: Any, where: str) -> dict[str, Any]:
    """A message with its role by one name, and nothing but what that role may hold."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a message must be an object")
    given = value.get("role")
    role = _ROLES.get(given, given) if isinstance(given, str) else ""
    if role not in _FIELDS:
        raise ValueError(f"{where}.role: {given!r} is none of {', '.join([*_FIELDS, *_ROLES])}")
    if role != "assistant" and value.get("weight") not in (None, 0):
        raise ValueError(f"{where}.weight: only what the assistant says is trained on; take it out")
    _only(value, (*_FIELDS[role], "weight"), where)
    return {**value, "role": role}


def _turn(messages: Sequence[Mapping[str, Any]], position: int, tools: set[str]) -> tuple[Turn, int]:
    """The turn that begins at a position, with the responses to its calls, and the position after them."""
    value, where = messages[position], f"messages[{position}]"
    if value["role"] != "assistant":
        hint = "more responses than calls" if value["role"] == "tool" else "end the conversation before it"
        raise ValueError(f"{where}: expected the assistant's turn, not {value['role']}; {hint}")
    named = _calls(value, where)
    thought, content = _thought(value, where)
    weight = value.get("weight")
    if weight not in (None, 0, 1) or isinstance(weight, bool):
        raise ValueError(f"{where}.weight: {weight!r} is neither 0 (context only) nor 1 (trained on)")
    weight = 1 if weight is None else int(weight)
    if not named and not content.strip():
        raise ValueError(f"{where}: says nothing: it has neither content nor tool_calls")
    for _, call in named:
        if tools and weight and call.tool not in tools:
            raise ValueError(f"{where}: calls {call.tool}, which is not in tools; add it there")
    following = messages[position + 1 :]
    given = next((i for i, message in enumerate(following) if message["role"] != "tool"), len(following))
    after = position + 1 + given
    if not named and after < len(messages):
        raise ValueError(f"{where}: a turn without calls must be the last")
    if not named and given:
        raise ValueError(f"messages[{position + 1}]: answers no call")
    responses: tuple[str, ...] = ()
    if given or after < len(messages):
        responses = _responses(following[:given], named, position)
    return Turn(content, tuple(call for _, call in named), thought, weight, responses), after


def _calls(value: Mapping[str, Any], where: str) -> list[tuple[str | None, ToolCall]]:
    """The calls of a turn, each with its id, if it has one."""
    calls, legacy = value.get("tool_calls"), value.get("function_call")
    if calls not in _EMPTY and legacy not in _EMPTY:
        raise ValueError(f"{where}.function_call: give tool_calls alone, function_call is their older form")
    if legacy not in _EMPTY:
        return [(None, _call(legacy, f"{where}.function_call"))]
    if calls in _EMPTY:
        return []
    if not isinstance(calls, list):
        raise ValueError(f"{where}.tool_calls: expected a list")
    return [_identified(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _identified(value: Any, where: str) -> tuple[str | None, ToolCall]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a call must be an object")
    if value.get("type") not in (None, "function"):
        raise ValueError(f"{where}.type: {value['type']!r} is not understood; only function calls are")
    identity = _identity(value.get("id"), f"{where}.id")
    if "function" not in value:
        return identity, _call(_without(value, "id", "type", "index"), where)
    _only(value, ("id", "type", "index", "function"), where)
    return identity, _call(value["function"], f"{where}.function")


def _call(value: Any, where: str) -> ToolCall:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with name and arguments")
    _only(value, ("name", "arguments"), where)
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}.name: a call must name its tool")
    text = arguments if isinstance(arguments, str) else _json(arguments)
    try:
        read = parse_json(text)
    except NotCanonicalError as error:
        raise ValueError(f"{where}.arguments: not JSON: {error}: {text[:80]}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{where}.arguments: not a JSON object: {text[:80]}")
    return ToolCall(tool=name, arguments_json=text)


def _responses(
    answers: Sequence[Mapping[str, Any]], named: Sequence[tuple[str | None, ToolCall]], position: int
) -> tuple[str, ...]:
    """What the tools answered, in the order of their calls: by tool_call_id, or as listed where none has one."""
    given = [
        _identity(m.get("tool_call_id"), f"messages[{position + 1 + i}].tool_call_id") for i, m in enumerate(answers)
    ]
    order: list[int] = []
    for index, identity in enumerate(given):
        where = f"messages[{position + 1 + index}]"
        if (identity is None) != (given[0] is None):
            raise ValueError(f"{where}.tool_call_id: some messages of the turn have one and some have none; give all")
        free = [n for n, (call, _) in enumerate(named) if n not in order and (identity is None or call == identity)]
        if not free and identity is not None:
            done = any(call == identity for call, _ in named)
            said = "is answered already" if done else f"is the id of no call of messages[{position}]"
            raise ValueError(f"{where}.tool_call_id: {identity} {said}")
        order += free[:1]
    if len(answers) != len(named):
        raise ValueError(f"messages[{position}]: {len(named)} calls need {len(named)} tool messages after them")
    texts = [""] * len(named)
    for index, (number, message) in enumerate(zip(order, answers, strict=True)):
        where, tool = f"messages[{position + 1 + index}]", named[number][1].tool
        if message.get("name") not in (None, "", tool):
            raise ValueError(f"{where}.name: {message['name']} does not answer the call of {tool}; give tool_call_id")
        texts[number] = _returned(message, where)
    return tuple(texts)


def _thought(value: Mapping[str, Any], where: str) -> tuple[Thought | None, str]:
    """A turn's thought, from a field of its own or from its text, and what it says."""
    try:
        written, content = split_thought(_text(value.get("content"), f"{where}.content"))
    except ValueError as error:
        raise ValueError(f"{where}.content: {error}") from None
    found = written
    for field in _THOUGHTS:
        if value.get(field) in _EMPTY:
            continue
        if not isinstance(value[field], str):
            raise ValueError(f"{where}.{field}: a thought must be a text")
        if found is not None and found.text.strip() != value[field].strip():
            raise ValueError(f"{where}.{field}: the turn has another thought already; keep one")
        found = Thought(value[field])
    return found, content


def _said(message: Mapping[str, Any], where: str) -> str:
    if message.get("content") is None:
        raise ValueError(f"{where}.content: missing")
    return _text(message["content"], f"{where}.content")


def _text(content: Any, where: str) -> str:
    """The text of a message, joined from its parts; nothing is the empty text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"{where}: expected a text or a list of parts, not {_json(content)[:80]}")
    for index, part in enumerate(content):
        if not _is_text(part):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"{where}[{index}]: {kind!r} is not a part of text, which is all that can be trained on")
    return "".join(part["text"] for part in content)


def _returned(message: Mapping[str, Any], where: str) -> str:
    """What a tool returned: a text as it is, and any other value as JSON."""
    if "content" not in message:
        raise ValueError(f"{where}.content: missing")
    content = message["content"]
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(map(_is_text, content)):
        return _text(content, f"{where}.content")
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") in _MEDIA for part in content):
        raise ValueError(f"{where}.content: only parts of text can be trained on")
    return _json(content)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _tools(values: Any, field: str) -> tuple[ToolSpec, ...]:
    """The tools of a line; a list, or the entries of one, may be written as JSON text."""
    values = _parsed(values, field)
    if values in _EMPTY:
        return ()
    if not isinstance(values, list | tuple):
        raise ValueError(f"{field}: expected a list of function schemas")
    tools = tuple(_tool(_parsed(value, f"{field}[{i}]"), f"{field}[{i}]") for i, value in enumerate(values))
    names = [tool.name for tool in tools]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{field}: {double} is there twice")
    return tools


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str) or not value:
        return value
    try:
        return parse_json(value)
    except NotCanonicalError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None


def _tool(value: Any, where: str) -> ToolSpec:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a function schema")
    try:
        return ToolSpec.model_validate(value.get("function", value))
    except ValidationError as error:
        raise ValueError(f"{where}.{_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first problem of a validation, on one line."""
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc']))}: {details['msg']}"


def _identity(value: Any, where: str) -> str | None:
    if value in _EMPTY:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected a text, not {_json(value)[:80]}")
    return value


def _only(value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuses what is not understood, unless it is empty and so means nothing."""
    for key, item in value.items():
        if key not in known and item not in _EMPTY:
            raise ValueError(f"{where}.{key}: not understood ({_json(item)[:40]}); take it out")


def _without(value: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
