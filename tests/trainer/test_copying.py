"""Copying practice: what it asks for can be known, it is a function of its seed, and it teaches copying."""

from itertools import pairwise
from typing import Any, cast

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from astra_trainer.copying import CopyingPractice

FIRST, VOCABULARY = 7, 60


def small_model(seed: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(Any, Qwen3ForCausalLM)(config)


@st.composite
def practices(draw: st.DrawFn) -> CopyingPractice:
    chunks, width = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    return CopyingPractice(batch=draw(st.integers(1, 4)), length=2 * chunks * width, chunks=chunks)


@settings(max_examples=60, deadline=None)
@given(practice=practices(), seed=st.integers(0, 2**32))
def test_what_is_asked_stood_after_the_same_token_before(practice: CopyingPractice, seed: int) -> None:
    tokens, known = practice.sequences(FIRST, 10_000, torch.Generator().manual_seed(seed))
    assert tokens.shape == known.shape == (practice.batch, practice.length)
    assert int(tokens.min()) >= FIRST
    width = practice.length // (2 * practice.chunks)
    assert known.sum(dim=1).tolist() == [practice.chunks * (width - 1)] * practice.batch
    for row, asked in zip(tokens.tolist(), known.tolist(), strict=True):
        pairs = list(pairwise(row))
        for place in range(1, practice.length):
            if asked[place]:
                assert (row[place - 1], row[place]) in pairs[: place - 1]


@settings(max_examples=20, deadline=None)
@given(practice=practices(), seed=st.integers(0, 2**32))
def test_the_second_half_is_the_first_in_another_order(practice: CopyingPractice, seed: int) -> None:
    tokens, known = practice.sequences(FIRST, VOCABULARY, torch.Generator().manual_seed(seed))
    first, second = tokens.chunk(2, dim=1)
    assert first.sort(dim=1).values.equal(second.sort(dim=1).values)
    assert not known[:, : practice.length // 2].any()


def test_practice_is_a_function_of_its_seed() -> None:
    practice = CopyingPractice(steps=3, batch=4)
    weights = []
    for seed in (0, 0, 1):
        model = small_model(0)
        practice.run(model, FIRST, seed)
        assert not model.training
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_practice_teaches_copying() -> None:
    practice = CopyingPractice(steps=200, batch=16, length=32, chunks=2, warmup=20)
    model = small_model(0)
    guessed = CopyingPractice(steps=1, batch=16, length=32, chunks=2, learning_rate=1e-9).run(small_model(0), FIRST, 1)
    assert guessed < 0.2
    assert practice.run(model, FIRST, 0) > 0.5
