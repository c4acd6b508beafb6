"""Reads tool calls out of what a policy wrote: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`.

Tolerant where tolerance cannot change a meaning (white space, a missing end tag, `parameters` for `arguments`), and
otherwise strict: text that is not one JSON object with one name is still a call, one that the sandbox will refuse. A
policy pays for a broken call as for any other.
"""

import json
import re
from typing import Any

from astra_api.records import ToolCall, ToolError, ToolErrorKind

START, END = "<tool_call>", "</tool_call>"

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_BLOCK_END = re.compile(rf"[ \t\r\n]*(?:{END}|(?={START})|\Z)")
_NAME = re.compile(r'"name"[ \t\r\n]*:[ \t\r\n]*"([^"\\]{1,256})"')
_ARGUMENTS = ("arguments", "parameters")


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text outside the call blocks, stripped, and the calls in listed order.

    `arguments_json` is the policy's own text of the arguments, byte for byte. A block that is not one well-formed
    call becomes a call of the name that can be read in it (`""` when none can), with the whole block as arguments:
    never valid JSON arguments, so never executed. Nothing raises.
    """
    outside: list[str] = []
    calls: list[ToolCall] = []
    position = 0
    while (start := text.find(START, position)) >= 0:
        outside.append(text[position:start])
        call, position = _block(text, start + len(START))
        calls.append(call)
    outside.append(text[position:])
    return "".join(outside).strip(), tuple(calls)


def unreadable(call: ToolCall) -> ToolError | None:
    """The observation for a call that names no tool, and None for every call that a sandbox can be asked to run."""
    if call.tool:
        return None
    return ToolError(
        kind=ToolErrorKind.INVALID_ARGUMENTS,
        message='not a readable call; write {"name": <tool>, "arguments": <object>}',
    )


def _block(text: str, start: int) -> tuple[ToolCall, int]:
    """The call whose block's content begins at `start`, and the position after the block."""
    rest = text[start:]  # json counts the lines before an error: from here they are few
    try:
        members, after = _members(rest)
        end = _BLOCK_END.match(rest, after)
        if end is None:
            raise ValueError("text after the call's object")
        return _call(rest, members), start + end.end()
    except (ValueError, RecursionError):  # json's errors are ValueErrors
        return _broken(text, start)


def _call(text: str, members: dict[str, tuple[int, int, Any]]) -> ToolCall:
    name = members["name"][2] if "name" in members else None
    if not isinstance(name, str) or not name:
        raise ValueError("no name")
    name.encode()  # a lone surrogate from an escape cannot travel: UnicodeEncodeError is a ValueError
    written = [members[key] for key in _ARGUMENTS if key in members]
    if len(written) > 1:
        raise ValueError("both arguments and parameters")
    if not written:
        return ToolCall(tool=name, arguments_json="{}")
    first, last, value = written[0]
    if isinstance(value, str):  # some models write the object as a JSON string, as the OpenAI protocol carries it
        value.encode()
        return ToolCall(tool=name, arguments_json=value)
    return ToolCall(tool=name, arguments_json=text[first:last])


def _members(text: str) -> tuple[dict[str, tuple[int, int, Any]], int]:
    """key -> (start, end, value) of the JSON object at the beginning, and the position after its closing brace."""
    found: dict[str, tuple[int, int, Any]] = {}
    position = _expect(text, 0, "{")
    if text[position : position + 1] == "}":
        return found, position + 1
    while True:
        key, position = _DECODER.raw_decode(text, position)
        first = _expect(text, position, ":")
        value, last = _DECODER.raw_decode(text, first)
        if not isinstance(key, str) or key in found:
            raise ValueError("not a new string key")
        found[key] = (first, last, value)
        position = _skip(text, last)
        if text[position : position + 1] == "}":
            return found, position + 1
        position = _expect(text, position, ",")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect(text: str, position: int, char: str) -> int:
    """The position of what follows `char`, white space on both sides of it skipped."""
    position = _skip(text, position)
    if text[position : position + 1] != char:
        raise ValueError(f"expected {char}")
    return _skip(text, position + 1)


def _broken(text: str, start: int) -> tuple[ToolCall, int]:
    """A broken block ends at its end tag, at the next block, or with the text."""
    following = text.find(START, start)
    stop = after = following if following >= 0 else len(text)
    if (end := text.find(END, start, stop)) >= 0:
        stop, after = end, end + len(END)
    block = text[start:stop].strip()
    names = {name.group(1) for name in _NAME.finditer(block)}
    readable = names.pop() if len(names) == 1 and not _is_json(block) else ""
    return ToolCall(tool=readable, arguments_json=block), after


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
