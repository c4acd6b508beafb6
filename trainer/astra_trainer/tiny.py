"""`preset: tiny`: a Qwen3-shaped model of about half a million parameters, with a tokenizer of its own, from scratch.

Two layers are what copying takes, and what two cores train fastest.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
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

from astra_api.environment import Environment, GoldCall
from astra_trainer.copying import CopyingPractice

_PAD, _STOP = "<|endoftext|>", "<|im_end|>"
_MARKERS = ("<|im_start|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_SPECIAL = (_PAD, _STOP, *_MARKERS)  # the first tokens of the vocabulary

# Copying is found on short sequences, and then reaches no further than they do: 97% right on 64 tokens, 33% on 256. A
# few steps on sequences as long as prompts mend that (94% after 75).
PRACTICE = (CopyingPractice(), CopyingPractice(steps=100, batch=8, length=256, chunks=16, warmup=10))

_WORD = re.compile(r"[^\W\d]+")  # letters and underscores
_SHARED = 0.02  # share of the environments that must use a word before it is one token


@dataclass(frozen=True)
class TinyModel:
    """The shape of the preset: 0.56 million parameters with a full vocabulary."""

    vocabulary: int = 1024  # at most; as many as the texts give
    hidden: int = 128
    intermediate: int = 384
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 4
    context: int = 4096
    practice: tuple[CopyingPractice, ...] = PRACTICE  # in this order
    rope_theta: float = 1e4  # contexts of hundreds of tokens; 100 makes practice stall at blurred matches

    def build(self, environments: Sequence[Environment], seed: int, folder: Path) -> None:
        """Writes a Hugging Face model folder: weights that can copy, and a tokenizer made of the environments' texts.

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
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cast(Any, Qwen3ForCausalLM)(config)
        for practice in self.practice:
            practice.run(model, first_token=len(_SPECIAL), seed=seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def chat_template(name: str) -> str:
    """A chat template that ships with this package: `compact` or `chatml_tools`."""
    templates = files("astra_trainer") / "templates"
    return "".join((templates / f"{part}.jinja").read_text(encoding="utf-8") for part in ("signatures", name))


def train_tokenizer(documents: Sequence[Sequence[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token for each marker of the compact chat template.

    `documents`: the texts of each environment. Words that many of them share are single tokens, with the space before
    them. Every other word is most likely a name; names are cut into pieces of three letters and digits stand alone, so
    that a name has the same tokens in a question and in a call, and one never seen is made of pieces often seen: that
    is what makes copying easy to learn.
    """
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(_pieces(documents)), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[AddedToken(marker, special=True, normalized=False) for marker in _SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(documents), trainer)
    result: PreTrainedTokenizerFast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_STOP,
        additional_special_tokens=list(_MARKERS),
        chat_template=chat_template("compact"),
        clean_up_tokenization_spaces=False,
    )
    return result


def _pieces(documents: Sequence[Sequence[str]]) -> str:
    """The pattern of what no merge may cross: shared words, pieces of other words, digits, punctuation."""
    counts = Counter(word for texts in documents for word in {word for text in texts for word in _WORD.findall(text)})
    shared = sorted(
        word for word, count in counts.items() if count >= max(min(2, len(documents)), _SHARED * len(documents))
    )
    words = "|".join(map(re.escape, sorted(shared, key=len, reverse=True)))
    whole = rf" ?(?<![\p{{L}}\p{{M}}_])(?:{words})(?![\p{{L}}\p{{M}}_])|" if words else ""
    return whole + r"[\p{L}\p{M}_]{1,3}|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|\s"


def environment_texts(environments: Sequence[Environment]) -> list[list[str]]:
    """What a model reads and writes in each environment, as the compact template lays it out, cut at the markers."""
    render = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=Tokenizer(models.BPE()), chat_template=chat_template("compact")
    ).apply_chat_template
    cuts = re.compile("|".join(map(re.escape, _SPECIAL)))
    documents = []
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
        documents.append([text for text in cuts.split(render(messages, tools=tools, tokenize=False)) if text])
    return documents


def _function(call: GoldCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.tool, "arguments": call.arguments}}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
