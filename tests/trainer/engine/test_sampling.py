"""Draws depend on seed and position alone; tokens fall as the distribution says."""

import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from astra_trainer.sampling import sample, uniforms

SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS, st.integers(0, 100), st.integers(0, 40))
def test_any_part_of_a_stream_is_that_part(seed: int, start: int, count: int) -> None:
    assert uniforms(seed, start, count) == uniforms(seed, 0, start + count)[start:]


@given(SEEDS)
def test_draws_are_in_the_unit_interval_and_differ(seed: int) -> None:
    draws = uniforms(seed, 0, 50)
    assert all(0.0 <= draw < 1.0 for draw in draws)
    assert len(set(draws)) == 50
    assert draws != uniforms(seed + 1, 0, 50)


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True), st.sampled_from([0.3, 1.0, 2.0]))
def test_a_row_does_not_see_the_other_rows(seed: int, draw: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 30, generator=generator)
    together = sample(logits, [temperature, 0.0, 1.0, 0.7], [draw, 0.0, 0.5, 0.9])
    alone = sample(logits[:1], [temperature], [draw])
    assert (together[0][0], together[1][0]) == (alone[0][0], alone[1][0])


def test_greedy_takes_the_likeliest_and_gives_its_plain_log_probability() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    tokens, logprobs = sample(logits, [0.0], [0.99])
    assert tokens == [1]
    assert math.isclose(logprobs[0], torch.log_softmax(logits[0], 0)[1].item(), rel_tol=1e-6)


def test_tokens_fall_as_the_tempered_distribution_says() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, float("-inf")]])
    count = 4000
    tokens, logprobs = sample(logits.expand(count, -1), [0.5] * count, uniforms(7, 0, count))
    expected = torch.softmax(logits[0] / 0.5, 0)
    found = Counter(tokens)
    for token in range(3):
        assert abs(found[token] / count - expected[token].item()) < 0.03
        at = tokens.index(token)
        assert math.isclose(logprobs[at], expected[token].log().item(), rel_tol=1e-5)
    assert not found[3]
