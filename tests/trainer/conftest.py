"""A small real tokenizer with chat templates of several families, environments over a table of cities, policies."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from astra_api.environment import Environment
from astra_sandbox.fake import FakeSandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generation
from astra_trainer.tiny import chat_template

# Hermes calls in ChatML, as Qwen2.5 lays them out.
HERMES = """\
{%- if tools %}<|im_start|>system
# Tools
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ message.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- else %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ '\\n' }}{% endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As Qwen3: an empty thought before the last assistant turn, written into the prompt when thinking is off.
THINKING = HERMES.replace(
    "{% if message.content %}{{ message.content }}{% endif %}",
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}",
).replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
)

# As Llama 3: headers, another end of turn for calls, one message a tool response.
HEADERS = """\
{%- for message in messages %}
{%- if loop.first and tools %}<|start_header_id|>system<|end_header_id|>

{{ tools | tojson }}<|eot_id|>{% endif %}<|start_header_id|>
{%- if message.role == 'tool' %}ipython{% else %}{{ message.role }}{% endif %}<|end_header_id|>

{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- if message.tool_calls %}<|eom_id|>{% else %}<|eot_id|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

TEMPLATES = {
    "hermes": HERMES,
    "thinking": THINKING,
    "headers": HEADERS,
    "compact": chat_template("compact"),
    "chatml_tools": chat_template("chatml_tools"),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"]
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]

CITIES = {"paris": 2148000, "rome": 2873000, "oslo": 709000}
CITY_SOURCE = f"""
_CITIES = {CITIES!r}


def city_population(city: str) -> int:
    return _CITIES[city.strip().lower()]


def difference(a: int, b: int) -> int:
    return abs(a - b)
"""


def _tool(name: str, description: str, **types: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in types.items()},
        "required": list(types),
        "additionalProperties": False,
    }
    return {"name": name, "description": description, "parameters": parameters}


CITY_TOOLS = [
    _tool("city_population", "Population of a city at the last census.", city="string"),
    _tool("difference", "Absolute difference of two numbers.", a="integer", b="integer"),
]


def _train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        '{"name": "city_population", "arguments": {"city": "Paris"}} tool function parameters object properties',
        "How many more people live in the larger of Paris and Rome? The answer is 725000.",
        "user assistant system required additionalProperties false description Population of a city",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 20, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    """A tokenizer with the given template."""
    trained = _train_tokenizer().to_str()

    def make(template: str) -> PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(trained),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=SPECIAL,
        )
        tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def chat(make_tokenizer: Callable[[str], PreTrainedTokenizerFast]) -> ChatFormat:
    return ChatFormat(make_tokenizer(HERMES))


@pytest.fixture(scope="session", params=sorted(TEMPLATES))
def any_chat(request: pytest.FixtureRequest, make_tokenizer: Callable[[str], PreTrainedTokenizerFast]) -> ChatFormat:
    """A chat format of each template family."""
    return ChatFormat(make_tokenizer(TEMPLATES[request.param]))


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    return TEMPLATES


MakeEnvironment = Callable[..., Environment]


@pytest.fixture(scope="session")
def make_environment() -> MakeEnvironment:
    """The larger of two cities by how much, unless `spec` fields say otherwise."""

    def make(name: str = "cities", labels: dict[str, str] | None = None, **spec: Any) -> Environment:
        fields: dict[str, Any] = {
            "question": "How many more people live in the larger of Paris and Rome?",
            "answer": 725000,
            "domain": "geography",
            "scenario": "parallel-multi-hop",
            "steps": [
                _step("s1", 2148000, [], "city_population", city="Paris"),
                _step("s2", 2873000, [], "city_population", city="Rome"),
                _step("s3", 725000, ["s1", "s2"], "difference", a=2148000, b=2873000),
            ],
            "tools": CITY_TOOLS,
            "source": CITY_SOURCE,
        }
        return Environment.model_validate({"metadata": {"name": name, "labels": labels or {}}, "spec": fields | spec})

    return make


def _step(name: str, answer: Any, depends_on: list[str], tool: str, **arguments: Any) -> dict[str, Any]:
    call = {"tool": tool, "arguments": arguments}
    return {"id": name, "question": f"{name}?", "answer": answer, "dependsOn": depends_on, "call": call}


@pytest.fixture(scope="session")
def other_environments(make_environment: MakeEnvironment) -> list[Environment]:
    """Environments of other domains, whose tools can be mixed in; `echo` really runs."""
    source = "def echo(text: str) -> str:\n    return text\n\n\ndef mass(element: str) -> float:\n    return 1.008\n"
    texts = [
        ("words", _tool("echo", "Repeats a text.", text="string"), {"text": "hi"}, "hi"),
        ("chemistry", _tool("mass", "Atomic mass of an element.", element="string"), {"element": "H"}, 1.008),
    ]
    return [
        make_environment(
            name=domain,
            domain=domain,
            question=f"{domain}?",
            answer=answer,
            scenario="single-hop",
            steps=[_step("s1", answer, [], tool["name"], **arguments)],
            tools=[tool],
            source=source,
        )
        for domain, tool, arguments, answer in texts
    ]


class ScriptedPolicy:
    """A deterministic Generator: turn n of a rollout is `turns[n]`, whatever the context says."""

    def __init__(self, chat: ChatFormat, turns: Sequence[Sequence[int]]):
        self._stop_ids = chat.stop_ids
        self._turns = [list(turn) for turn in turns]
        self.contexts: list[tuple[int, ...]] = []

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        now = tuple(context)
        turn = sum(now != earlier and now[: len(earlier)] == earlier for earlier in set(self.contexts))
        self.contexts.append(now)
        tokens = self._turns[turn][:max_tokens]
        return Generation(tokens, [-0.5] * len(tokens), ended=bool(tokens) and tokens[-1] in self._stop_ids)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedPolicy]:
    return ScriptedPolicy


def city_population(city: str) -> int:
    """As in CITY_SOURCE, for the in-memory sandbox, which runs no source."""
    return CITIES[city.strip().lower()]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "city_population": city_population,
    "difference": lambda a, b: abs(a - b),
    "echo": lambda text: text,
    "mass": lambda element: 1.008,
}


@pytest.fixture
def fake_sandbox() -> FakeSandbox:
    return FakeSandbox(FUNCTIONS)
