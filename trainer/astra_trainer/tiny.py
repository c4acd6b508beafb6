"""`preset: tiny`: a Qwen3-shaped model of about a million parameters, with a tokenizer of its own, from scratch."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from astra_api.environment import Environment, GoldCall
from tokenizers import (  # type: ignore[import-untyped]
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

_PAD, _STOP = "<|endoftext|>", "<|im_end|>"
_MARKERS = ("<|im_start|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# Words are cut so that a name has the same tokens in a question and in a call's arguments, which makes copying easy to
# learn: a space joins the lower-case word or the punctuation after it, never a capitalised word. Digits stand alone.
_WORDS = Regex(r" ?\p{Ll}[\p{Ll}\p{M}_]*|\p{L}[\p{L}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+|\s")


@dataclass(frozen=True)
class TinyModel:
    """The shape of the preset: 0.95 million parameters with a full vocabulary."""

    vocabulary: int = 1024  # at most; as many as the texts give
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 4
    context: int = 4096

    def build(self, environments: Sequence[Environment], seed: int, folder: Path) -> None:
        """Writes a Hugging Face model folder: random weights, and a tokenizer trained on the environments' texts.

        Deterministic in (environments, seed). Give it the training environments only: the tokenizer must not have seen
        the held-out ones.
        """
        tokenizer = train_tokenizer(environment_texts(environments), self.vocabulary)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.hidden // self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cast(Any, Qwen3ForCausalLM)(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def chat_template(name: str) -> str:
    """A chat template that ships with this package: `compact` or `chatml_tools`."""
    templates = files("astra_trainer") / "templates"
    return "".join((templates / f"{part}.jinja").read_text(encoding="utf-8") for part in ("signatures", name))


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token for each marker of the compact chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[AddedToken(marker, special=True, normalized=False) for marker in (_PAD, _STOP, *_MARKERS)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    result: PreTrainedTokenizerFast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_STOP,
        additional_special_tokens=list(_MARKERS),
        chat_template=chat_template("compact"),
        clean_up_tokenization_spaces=False,
    )
    return result


def environment_texts(environments: Sequence[Environment]) -> Iterator[str]:
    """What a model reads and writes in these environments, as the compact template lays it out, cut at the markers."""
    render = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=Tokenizer(models.BPE()), chat_template=chat_template("compact")
    ).apply_chat_template
    cuts = re.compile("|".join(map(re.escape, (_PAD, _STOP, *_MARKERS))))
    for environment in sorted(environments, key=lambda environment: environment.digest):
        spec = environment.spec
        messages: list[dict[str, Any]] = [{"role": "user", "content": spec.question}]
        for step in spec.tool_steps:
            if step.call is not None:
                messages.append({"role": "assistant", "content": "", "tool_calls": [_function(step.call)]})
                messages.append({"role": "tool", "content": _text(step.answer)})
        answer = spec.answer if isinstance(spec.answer, str) else _text(spec.answer)
        messages.append({"role": "assistant", "content": answer})
        tools = [tool.spec().as_openai() for tool in spec.tools]
        yield from filter(None, cuts.split(render(messages, tools=tools, tokenize=False)))


def _function(call: GoldCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.tool, "arguments": call.arguments}}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
