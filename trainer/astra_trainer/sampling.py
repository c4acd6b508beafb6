"""Sampling whose every draw is a function of (distribution, seed, position), whatever else is in the batch."""

from collections.abc import Sequence

import numpy as np
import torch


def uniforms(seed: int, start: int, count: int) -> list[float]:
    """Draws `start` to `start + count` in [0, 1) of the stream of a seed (counter-based: any part is cheap)."""
    bits = np.random.Philox(key=seed % 2**64).advance(start // 4)  # four draws a counter step
    return [float(u) for u in np.random.Generator(bits).random(start % 4 + count)[start % 4 :]]


def sample(
    logits: torch.Tensor, temperatures: Sequence[float], draws: Sequence[float]
) -> tuple[list[int], list[float]]:
    """One token a row of `logits` (rows, vocabulary), and its log-probability.

    A row with temperature 0 is greedy, and its log-probability is the plain distribution's. Otherwise the token is
    where `draws[i]` falls in the row's cumulative distribution at its temperature, in token order.
    Raises FloatingPointError when the model gave no distribution: weights that diverged must not become rollouts.
    """
    device = logits.device
    heat = torch.tensor([t or 1.0 for t in temperatures], dtype=torch.float32, device=device)
    logprobs = torch.log_softmax(logits.float() / heat.unsqueeze(-1), dim=-1)
    tokens = logprobs.argmax(dim=-1)
    if any(temperatures):
        mass = logprobs.exp().double().cumsum(dim=-1)
        point = torch.tensor(draws, dtype=torch.float64, device=device).unsqueeze(-1) * mass[:, -1:]
        drawn = torch.searchsorted(mass, point, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
        tokens = torch.where(torch.tensor([t > 0 for t in temperatures], device=device), drawn, tokens)
    chosen = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    if not torch.isfinite(chosen).all():
        raise FloatingPointError("the model's logits are not finite: training has diverged; lower the learning rate")
    return tokens.tolist(), chosen.tolist()
