"""What an endpoint answered, in the shapes that endpoints have: a completion, or how the request failed.

Nothing here does I/O or raises: whatever the bytes are, they are one of the two.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LENGTH = {
    "length", "max_tokens", "max_length", "max_output_tokens", "model_length", "token_limit", "error_limit",
    "model_context_window_exceeded", "time_limit",
}  # fmt: skip
"""Finish reasons that mean that the answer was longer than it may be."""
FILTER = {
    "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
    "image_safety", "sensitive", "guardrail_intervened", "refusal", "error_toxic",
}  # fmt: skip
"""Finish reasons that mean that a filter or the model declined."""
_FAILED = {
    "error", "abort", "aborted", "cancelled", "canceled", "user_cancel", "network_error", "server_error", "timeout",
    "insufficient_system_resource", "failed",
}  # fmt: skip
_MOST_TOKENS = 100_000_000  # of one call; what tells of more counts something else
_SHOWN = 500  # characters of what an endpoint says
_DECLINED = re.compile(r"content.?filter|content.?policy|content.?management|flagged|moderation|responsible.?ai", re.I)

# What an error says in words, where it has no number: the first that is found decides.
_KINDS = (
    (402, re.compile(r"quota|billing|credit|payment|balance", re.I)),
    (429, re.compile(r"rate.?limit|too.?many|throttl|resource.?exhausted", re.I)),
    (503, re.compile(r"overload|capacity|unavailable|timed?.?out|internal|server.?error|upstream|provider", re.I)),
    (401, re.compile(r"api.?key|unauthori|authenticat|permission|forbidden|access.?denied", re.I)),
    (404, re.compile(r"not.?found|unexpected endpoint|unknown (?:path|endpoint|url|route)|does not exist", re.I)),
    (400, re.compile(r"invalid.?request|bad.?request|invalid.?argument|context.?length|unsupported|validation", re.I)),
)
_PARAMETERS = re.compile(r"\b(?:response_format|json_schema|structured.?outputs?|seed|temperature|max_tokens)\b", re.I)


@dataclass(frozen=True)
class Completion:
    """An answer of a model. Counts of tokens are None where the endpoint does not say them."""

    text: str
    finish: str
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Failure:
    """A request that brought no completion."""

    status: int  # of HTTP, or the one that a body with status 200 tells of
    said: str  # what a person should know
    words: str = ""  # all in which the endpoint may name a field of the request
    foreign: bool = False  # the answer is none of an endpoint for chats

    @property
    def declined(self) -> bool:
        """Whether a filter declined the prompt."""
        return self.status in (400, 403, 422) and _DECLINED.search(self.words) is not None


def read(status: int, content: bytes, charset: str | None, hide: Callable[[str], str]) -> Completion | Failure:
    """What a response means. `hide` takes secrets out of its text, before anything is made of it."""
    decoded = _decoded(content, charset)
    text = hide(content.decode("utf-8", "replace") if decoded is None else decoded)
    body = _parsed(text)
    if not 200 <= status < 300:
        said, words = _told(body, text)
        return Failure(status, f"HTTP {status} - {said}", words, foreign=status < 400)
    if decoded is None:
        return Failure(502, "no chat completion, but bytes that are no UTF-8 text", foreign=True)
    if isinstance(body, dict):
        choice = _first(body.get("choices"))
        if failed := body.get("error") or (choice or {}).get("error"):
            return _failed(failed)
        if choice is not None and (completion := _completion(choice, body.get("usage"))):
            if completion.finish.casefold() in _FAILED:
                return Failure(502, f"the answer ended with finish_reason {completion.finish}")
            return completion
        if _number(body) is not None:
            return _failed(body)
    said, words = _told(body, text)
    return Failure(502, f"no chat completion, but {said}", words, foreign=True)


def _failed(error: Any) -> Failure:
    """A failure that came with status 200."""
    body = error if isinstance(error, dict) else {"error": error}
    said, words = _told(body, "")
    number = _number(body)
    if number is None:
        named = " ".join(str(body.get(name) or "") for name in ("code", "type", "status"))
        number = next((kind for text in (named, words) for kind, known in _KINDS if known.search(text)), None)
    if number is None:
        number = 400 if _PARAMETERS.search(words) else 502
    return Failure(number, f"HTTP 200 with error {number} - {said}", words, foreign=number == 404)


def _number(error: dict[str, Any]) -> int | None:
    """The status that an error tells of in digits."""
    for name in ("code", "status", "status_code", "http_status", "error_code"):
        value = error.get(name)
        digits = str(int(value)) if isinstance(value, int | float) and math.isfinite(value) else str(value).strip()
        if re.fullmatch(r"[45]\d\d", digits):
            return int(digits)
    return None


def _decoded(content: bytes, charset: str | None) -> str | None:
    """The text of a response: UTF-8, as JSON is whatever its header says, else as its mark or its header says."""
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    mark = next((name for start, name in marks if content.startswith(start)), "utf-8")
    for name in (mark, charset):
        try:
            if name is not None:
                return content.decode(name)
        except (ValueError, LookupError):  # as UnicodeError is
            continue
    return None


def _parsed(text: str) -> Any:
    """The JSON of a response: one document, or one that was sent as a stream of events; None where it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _gathered(text) if re.match(r"\s*(?:data|event|id|retry)?:", text) else None


def _gathered(text: str) -> Any:
    """The completion that a stream of events makes. One that did not come to its end makes none."""
    content, finish, usage = {"content": "", "reasoning_content": ""}, None, None
    for line in text.splitlines():
        if not line.startswith("data:") or line[5:].strip() in ("", "[DONE]"):
            continue
        try:
            chunk = json.loads(line[5:])
        except (ValueError, RecursionError):
            return None
        if not isinstance(chunk, dict) or chunk.get("error"):
            return chunk
        usage = chunk.get("usage") or usage
        choice = _first(chunk.get("choices")) or {}
        delta = choice.get("delta")
        if isinstance(delta, dict):
            content = {name: said + _plain(delta.get(name)) for name, said in content.items()}
        finish = choice.get("finish_reason") or finish
    return {"choices": [{"message": content, "finish_reason": finish}], "usage": usage} if finish else None


def _first(choices: Any) -> dict[str, Any] | None:
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _completion(choice: dict[str, Any], usage: Any) -> Completion | None:
    message = choice.get("message")
    if not isinstance(message, dict):
        return None
    text, thoughts = _text(message.get("content"))
    if not text.strip():  # some servers take the answer itself for thoughts
        others = (_text(message.get(name))[0] for name in ("reasoning_content", "reasoning", "thinking"))
        text = next((other for other in others if other.strip()), thoughts)
    refusal = message.get("refusal")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        text=_sound(text),
        finish=_sound(str(choice.get("finish_reason") or "stop")),
        refusal=_sound(str(refusal)) if refusal else None,
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
    )


def _text(content: Any) -> tuple[str, str]:
    """(what a message says, what it thinks) of the forms that content has: a text, an object, or parts of both."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False), ""
    said, thought = [], []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, str):
            said.append(part)
        elif isinstance(part, dict) and re.search("think|reason", str(part.get("type"))):
            thought.append(_plain(part.get("thinking") or part.get("text")))
        elif isinstance(part, dict):
            said.append(_plain(part.get("text")))
    return "".join(said), "".join(thought)


def _plain(text: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(text, list):
        return "".join(part["text"] for part in text if isinstance(part, dict) and isinstance(part.get("text"), str))
    return text if isinstance(text, str) else ""


def _sound(text: str) -> str:
    """A text without halves of characters, which no file can hold; U+FFFD stands for them."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _count(usage: dict[str, Any], *names: str) -> int | None:
    """A number of tokens; None where it is missing, or cannot be one."""
    for name in names:
        value = usage.get(name)
        try:
            number = math.ceil(float(value)) if isinstance(value, int | float | str) and value is not True else 0
        except (ValueError, OverflowError):
            continue
        if 0 < number <= _MOST_TOKENS:
            return number
    return None


_SPEAKING = (
    "message", "msg", "error", "detail", "details", "errors", "error_description", "error_message", "status_msg",
    "reason", "title",
)  # fmt: skip
_DEEPEST = 8
_ECHOES = {"input", "ctx", "url"}  # of pydantic's errors: what was sent, all fields of a request among it


def _told(body: Any, text: str) -> tuple[str, str]:
    """(what to show, all words) of an answer that is an error, or is something else altogether."""
    if isinstance(body, dict | list) and body:
        words = list(_words(body))
        told = _message(body) or json.dumps(body)
        return _line(told), " ".join([told, *words])
    if not text.strip():
        return "an empty answer", ""
    if re.match(r"\s*<(?:!doctype|html|\?xml|head|body)", text, re.I):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
        return _line(f"an HTML page ({title[1]})" if title else "an HTML page"), text
    return _line(text), text


def _message(value: Any, depth: int = 0) -> str:
    """What a body says to a person, wherever it says it."""
    if isinstance(value, str):
        return value
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_message(item, depth + 1) for item in value[:5])))
    if not isinstance(value, dict):
        return ""
    told = next(filter(None, (_message(value.get(name), depth + 1) for name in _SPEAKING)), "")
    where = value.get("loc")
    if told and isinstance(where, list):
        return f"{'.'.join(map(str, where))}: {told}"
    raw = value.get("metadata")  # of gateways: what the model's own endpoint said
    inner = _message(raw.get("raw")) if isinstance(raw, dict) else ""
    return f"{told}: {inner}" if told and inner else told


def _words(value: Any, depth: int = 0) -> Iterator[str]:
    """All texts of a body, but for what it repeats of the request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and depth <= _DEEPEST:
        inner = (item for key, item in value.items() if key not in _ECHOES) if isinstance(value, dict) else value
        for item in inner:
            yield from _words(item, depth + 1)


def _line(text: str) -> str:
    """A text as one line that a terminal can show."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:_SHOWN]
