"""Chat templates as token sequences: token-exact, append-only, and closed to injected control tokens.

A rollout is a list of token ids that only grows: prompt, generated turn, tool responses, generated turn, ... What was
generated stays as it was sampled; it is decoded for reading and never encoded again. What is given is rendered by the
model's own chat template once and encoded in one piece.

Text that the template's author did not write (questions, tool documents, tool output) cannot become control tokens: a
marker such as `<|im_end|>` in it is encoded as plain text.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from astra_api.records import Message, ToolCall, ToolSpec
from astra_trainer.thoughts import Thought
from astra_trainer.tool_calls import END, START, THINK, THOUGHT, parse_tool_calls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters: stand for a marker while a template is rendered
_HELD = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_MARK = _OPEN + _CLOSE  # stands before a thought while a template is rendered: a template may leave thoughts out
_PROBE = "astra0probe"
_USUAL_CALLS = 32  # a turn: what surrounds more responses is rendered anew each time, not kept
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # what templates call the thought of a message
_NAMED = ("tool_use", "default")  # of several templates, the first of these is the one for conversations with tools


class ChatTemplateError(ValueError):
    """The tokenizer's chat template cannot carry multi-turn tool calls as this project needs; the message says why."""


_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)  # of the code in a template
_NO_PLACE = (
    "the chat template has no place for this thought; take it out, or give the model a chat template that writes "
    "reasoning_content"
)


class ChatFormat:
    """What a model's turns look like, as tokens.

    Works with any Hugging Face tokenizer whose chat template takes `tools` and writes calls as
    `<tool_call>{json}</tool_call>`; of several templates by name, the one called `tool_use`. `template_options` are
    passed to the template (`enable_thinking=False`). Raises ChatTemplateError for a template that cannot be used.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template_options: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self._template = _template(tokenizer.chat_template)
        self._options = dict(template_options or {})
        self._markers = _markers(tokenizer)
        self._reserved = frozenset(self._markers.values())
        alternatives = sorted(map(re.escape, self._markers), key=len, reverse=True)
        self._held = re.compile("|".join([*alternatives, f"[{_OPEN}{_CLOSE}]"]))
        self._stop, self.stop_ids = self._find_stop()
        self._responses: dict[int, list[str]] = {}  # template text around the observations, by their number
        self._before = self._render([_USER])
        self._opens_thought = self._before.rstrip().endswith(THINK)
        self._thought_field = next(filter(self._writes, _THOUGHTS), None)
        self._check()

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """The tokens a rollout starts from, up to the point where the assistant begins to write."""
        hold = _Hold(self._held)
        text = self._render([_openai(message, hold) for message in messages], hold(_documents(tools)))
        return self._encode(text, hold)

    def assistant_turn(
        self, content: str, calls: Sequence[ToolCall] = (), *, thought: Thought | None = None, answered: bool = True
    ) -> list[int]:
        """What the assistant writes after the generation prompt, stop token included: a demonstration's turn.

        A turn with calls is rendered as the template renders it before their responses, unless it is not `answered`,
        and as the last turn where the template would leave out its thought or what the prompt begins. Raises ValueError
        when a call's arguments are not a JSON object, and ChatTemplateError when the thought is left out all the same.
        """
        hold = _Hold(self._held)
        message = _openai(Message(role="assistant", content=content, tool_calls=tuple(calls)), hold)
        message |= self._thinking(thought, content, hold)
        responses = [{"role": "tool", "name": call.tool, "content": ""} for call in calls if answered]
        problem = "the chat template renders an assistant turn unlike its own generation prompt"
        for following in [_with_ids(message, responses), []] if responses else [[]]:
            whole = self._render([_USER, message, *following], generation_prompt=False)
            if not whole.startswith(self._before):
                continue
            turn = whole[len(self._before) :]
            said = turn[: self._stop_after(turn)]
            if thought is None or not thought.text.strip() or said.count(_MARK) == 1:
                return self._encode(said.replace(_MARK, ""), hold)
            problem = _NO_PLACE
        raise ChatTemplateError(problem)

    def tool_responses(self, observations: Sequence[str]) -> list[int]:
        """What stands between an assistant turn's stop token and the next point of generation.

        One observation a call, in listed order; at least one.
        """
        pieces = self._around(len(observations))
        ids = self._encode(pieces[0])
        for observation, piece in zip(observations, pieces[1:], strict=True):
            ids += self._encode_untrusted(observation)
            ids += self._encode(piece)
        return ids

    def parse(self, tokens: Sequence[int]) -> tuple[str, tuple[ToolCall, ...]]:
        """What a generated turn says: its text, and its calls in listed order. Never raises for what was generated.

        A call inside of `<think>...</think>` is a thought, not a call, wherever that stands and whether it ends or not.
        """
        ids = list(tokens)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        return parse_tool_calls(self.text(ids), thinking=self._opens_thought)

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as a person reads them, markers included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        generation_prompt: bool = True,
    ) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                chat_template=self._template,
                **self._options,
            )
        except _TEMPLATE_ERRORS as error:
            raise ChatTemplateError(f"the chat template refuses a conversation with tools: {error}") from None
        return str(text)

    def _writes(self, field: str) -> bool:
        """Whether the template writes what a message holds in this field."""
        message = {"role": "assistant", "content": "said", field: _PROBE}
        return self._render([_USER, message], generation_prompt=False).count(_PROBE) == 1

    def _thinking(self, thought: Thought | None, said: str, hold: "_Hold") -> dict[str, Any]:
        """The fields of a message through which the template gets the thought, marked. Raises ChatTemplateError."""
        if thought is None:
            return {}
        text = hold(thought.text)
        text = text.replace(core, _MARK + core) if (core := text.strip()) else text
        if self._thought_field is not None:
            return {self._thought_field: text, "content": hold(said.lstrip("\n") if thought.in_text else said)}
        if THOUGHT not in self._template and not (thought.in_text and thought.begun):
            raise ChatTemplateError(_NO_PLACE)
        written = thought.in_text and not self._opens_thought
        return {"content": Thought(text, in_text=written, begun=thought.begun).before(hold(said))}

    def _encode(self, text: str, hold: "_Hold | None" = None) -> list[int]:
        """Encodes rendered template text; what was held back is encoded as plain text."""
        if hold is None or not hold.texts:
            return self._ids(text) if text else []
        ids: list[int] = []
        for position, part in enumerate(_HELD.split(text)):
            if position % 2:
                ids += self._encode_untrusted(hold.texts[int(part)])
            elif part:
                ids += self._ids(part)
        return ids

    def _encode_untrusted(self, text: str) -> list[int]:
        """Encodes text in which no marker means anything: markers are cut after their first character."""
        ids: list[int] = []
        for part in _cut(text, self._held):
            encoded = self._ids(part)
            if not self._reserved.isdisjoint(encoded):  # a normalizer made a marker of what was none
                encoded = [token for char in part for token in self._ids(char)]
            if not self._reserved.isdisjoint(encoded):
                raise ValueError(f"the tokenizer makes a control token of {part[:40]!r}")
            ids += encoded
        return ids

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _find_stop(self) -> tuple[re.Pattern[str], frozenset[int]]:
        """The markers that end an assistant turn: the first after its text, with and without calls, and eos."""
        stops: dict[str, int] = {}
        ends = set(self.tokenizer.all_special_ids)
        ends |= {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        special = {text: token for text, token in self._markers.items() if token in ends and text not in (START, END)}
        pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        for calls in ((), (ToolCall(tool=_PROBE, arguments_json="{}"),)):
            message = _openai(Message(role="assistant", content=_PROBE, tool_calls=calls), _Hold(None))
            text = self._render([_USER, message], generation_prompt=False)
            if (found := pattern.search(text, text.rindex(_PROBE))) is None:
                raise ChatTemplateError("the chat template ends an assistant turn with no special token")
            stops[found.group()] = special[found.group()]
        eos = self.tokenizer.eos_token_id
        ids = frozenset(stops.values()) | ({eos} if isinstance(eos, int) else frozenset())
        return re.compile("|".join(map(re.escape, stops))), ids

    def _stop_after(self, text: str, position: int = 0) -> int:
        found = self._stop.search(text, position)
        if found is None:
            raise ChatTemplateError("the chat template ends an assistant turn with no special token")
        return found.end()

    def _around(self, count: int) -> list[str]:
        """The template's text before, between and after `count` observations, the assistant's stop token left out."""
        if count < 1:
            raise ValueError("a turn without calls has no tool responses")
        if count in self._responses:
            return self._responses[count]
        calls = tuple(ToolCall(tool=_PROBE, arguments_json="{}") for _ in range(count))
        marks = [f"{_OPEN}{index}{_CLOSE}" for index in range(count)]
        turn = _openai(Message(role="assistant", content=_PROBE, tool_calls=calls), _Hold(None))
        answers = [{"role": "tool", "name": _PROBE, "content": mark} for mark in marks]
        text = self._render([_USER, turn, *_with_ids(turn, answers)])
        pieces = _HELD.split(text)
        if pieces[1::2] != [str(index) for index in range(count)]:
            raise ChatTemplateError("the chat template does not render every tool response once, in order")
        texts = pieces[0::2]
        texts[0] = texts[0][self._stop_after(texts[0], texts[0].index(_PROBE)) :]
        if count <= _USUAL_CALLS:
            self._responses[count] = texts
        return texts

    def _check(self) -> None:
        """Fails now, with a reason, rather than in the middle of a run."""
        tool = ToolSpec(name=_PROBE, description="", parameters={"type": "object", "properties": {}})
        if _PROBE not in self._render([_USER], _documents([tool])):
            raise ChatTemplateError("the chat template ignores `tools`: bring one that lists them")
        calls = (ToolCall(tool=_PROBE, arguments_json='{"x":"</y>"}'), ToolCall(tool=_PROBE, arguments_json="{}"))
        _, read = self.parse(self.assistant_turn("", calls))
        if [(call.tool, json.loads(call.arguments_json)) for call in read] != [(_PROBE, {"x": "</y>"}), (_PROBE, {})]:
            raise ChatTemplateError("the chat template does not write calls as <tool_call>{json}</tool_call>")
        self._around(2)
        if self.text(self._ids("a") + self._ids("b")) != "ab":
            raise ChatTemplateError("the tokenizer adds a space before each piece: pieces cannot be appended exactly")


_USER: Mapping[str, Any] = {"role": "user", "content": "astra0user"}


class _Hold:
    """Takes the markers out of untrusted values before they reach a template, and remembers them."""

    def __init__(self, markers: re.Pattern[str] | None):
        self._markers = markers
        self.texts: list[str] = []

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._markers.sub(self._take, value) if self._markers else value
        if isinstance(value, Mapping):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def _take(self, found: re.Match[str]) -> str:
        self.texts.append(found.group())
        return f"{_OPEN}{len(self.texts) - 1}{_CLOSE}"


def _template(given: str | Mapping[str, str] | None) -> str:
    """The one template that conversations with tools are rendered by."""
    if not given:
        raise ChatTemplateError("the tokenizer has no chat template: add chat_template.jinja to the model's folder")
    if isinstance(given, str):
        return given
    if (name := next((name for name in _NAMED if name in given), None)) is None:
        names = ", ".join(sorted(given))
        raise ChatTemplateError(f"the tokenizer has chat templates by the names {names}: name one of them tool_use")
    return given[name]


def _markers(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Text -> id of the tokens that mean something: every special or added token but runs of white space."""
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {text: index for text, index in (added | special).items() if len(text) > 1 and not text.isspace()}


def _cut(text: str, markers: re.Pattern[str]) -> list[str]:
    """`text` in pieces none of which holds a whole marker."""
    cuts = [0, *(found.start() + 1 for found in markers.finditer(text)), len(text)]
    return [text[first:last] for first, last in pairwise(cuts) if first < last]


def _documents(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    return [tool.as_openai() for tool in tools]


def _openai(message: Message, hold: Callable[[Any], Any]) -> dict[str, Any]:
    """A message as chat templates take it. Raises ValueError when arguments are not a JSON object."""
    result: dict[str, Any] = {"role": message.role, "content": hold(message.content)}
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "type": "function",
                "id": f"call{index:05}",  # nine letters: the strictest templates ask for exactly that
                "function": {"name": hold(call.tool), "arguments": hold(_arguments(call))},
            }
            for index, call in enumerate(message.tool_calls)
        ]
    return result


def _with_ids(turn: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**answer, "tool_call_id": call["id"]} for call, answer in zip(turn["tool_calls"], answers, strict=True)]


def _arguments(call: ToolCall) -> dict[str, Any]:
    value = json.loads(call.arguments_json)
    if not isinstance(value, dict):
        raise ValueError(f"arguments of {call.tool} are not a JSON object: {call.arguments_json[:80]}")
    return value
