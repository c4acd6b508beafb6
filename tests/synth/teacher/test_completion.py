"""What endpoints answer, in the shapes that they have: each is read as a completion or as a failure."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_synth.teacher.completion import FILTER, LENGTH, Completion, Failure, read

from .answering import TEXT, completion

EVENT = {"choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 60}}


def stream(*events: Any, end: str = "data: [DONE]\n\n") -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end


def told(body: Any, status: int = 200, charset: str | None = None) -> Completion | Failure:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return read(status, text if isinstance(text, bytes) else text.encode(), charset, lambda text: text)


ANSWERS: dict[str, Any] = {
    "plain": completion(),
    "finish null": completion(finish=None),
    "parts": completion([{"type": "text", "text": TEXT[:9]}, {"type": "text", "text": TEXT[9:]}]),
    "thinking parts": completion(
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm {"}]}, {"type": "text", "text": TEXT}]
    ),
    "reasoning parts": completion([{"type": "reasoning", "text": "hm {"}, {"type": "output_text", "text": TEXT}]),
    "an object": completion({"question": "How many berths?"}),
    "reasoning_content": completion(None, reasoning_content=TEXT),
    "reasoning": completion("", reasoning=TEXT),
    "reasoning beside content": completion(TEXT, reasoning_content="hm {"),
    "nulls": completion(refusal=None, reasoning_content=None, tool_calls=None) | {"error": None},
    "an empty error": completion() | {"error": {}},
    "nanoseconds": completion() | {"created": 1765168491123456789},
    "byte order mark": "\ufeff" + json.dumps(completion()),
    "white space": "\n\n   \n" + json.dumps(completion()) + "\n\n",
    "infinite figures": json.dumps(completion() | {"timings": {"tps": float("inf")}}),
    "a key twice": '{"id": "a", ' + json.dumps(completion())[1:],
    "utf-16": json.dumps(completion()).encode("utf-16"),
    "events": stream({"choices": []}, EVENT, END),
    "events with comments": ": PROCESSING\n\n" + stream(EVENT, END),
    "events in pieces": stream(*({"choices": [{"delta": {"content": letter}}]} for letter in TEXT), END, end=""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    found = told(ANSWERS[name])
    assert isinstance(found, Completion)
    assert (json.loads(found.text), found.finish, found.refusal) == (json.loads(TEXT), "stop", None)


@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1", "us-ascii", "gbk", "no-such-charset", "hex", "idna"])
def test_an_answer_is_utf_8_whatever_its_header_says(charset: str | None) -> None:
    text = "Wie viele Liegeplätze hat Genf-Ouchy? 泊位 🚢"
    body = json.dumps(completion(text), ensure_ascii=False)
    found = told(body, charset=charset)
    assert isinstance(found, Completion)
    assert found.text == text


def test_an_answer_in_the_charset_of_its_header() -> None:
    body = json.dumps(completion("Liegeplätze"), ensure_ascii=False).encode("latin-1")
    found = told(body, charset="iso-8859-1")
    assert isinstance(found, Completion)
    assert found.text == "Liegeplätze"
    garbled = told(body, charset="utf-8")
    assert isinstance(garbled, Failure)
    assert "no UTF-8 text" in garbled.said


def test_half_a_character_can_be_kept() -> None:
    found = told(json.dumps(completion("\ud83d{", finish="\udc00", refusal="\ud800")))
    assert isinstance(found, Completion)
    assert "\ufffd" in found.text
    (found.text + found.finish + str(found.refusal)).encode()


FAILURES: dict[str, tuple[Any, int, str]] = {  # answered 200 -> status that it means, what is said
    "code 502": ({"error": {"message": "Provider returned error", "code": 502}}, 502, "Provider returned error"),
    "code 429": ({"error": {"message": "slow down", "code": 429}}, 429, "slow down"),
    "code 401": ({"error": {"message": "no", "code": 401}}, 401, "no"),
    "code as text": ({"error": {"message": "no", "code": "503"}}, 503, "no"),
    "status": ({"error": {"message": "no", "status": 504}}, 504, "no"),
    "rate_limit_exceeded": ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, 429, "no"),
    "server_error": ({"error": {"message": "no", "type": "server_error"}}, 503, "no"),
    "overloaded_error": ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, 503, "no"),
    "invalid_api_key": (
        {"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_api_key"}}, 401, "no",
    ),
    "insufficient_quota": ({"error": {"message": "no", "code": "insufficient_quota"}}, 402, "no"),
    "model_not_found": ({"error": {"message": "no", "code": "model_not_found"}}, 404, "no"),
    "context_length_exceeded": ({"error": {"message": "no", "code": "context_length_exceeded"}}, 400, "no"),
    "a field": ({"error": "response_format is not a thing here"}, 400, "response_format"),
    "a text": ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, 404, "Unexpected endpoint"),
    "another text": ({"error": "oops"}, 502, "oops"),
    "in a choice": (
        {"choices": [{"error": {"code": 502, "message": "up"}, "finish_reason": "error", "message": {}}]}, 502, "up",
    ),
    "beside an answer": (completion() | {"error": {"code": 502, "message": "up"}}, 502, "up"),
    "finish error": (completion(finish="error"), 502, "finish_reason error"),
    "finish abort": (completion(finish="abort"), 502, "finish_reason abort"),
    "the upstream's words": (
        {"error": {"code": 400, "message": "Provider returned error", "metadata": {"raw": "seed is not supported"}}},
        400,
        "Provider returned error: seed is not supported",
    ),
    "code at the top": ({"code": 500, "message": "down", "data": None}, 500, "down"),
    "in an event": (stream(EVENT, {"error": {"code": 429, "message": "slow down"}}), 429, "slow down"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_inside_a_200(name: str) -> None:
    body, status, said = FAILURES[name]
    found = told(body)
    assert isinstance(found, Failure)
    assert (found.status, said in found.said) == (status, True), found


FOREIGN: dict[str, tuple[Any, str]] = {
    "html": ("<!doctype html><html><title>Sign\n in</title>", "an HTML page (Sign in)"),
    "html without title": ("<html><body>Open WebUI</body></html>", "an HTML page"),
    "empty": ("", "an empty answer"),
    "white space": (" \n", "an empty answer"),
    "text": ("Ollama is running", "Ollama is running"),
    "null": ("null", "null"),
    "a list": ("[]", "[]"),
    "other JSON": ({"object": "list", "data": []}, "list"),
    "no choices": (completion() | {"choices": []}, "choices"),
    "choices null": (completion() | {"choices": None}, "choices"),
    "no message": ({"choices": [{"text": "x"}]}, "choices"),
    "ollama's own": ({"message": {"content": TEXT}, "done": True}, "no chat completion"),
    "half": (json.dumps(completion())[:80], "no chat completion"),
    "events without end": (stream(EVENT, end=""), "no chat completion"),
    "gzip without a header": (gzip.compress(json.dumps(completion()).encode()), "no UTF-8 text"),
    "deep": ("[" * 100_000, "no chat completion"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_chat_completion(name: str) -> None:
    body, said = FOREIGN[name]
    found = told(body)
    assert isinstance(found, Failure)
    assert (found.status, found.foreign) == (502, True)
    assert said in found.said
    assert len(found.said) < 600


SHAPES: dict[str, tuple[Any, str]] = {  # answered 4xx -> what is said
    "openai": ({"error": {"message": "seed: unknown", "type": "invalid_request_error"}}, "seed: unknown"),
    "mistral": (
        {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no"}]}},
        "body.seed: no",
    ),
    "lm studio": ({"error": "'response_format.type' must be 'text'"}, "'response_format.type' must be 'text'"),
    "fastapi": ({"detail": [{"loc": ["body", "seed"], "msg": "no", "type": "x"}]}, "body.seed: no"),
    "starlette": ({"detail": "Not Found"}, "Not Found"),
    "azure": ({"error": {"code": "DeploymentNotFound", "message": "none"}}, "none"),
    "anthropic": ({"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}, "model: x"),
    "google": ([{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID"}}], "API key not valid."),
    "tgi": ({"error": "Input validation error: `seed`", "error_type": "validation"}, "Input validation error: `seed`"),
    "cloudflare": ({"success": False, "errors": [{"code": 7, "message": "no route"}]}, "no route"),
    "problem": ({"type": "about:blank", "title": "Gone", "status": 410, "detail": "retired"}, "retired"),
    "hugging face": ({"error": ["first", "second"]}, "first; second"),
    "unknown": ({"code": 7, "why": "because"}, '{"code": 7, "why": "because"}'),
    "plain": ("seed is\nnot  known\x1b[31m", "seed is not known[31m"),
    "html": ("<html><head><title>502 Bad Gateway</title>", "an HTML page (502 Bad Gateway)"),
    "empty": ("", "an empty answer"),
    "latin-1": ("Schlüssel ungültig".encode("latin-1"), "Schl\ufffdssel ung\ufffdltig"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_an_error_says(name: str) -> None:
    body, said = SHAPES[name]
    found = told(body, status=422)
    assert isinstance(found, Failure)
    assert (found.status, found.said) == (422, f"HTTP 422 - {said}")


def test_what_an_error_repeats_of_the_request_names_no_field() -> None:
    echo = {"temperature": 0.7, "seed": 7, "response_format": {"type": "json_schema"}}
    found = told({"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "input": {"a": str(echo)}}]}, 422)
    assert isinstance(found, Failure)
    assert not any(name in found.words + found.said for name in echo)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 60, "completion_tokens": 8}, (60, 8)),
        ({"prompt_tokens": "60", "completion_tokens": "8"}, (60, 8)),
        ({"prompt_tokens": 59.5, "completion_tokens": 7.1}, (60, 8)),
        ({"input_tokens": 60, "output_tokens": 8}, (60, 8)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 8}, (None, 8)),
        ({"prompt_tokens": None, "completion_tokens": "many"}, (None, None)),
        ({"prompt_tokens": 10**12, "completion_tokens": float("inf")}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": [8]}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
        ([1], (None, None)),
    ],
)
def test_tokens_that_cannot_be_are_not_counted(usage: Any, tokens: tuple[int | None, int | None]) -> None:
    found = told(completion(usage=usage))
    assert isinstance(found, Completion)
    assert (found.prompt_tokens, found.completion_tokens) == tokens


def test_finish_reasons_that_end_an_answer_are_no_failures() -> None:
    for finish in [*LENGTH, *FILTER, "eos", "eos_token", "STOP", "stop_sequence", "end_turn", "COMPLETE", "tool_calls"]:
        found = told(completion(finish=finish))
        assert isinstance(found, Completion)
        assert found.finish == finish


NAMES = [
    "choices", "message", "content", "error", "code", "usage", "prompt_tokens", "text", "type", "thinking", "detail",
    "loc", "msg", "metadata", "raw", "finish_reason", "refusal", "delta",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(
    body=JSON | st.binary(max_size=40) | st.text(max_size=40),
    status=st.sampled_from([200, 204, 400, 404, 500]),
    charset=st.none() | st.sampled_from(["utf-8", "latin-1", "utf-16", "hex", "x"]),
)
def test_whatever_comes_is_a_completion_or_a_failure(body: Any, status: int, charset: str | None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = read(status, data, charset, lambda text: text)
    if isinstance(found, Failure):
        assert found.status >= 400 or not found.foreign
        found.said.encode()
        assert "\n" not in found.said
    else:
        assert status < 300
        assert isinstance(body, dict)
        found.text.encode()
