"""What a rollout asks of a policy: the next tokens after a context. Free of torch: the data side imports it alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Generation:
    """One sampled continuation.

    `tokens` are the sampled ids, the stop token included when there is one; `logprobs[i]` is the natural
    log-probability of `tokens[i]` under the distribution it was sampled from (at temperature 0: under the plain one).
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool  # a stop token was produced; False when `max_tokens` or the model's context ran out


class Generator(Protocol):
    """A policy that samples. Implementations batch whatever is asked of them at the same time."""

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        """Samples at most `max_tokens` tokens after `context`.

        The result depends on (weights, context, temperature, seed), and on nothing else that runs meanwhile, as far as
        float arithmetic allows. Temperature 0 is greedy.
        """
        ...
