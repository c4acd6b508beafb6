"""Turns tool documents into vectors whose cosine says how alike two tools are."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astra_api.records import ToolSpec

Vectors = NDArray[np.float32]  # (texts, dimensions)


class Embedder(Protocol):
    """Texts to vectors; equal inputs give equal vectors, on every machine as far as float arithmetic allows."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row a text, of length 1 (0 for a text that says nothing)."""
        ...


class NgramEmbedder:
    """Hashed TF-IDF of words, word pairs and character trigrams: no model, no download, the same everywhere."""

    def __init__(self, dimensions: int = 1024):
        self._dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Rows of length 1. Document frequencies are those of `texts`: embed a corpus in one call."""
        counts = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            for gram, count in Counter(_grams(text)).items():
                counts[row, zlib.crc32(gram.encode()) % self._dimensions] += count
        frequency = (counts > 0).sum(axis=0)
        weights = np.log((1 + len(texts)) / (1 + frequency)) + 1
        return _unit(np.log1p(counts) * weights.astype(np.float32))


class TransformerEmbedder:
    """Mean-pooled hidden states of a sentence encoder in a Hugging Face folder (all-MiniLM-L6-v2 and its kind)."""

    def __init__(self, folder: str | Path, batch_size: int = 64):
        from transformers import AutoModel, AutoTokenizer

        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: not a folder with a sentence encoder")
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self._model: Any = AutoModel.from_pretrained(str(folder)).eval()
        self._batch_size = batch_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        import torch

        rows: list[Vectors] = []
        limit = self._model.config.max_position_embeddings
        for first in range(0, len(texts), self._batch_size):
            batch = self._tokenizer(
                list(texts[first : first + self._batch_size]),
                padding=True,
                truncation=True,
                max_length=min(limit, self._tokenizer.model_max_length),
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = self._model(**batch).last_hidden_state  # (batch, tokens, width)
            weights = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            rows.append(((hidden * weights).sum(1) / weights.sum(1)).float().numpy())
        return _unit(np.concatenate(rows)) if rows else np.zeros((0, 1), dtype=np.float32)


def tool_document(tool: ToolSpec) -> str:
    """What a tool says of itself, as text: name, description, and the parameters with their descriptions."""
    return " ".join([tool.name, tool.description, *_words_of_schema(tool.parameters)])


def _words_of_schema(schema: Any) -> Iterator[str]:
    """Property names and descriptions anywhere in a JSON Schema, keywords left out."""
    if isinstance(schema, dict):
        if isinstance(description := schema.get("description"), str):
            yield description
        properties = schema.get("properties")
        if isinstance(properties, dict):
            for name, property_schema in properties.items():
                yield name
                yield from _words_of_schema(property_schema)
        yield from _words_of_schema(schema.get("items"))


def _grams(text: str) -> Iterator[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)  # camelCase is two words
    words = re.findall(r"[^\W_]+", spaced.casefold())
    yield from words
    yield from (f"{left} {right}" for left, right in pairwise(words))
    for word in words:
        padded = f"#{word}#"
        yield from (padded[start : start + 3] for start in range(len(padded) - 2))


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return unit
