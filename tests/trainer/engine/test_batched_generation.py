"""Batched generation against transformers' own, one at a time."""

import asyncio
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from astra_trainer.batched_generation import BatchedGenerator
from astra_trainer.generation import Generation
from astra_trainer.models import load_policy


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, model_folder: Path) -> PreTrainedModel:
    """Two architectures with weights far from uniform; both with fewer key-value heads than heads."""
    if request.param == "qwen3":
        model = load_policy(model_folder, "cpu")
    else:
        config = LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, attn_implementation="sdpa",
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    return model


def contexts(count: int = 9) -> list[list[int]]:
    rng = random.Random(0)
    found = [[rng.randrange(8, 280) for _ in range(rng.randint(1, 60))] for _ in range(count)]
    return [*found, found[0], found[1][:1]]  # a twin, and a shorter start of another


def plain_greedy(model: PreTrainedModel, context: list[int], count: int) -> list[int]:
    tokens = list(context)
    for _ in range(count):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(context) :]


def plain_logprobs(model: PreTrainedModel, context: list[int], tokens: list[int], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([context + tokens])).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


async def ask(generator: BatchedGenerator, prompts: list[list[int]], temperature: float) -> list[Generation]:
    return list(
        await asyncio.gather(
            *(
                generator.generate(prompt, max_tokens=12 + i, temperature=temperature, seed=i)
                for i, prompt in enumerate(prompts)
            )
        )
    )


async def test_greedy_equals_unbatched_decoding(model: PreTrainedModel) -> None:
    found = await ask(BatchedGenerator(model, {-1}, rows=4), contexts(), 0.0)
    for i, (context, generation) in enumerate(zip(contexts(), found, strict=True)):
        assert generation.tokens == plain_greedy(model, context, 12 + i)
        assert not generation.ended


async def test_a_sample_depends_on_its_seed_and_not_on_its_company(model: PreTrainedModel) -> None:
    together = await ask(BatchedGenerator(model, {-1}), contexts(), 1.0)
    for i, (context, generation) in enumerate(zip(contexts(), together, strict=True)):
        lonely = BatchedGenerator(model, {-1})
        alone = await lonely.generate(context, max_tokens=12 + i, temperature=1.0, seed=i)
        assert alone.tokens == generation.tokens
    assert together[0].tokens != together[9].tokens[:12]  # the same context under another seed


@pytest.mark.parametrize("temperature", [0.5, 1.0])
async def test_log_probabilities_are_the_models(model: PreTrainedModel, temperature: float) -> None:
    found = await ask(BatchedGenerator(model, {-1}), contexts(), temperature)
    for context, generation in zip(contexts(), found, strict=True):
        expected = plain_logprobs(model, context, generation.tokens, temperature)
        assert torch.allclose(torch.tensor(generation.logprobs), expected, atol=1e-4)


async def test_the_next_turn_computes_only_what_is_new(model: PreTrainedModel) -> None:
    generator = BatchedGenerator(model, {-1})
    first = await ask(generator, contexts(), 0.0)
    before = generator.prefilled
    following = [[*context, *turn.tokens, 11, 12, 13] for context, turn in zip(contexts(), first, strict=True)]
    second = await ask(generator, following, 0.0)
    assert generator.prefilled - before == 3 * len(following)  # its last token, and two of the response; not the rest
    for i, (context, generation) in enumerate(zip(following, second, strict=True)):
        assert generation.tokens == plain_greedy(model, context, 12 + i)


async def test_a_group_computes_its_prompt_once(model: PreTrainedModel) -> None:
    generator = BatchedGenerator(model, {-1})
    prompt = contexts()[2]
    await ask(generator, [prompt] * 8, 1.0)
    assert generator.prefilled == len(prompt) - 1
    await generator.generate(prompt, max_tokens=3, temperature=1.0, seed=1)  # a late one
    assert generator.prefilled == len(prompt) - 1


async def test_a_stop_token_ends_a_turn_and_is_kept(model: PreTrainedModel) -> None:
    context = contexts()[0]
    free = plain_greedy(model, context, 20)
    stop = free[6]
    found = await BatchedGenerator(model, {stop}).generate(context, max_tokens=20, temperature=0.0, seed=0)
    assert found.ended
    assert found.tokens == free[: free.index(stop) + 1]
    assert len(found.logprobs) == len(found.tokens)


async def test_the_models_context_bounds_a_turn(model: PreTrainedModel) -> None:
    generator = BatchedGenerator(model, {-1})
    nearly = [9] * 250
    assert len((await generator.generate(nearly, max_tokens=50, temperature=1.0, seed=0)).tokens) == 6
    full = await generator.generate([9] * 256, max_tokens=50, temperature=1.0, seed=0)
    assert full == Generation([], [], False)
    with pytest.raises(ValueError, match="context is empty"):
        await generator.generate([], max_tokens=5, temperature=1.0, seed=0)


async def test_little_memory_means_smaller_batches_not_other_results(model: PreTrainedModel) -> None:
    tight = await ask(BatchedGenerator(model, {-1}, memory=1), contexts(), 1.0)
    assert tight == [
        Generation(g.tokens, pytest.approx(g.logprobs, abs=1e-4), g.ended)
        for g in await ask(BatchedGenerator(model, {-1}), contexts(), 1.0)
    ]


async def test_a_cancelled_request_leaves_the_others_alone(model: PreTrainedModel) -> None:
    generator = BatchedGenerator(model, {-1})
    context = contexts()[3]
    doomed = asyncio.ensure_future(generator.generate(contexts()[4], max_tokens=150, temperature=1.0, seed=1))
    kept = asyncio.ensure_future(generator.generate(context, max_tokens=25, temperature=0.0, seed=0))
    await asyncio.sleep(0.005)
    doomed.cancel()
    assert (await kept).tokens == plain_greedy(model, context, 25)
    with pytest.raises(asyncio.CancelledError):
        await doomed


async def test_a_failing_model_fails_every_request_and_not_the_next(model: PreTrainedModel) -> None:
    generator = BatchedGenerator(model, {-1})
    results = await asyncio.gather(
        generator.generate([10**6], max_tokens=3, temperature=0.0, seed=0),  # no such token
        generator.generate([9, 9], max_tokens=3, temperature=0.0, seed=0),
        return_exceptions=True,
    )
    assert all(isinstance(result, IndexError) for result in results)
    assert (await generator.generate([9, 9], max_tokens=3, temperature=0.0, seed=0)).tokens


def test_sliding_windows_are_refused() -> None:
    config = MistralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match="full attention"):
        BatchedGenerator(MistralForCausalLM(config), {1})
