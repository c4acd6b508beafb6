"""Copying practice: what every pretrained language model brings and random weights lack.

To call a tool is mostly to copy: a tool's name from its description, an entity from the question. Random weights that
see a thousand demonstrations learn those by heart instead. So a model from scratch first practises on random tokens:
chunks, then the same chunks in another order, with a loss only where the next token can be known from its earlier
place. No text and no environment is involved: what comes out is a function of the seed, and knows no task.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@dataclass(frozen=True)
class CopyingPractice:
    """How much practice, and on what: half of a sequence of `length` tokens is `chunks` chunks, half repeats them."""

    steps: int = 500
    batch: int = 32  # sequences a step
    length: int = 64
    chunks: int = 4
    learning_rate: float = 3e-3
    warmup: int = 50  # steps

    def run(self, model: PreTrainedModel, first_token: int, seed: int) -> float:
        """Trains the model in place on tokens from `first_token` on; the accuracy on the last batch."""
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        head = cast(torch.nn.Module, cast(Any, model).get_output_embeddings())
        accuracy = 0.0
        model.train()
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * min(1.0, (step + 1) / self.warmup)
            tokens, known = self.sequences(first_token, int(model.config.vocab_size), generator)
            hidden = model.base_model(tokens).last_hidden_state[:, :-1][known[:, 1:]]
            logits = head(hidden)
            targets = tokens[:, 1:][known[:, 1:]]
            optimizer.zero_grad()
            cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            accuracy = float((logits.argmax(-1) == targets).float().mean())
        torch.nn.Module.eval(model)
        return accuracy

    def sequences(
        self, first_token: int, vocabulary: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (batch, length), and where each can be known from an earlier place: all of a repeated chunk but its
        first token."""
        width = self.length // (2 * self.chunks)
        shape = (self.batch, self.chunks, width)
        chunks = torch.randint(first_token, vocabulary, shape, generator=generator)
        order = torch.rand(shape[:2], generator=generator).argsort(dim=1)
        repeated = chunks.gather(1, order.unsqueeze(-1).expand(shape))
        known = torch.zeros((self.batch, 2, self.chunks, width), dtype=torch.bool)
        known[:, 1, :, 1:] = True
        return torch.cat([chunks.flatten(1), repeated.flatten(1)], dim=1), known.flatten(1)
