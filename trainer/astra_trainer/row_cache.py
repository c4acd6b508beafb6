"""Keys and values of a changing set of sequences: one row a sequence, and a store of rows that may be wanted again."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedConfig


class RowCache(Cache):
    """A cache whose rows have their own lengths, and come and go.

    One tensor (layers, keys and values, rows, heads, tokens, head size) grows as needed. Before a forward pass, `aim`
    says which rows take part and where in each the new tokens go; the model then calls `update` layer by layer.
    """

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device):
        super().__init__(layers=[])
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._store = torch.empty((config.num_hidden_layers, 2, 0, heads, 0, size), dtype=dtype, device=device)
        self.bytes_per_token = config.num_hidden_layers * 2 * heads * size * self._store.element_size()
        self._aim: tuple[torch.Tensor, torch.Tensor, slice, int] | None = None

    def reserve(self, rows: int, tokens: int) -> None:
        """Makes room for at least so many rows of so many tokens; what is held stays."""
        _, _, had_rows, _, had_tokens, _ = self._store.shape
        if rows <= had_rows and tokens <= had_tokens:
            return
        tokens = max(had_tokens, -(-tokens // 128) * 128)
        shape = (*self._store.shape[:2], max(rows, had_rows), self._store.shape[3], tokens, self._store.shape[5])
        grown = self._store.new_zeros(shape)  # not empty: a masked NaN would still spread
        grown[:, :, :had_rows, :, :had_tokens] = self._store
        self._store = grown

    def aim(self, first: int, positions: torch.Tensor, span: int) -> None:
        """The next pass is over rows `first`... and writes at `positions` (rows, tokens); it reads `span` tokens."""
        rows = torch.arange(first, first + len(positions), device=positions.device)
        self._aim = rows.unsqueeze(-1), positions, slice(first, first + len(positions)), span

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (rows, heads, tokens, head size) where `aim` said; returns all keys and values up to its span."""
        if self._aim is None:
            raise RuntimeError("aim comes before the forward pass")
        rows, positions, block, span = self._aim
        keys, values = self._store[layer_idx]
        keys[rows, :, positions] = key_states.transpose(1, 2)
        values[rows, :, positions] = value_states.transpose(1, 2)
        return keys[block, :, :span], values[block, :, :span]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are always given

    def read(self, row: int, tokens: int) -> torch.Tensor:
        """A copy of a row's first tokens: (layers, 2, heads, tokens, head size)."""
        return self._store[:, :, row, :, :tokens].clone()

    def write(self, row: int, content: torch.Tensor) -> None:
        """Puts what `read` gave at the start of a row."""
        self._store[:, :, row, :, : content.shape[-2]] = content

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first tokens over another row."""
        self._store[:, :, target, :, :tokens] = self._store[:, :, source, :, :tokens]


class PrefixStore:
    """Keys and values of token sequences, found again by the longest one that a context begins with.

    Holds at most `capacity` bytes; the least recently used goes first.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._held: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._lengths: dict[int, int] = {}  # how many of each length are held
        self._bytes = 0

    def find(self, tokens: Sequence[int]) -> torch.Tensor | None:
        """The content of the longest held sequence that `tokens` begins with (or is)."""
        packed = _packed(tokens)
        for length in sorted(self._lengths, reverse=True):
            if length <= len(tokens) and (content := self._held.get(packed[: 4 * length])) is not None:
                self._held.move_to_end(packed[: 4 * length])
                return content
        return None

    def put(self, tokens: Sequence[int], content: torch.Tensor) -> None:
        """Holds the content of a sequence; `content.shape[-2]` is its length."""
        key = _packed(tokens)
        if key in self._held or not tokens or _bytes(content) > self._capacity:
            return
        self._held[key] = content
        self._lengths[len(tokens)] = self._lengths.get(len(tokens), 0) + 1
        self._bytes += _bytes(content)
        while self._bytes > self._capacity:
            dropped, old = self._held.popitem(last=False)
            self._bytes -= _bytes(old)
            length = len(dropped) // 4
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]


def _packed(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int32).tobytes()


def _bytes(content: torch.Tensor) -> int:
    return content.numel() * content.element_size()
