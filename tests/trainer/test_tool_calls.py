import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.records import ToolCall, ToolErrorKind
from astra_trainer.tool_calls import parse_tool_calls, unreadable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=4)
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True)
SPACE = st.text(" \t\n", max_size=3)


def block(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


@given(st.lists(st.tuples(NAMES, ARGUMENTS, SPACE, st.booleans()), max_size=4), st.booleans())
def test_well_formed_calls_are_read_in_order_with_their_arguments_as_written(
    calls: list[tuple[str, dict[str, Any], str, bool]], ascii_only: bool
) -> None:
    """Also with the end tag, or anything else, inside of an argument."""
    written = []
    text = "Let me look. "
    for name, arguments, space, swapped in calls:
        raw = json.dumps(arguments, ensure_ascii=ascii_only, indent=1)
        fields = [f'"name"{space}:{space}"{name}"', f'"arguments"{space}:{space}{raw}']
        text += block(space + "{" + f"{space},{space}".join(fields[::-1] if swapped else fields) + "}" + space) + "\n"
        written.append(ToolCall(tool=name, arguments_json=raw))
    assert parse_tool_calls(text) == ("Let me look.", tuple(written))


FRAGMENTS = ["<tool_call>", "</tool_call>", '{"name": "f"', ', "arguments": {', "}", "[", '"', "\\", "1", "\ud800", " "]


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_nothing_raises_and_no_call_gets_lost(text: str) -> None:
    content, calls = parse_tool_calls(text)
    assert len(calls) <= text.count("<tool_call>")
    assert bool(calls) == ("<tool_call>" in text)
    assert "<tool_call>" not in content


@given(st.lists(st.sampled_from(["call", "draft", "text", "broken", "open"]), max_size=6), st.booleans())
def test_drafts_of_thoughts_are_never_calls(pieces: list[str], thinking: bool) -> None:
    """Calls outside of thoughts are read, those inside are text, wherever the thoughts stand; markers in arguments are
    letters."""
    call = block('{"name": "run", "arguments": {"text": "<think></think><tool_call>"}}')
    draft = block('{"name": "draft", "arguments": {}}')
    texts = {
        "call": call,
        "draft": f"<think>or {draft}? {draft[:30]}</think>",
        "text": "\nSo </think> it is. ",
        "broken": f'<tool_call>{{"name": "bad", <think>{draft}</think>',
        "open": f"<think> or {draft}",
    }
    text = f"or {draft}</think>" * thinking + "".join(texts[piece] for piece in pieces)
    if "open" in pieces:  # all that follows, to the end of the next thought, is one
        first = pieces.index("open")
        pieces = pieces[:first]
        text = f"or {draft}</think>" * thinking + "".join(texts[piece] for piece in pieces) + texts["open"]
    content, calls = parse_tool_calls(text, thinking=thinking)
    expected = {"call": "run", "broken": "bad"}
    assert [found.tool for found in calls] == [expected[piece] for piece in pieces if piece in expected]
    assert content.count("draft") == text.count("draft")


@pytest.mark.parametrize(
    ("text", "tool", "arguments"),
    [
        ('{"name": "f"}', "f", "{}"),
        ('{"name": "f", "parameters": {"a": 1.50}}', "f", '{"a": 1.50}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "f", '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": NaN}}', "f", '{"a": NaN}'),  # the sandbox refuses it
        ('{"id": "x", "name": "f", "arguments": []}', "f", "[]"),
    ],
)
def test_what_is_tolerated(text: str, tool: str, arguments: str) -> None:
    assert parse_tool_calls(block(text))[1] == (ToolCall(tool=tool, arguments_json=arguments),)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"a": 1}',
        '{"name": "f", "arguments": {"a": 1}}}',
        '{"name": "f", "arguments": {"a": 1',
        '{"name": "f" "arguments": {}}',
        "{'name': 'g', \"name\": \"f\", 'arguments': {}}",
        '{"name": "f", "arguments": {}} and more',
        '{"name": "f", "arguments": ' + "[" * 100_000,
        '{"name": "f", "arguments": ' + "1" * 10_000 + "}",
    ],
)
def test_a_malformed_block_is_a_call_that_cannot_run(text: str) -> None:
    """Its name is kept; its arguments are the block itself, which no sandbox takes for JSON."""
    ((call,),) = (parse_tool_calls(block(text))[1],)
    assert call == ToolCall(tool="f", arguments_json=text)
    with pytest.raises(NotCanonicalError):
        parse_json(call.arguments_json)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(1)",
        '"f"',
        '[{"name": "f", "arguments": {}}]',
        '{"arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f", "name": "g", "arguments": {}}',
        '{"name": "f", "name": "f", "arguments": {}}',
        '{"name": "f", "arguments": {}, "parameters": {}}',
        '{"name": "\\ud800", "arguments": {}}',
        '{"name": "f", "arguments": "\\ud800"}',
        '{"name": "f", "arguments": {"name": "g"',
    ],
)
def test_a_block_without_one_name_is_a_call_of_nothing(text: str) -> None:
    ((call,),) = (parse_tool_calls(block(text))[1],)
    assert call.tool == ""
    assert (error := unreadable(call)) is not None
    assert error.kind is ToolErrorKind.INVALID_ARGUMENTS


def test_a_readable_call_has_no_error() -> None:
    assert unreadable(ToolCall(tool="f", arguments_json="not json")) is None


def test_a_missing_end_tag_ends_at_the_next_block_or_the_end() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}} <tool_call>{"name": "g", "arguments": {}}\n'
    assert [call.tool for call in parse_tool_calls(text)[1]] == ["f", "g"]
    broken = '<tool_call>{"name": "f", <tool_call>{"name": "g", "arguments": {}}</tool_call> bye'
    content, calls = parse_tool_calls(broken)
    assert content == "bye"
    assert [(call.tool, call.arguments_json) for call in calls] == [("f", '{"name": "f",'), ("g", "{}")]


def test_a_policy_that_repeats_itself_is_read() -> None:
    """Thousands of broken blocks, as a degenerate policy writes them."""
    for piece in ("<tool_call>", '<tool_call>{"name": "f"', '<tool_call>{"name": "f", "arguments": {"a": "'):
        content, calls = parse_tool_calls(piece * 20_000)
        assert content == ""
        assert len(calls) >= 10_000
