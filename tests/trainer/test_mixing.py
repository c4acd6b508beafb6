import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from astra_api.environment import Environment
from astra_trainer.embedding import NgramEmbedder, TransformerEmbedder, tool_document
from astra_trainer.mixing import MixingSettings, ToolMixer, normalised

WORDS = ["city", "river", "airport", "population", "length", "code", "mass", "country", "capital", "currency"]


def farm(count: int, seed: int) -> list[Environment]:
    """Environments of three domains with a few tools each; names repeat across domains."""
    rng = random.Random(seed)
    environments = []
    for number in range(count):
        names = {"_".join(rng.sample(WORDS, 2)) for _ in range(rng.randint(1, 4))}
        tools = [
            {
                "name": name,
                "description": " ".join(rng.choices(WORDS, k=5)),
                "parameters": {"type": "object", "properties": {rng.choice(WORDS): {"type": "string"}}},
            }
            for name in sorted(names)
        ]
        spec: dict[str, Any] = {
            "question": "?",
            "answer": 1,
            "domain": f"domain{number % 3}",
            "scenario": "single-hop",
            "steps": [{"id": "s1", "question": "?", "answer": 1}],
            "tools": tools,
            "source": f"# {number}",
        }
        environments.append(Environment.model_validate({"metadata": {"name": f"e{number}"}, "spec": spec}))
    return environments


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 20), farm_seed=st.integers(0, 99), per_band=st.integers(0, 4), seed=st.integers(0, 9),
    index=st.integers(0, 9), step=st.integers(0, 9),
)  # fmt: skip
def test_an_episode_offers_own_tools_and_at_most_k_others_of_each_band(
    count: int, farm_seed: int, per_band: int, seed: int, index: int, step: int
) -> None:
    environments = farm(count, farm_seed)
    mixer = ToolMixer(environments, MixingSettings(per_band=per_band))
    environment = environments[index % count]
    episode = mixer.episode(environment, seed=seed, index=index, step=step)
    names = [tool.name for tool in episode.tools]
    own = {tool.name for tool in environment.toolset.tools}
    assert len(names) == len(set(names))
    assert own <= set(names)
    assert set(episode.foreign) == set(names) - own
    for tool in environment.toolset.tools:
        assert tool in episode.tools
    domain_of = {env.toolset.digest: env.spec.domain for env in environments}
    for name, toolset in episode.foreign.items():
        assert domain_of[toolset.digest] != environment.spec.domain
        assert next(tool for tool in episode.tools if tool.name == name) in toolset.tools
    for candidates in mixer.bands(environment).values():
        usable = {tool.spec.name for tool in candidates} - own
        chosen = [tool for tool in candidates if tool.spec in episode.tools and tool.spec.name in episode.foreign]
        assert len({tool.spec.name for tool in chosen}) <= min(per_band, len(usable)) or per_band == 0
    again = ToolMixer(environments[::-1], MixingSettings(per_band=per_band))
    assert again.episode(environment, seed=seed, index=index, step=step) == episode


def test_another_seed_prompt_or_step_draws_another_sample() -> None:
    environments = farm(60, 0)
    mixer = ToolMixer(environments, MixingSettings())
    draws = [
        [tool.name for tool in mixer.episode(environments[0], seed=seed, index=index, step=step).tools]
        for seed, index, step in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({tuple(draw) for draw in draws}) == 4


def test_every_candidate_of_a_band_can_be_drawn_equally_often() -> None:
    environments = farm(40, 1)
    mixer = ToolMixer(environments, MixingSettings(per_band=1))
    low = mixer.bands(environments[0])["low"]
    own = {tool.name for tool in environments[0].toolset.tools}
    counts: dict[str, int] = {tool.spec.name: 0 for tool in low if tool.spec.name not in own}
    rounds = 200 * len(counts)
    for index in range(rounds):
        episode = mixer.episode(environments[0], seed=0, index=index, step=0)
        for tool in episode.tools:
            if any(tool == candidate.spec for candidate in low) and tool.name in counts:
                counts[tool.name] += 1
    assert len(counts) > 3
    assert min(counts.values()) > 80  # 200 expected where no name repeats


def test_bands_are_cut_on_the_normalised_similarity(make_environment: Callable[..., Environment]) -> None:
    """Four candidates at known angles from the only own tool."""
    angles = {"own": 0.0, "near": 0.1, "close": 0.4, "far": 0.9, "opposite": 1.5}

    class Angles:
        def embed(self, texts: list[str]) -> Any:
            found = [angles[text.split()[0]] for text in texts]
            return np.array([[np.cos(angle), np.sin(angle)] for angle in found], dtype=np.float32)

    def tool(name: str) -> dict[str, Any]:
        return {"name": name, "description": "", "parameters": {}}

    own = make_environment(name="own", tools=[tool("own")])
    others = [make_environment(name=name, domain=name, tools=[tool(name)]) for name in list(angles)[1:]]
    mixer = ToolMixer([own, *others], MixingSettings(), embedder=Angles())
    bands = {band: [tool.spec.name for tool in tools] for band, tools in mixer.bands(own).items()}
    cosine = np.cos([0.1, 0.4, 0.9, 1.5])
    scaled = (cosine - cosine.min()) / (cosine.max() - cosine.min())
    assert scaled[1] > 0.85
    assert 0.4 < scaled[2] < 0.85
    assert {band: sorted(names) for band, names in bands.items()} == {
        "low": ["opposite"],
        "medium": ["far"],
        "high": ["close", "near"],
    }


def test_a_pool_limits_what_is_mixed_in_but_not_who_may_ask() -> None:
    environments = farm(12, 3)
    mixer = ToolMixer(environments, MixingSettings(per_band=9), pool=environments[:4])
    allowed = {env.toolset.digest for env in environments[:4]}
    for environment in environments:
        episode = mixer.episode(environment, seed=0, index=0, step=0)
        assert {toolset.digest for toolset in episode.foreign.values()} <= allowed
    stranger = farm(13, 4)[-1]
    with pytest.raises(ValueError, match="not given to the mixer"):
        mixer.bands(stranger)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1, 1, width=32)))
def test_normalised_rows_span_zero_to_one(similarities: Any) -> None:
    result = normalised(similarities)
    assert ((result >= 0) & (result <= 1)).all()
    for row in result:
        assert row.min() == 0
        assert row.max() in (0, 1)


def test_alike_tools_are_nearer_than_unlike_ones(make_environment: Callable[..., Environment]) -> None:
    def document(name: str, description: str, parameter: str) -> str:
        parameters = {"type": "object", "properties": {parameter: {"type": "string", "description": "its name"}}}
        spec = make_environment(tools=[{"name": name, "description": description, "parameters": parameters}])
        return tool_document(spec.toolset.tools[0])

    population = document("city_population", "Population of a city.", "city")
    inhabitants = document("countCityInhabitants", "How large the population of a city is.", "cityName")
    boiling = document("boiling_point", "Temperature at which an element boils.", "element")
    vectors = NgramEmbedder().embed([population, inhabitants, boiling])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]
    assert (NgramEmbedder().embed([population, inhabitants, boiling]) == vectors).all()
    assert (NgramEmbedder().embed(["", "..."]) == 0).all()


def test_a_sentence_encoder_in_a_folder_embeds_each_text_alone(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "population", "of", "a", "city", "river"]
    vocabulary = {word: row for row, word in enumerate(words)}
    BertTokenizerFast(vocabulary, model_max_length=16).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    texts = ["population of a city", "river", "city " * 40]
    vectors = TransformerEmbedder(tmp_path, batch_size=2).embed(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.concatenate([TransformerEmbedder(tmp_path).embed([text]) for text in texts])
    assert np.allclose(vectors, alone, atol=1e-5)
    assert TransformerEmbedder(tmp_path).embed([]).shape[0] == 0
    with pytest.raises(ValueError, match="not a folder"):
        TransformerEmbedder(tmp_path / "missing")
