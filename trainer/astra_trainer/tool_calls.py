"""Reads tool calls out of what a policy wrote: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`.

Tolerant where tolerance cannot change a meaning (white space, a missing end tag, `parameters` for `arguments`), and
otherwise strict: text that is not one JSON object with one name is still a call, one that the sandbox will refuse. A
policy pays for a broken call as for any other. What stands inside `<think>...</think>` is a thought, and never a call.
"""

import json
import re
from typing import Any

from astra_api.records import ToolCall, ToolError, ToolErrorKind

START, END = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_BEGIN = re.compile(f"{START}|{THINK}")
_BLOCK_END = re.compile(rf"[ \t\r\n]*(?:{END}|(?={START}|{THINK})|\Z)")
_NAME = re.compile(r'"name"[ \t\r\n]*:[ \t\r\n]*"([^"\\]{1,256})"')
_ARGUMENTS = ("arguments", "parameters")


def parse_tool_calls(text: str, thinking: bool = False) -> tuple[str, tuple[ToolCall, ...]]:
    """The text outside the call blocks, stripped, and the calls in listed order.

    `arguments_json` is the policy's own text of the arguments, byte for byte. A block that is not one well-formed
    call becomes a call of the name that can be read in it (`""` when none can), with the whole block as arguments:
    never valid JSON arguments, so never executed. A thought is text, whatever it holds, to its end tag or the end of
    the text; with `thinking` the text begins inside of one. Nothing raises.
    """
    position = _after_thought(text, 0) if thinking else 0
    outside = [text[:position]]
    calls: list[ToolCall] = []
    while begin := _BEGIN.search(text, position):
        outside.append(text[position : begin.start()])
        if begin.group() == THINK:
            position = _after_thought(text, begin.end())
            outside.append(text[begin.start() : position])
        else:
            call, position = _block(text, begin.end())
            calls.append(call)
    outside.append(text[position:])
    return "".join(outside).strip(), tuple(calls)


def _after_thought(text: str, position: int) -> int:
    end = text.find(THOUGHT, position)
    return len(text) if end < 0 else end + len(THOUGHT)


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
    """A broken block ends at its end tag, where a block or a thought begins, or with the text."""
    following = _BEGIN.search(text, start)
    stop = after = following.start() if following else len(text)
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
