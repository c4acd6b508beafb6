"""The shape of a model: what its memory and its arithmetic follow from. No weights are read."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from astra_api.errors import BadInput
from astra_api.records import Record
from astra_api.training_run import GgufModel, Model
from astra_trainer.gguf_files import gguf_file

Size = Annotated[int, Field(gt=0, strict=True)]


class ModelShape(Record):
    """A dense decoder with grouped-query attention and a gated MLP: Llama, Mistral, Qwen2, Qwen3 and their kin."""

    name: str
    layers: Size
    hidden: Size
    intermediate: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    vocabulary: Size
    tied: bool
    """Whether the output matrix is the embedding."""
    positions: Size
    """The longest sequence that it was made for."""
    query_key_norms: bool = False
    attention_biases: bool = False
    """On the projections to queries, keys and values."""

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Of all keys, or all values, of a token in a layer."""
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output matrix."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        attention = 2 * self.hidden * (self.query_size + self.kv_size)
        norms = 2 * self.hidden + 2 * self.head_dim * self.query_key_norms
        biases = (self.query_size + 2 * self.kv_size) * self.attention_biases
        return attention + 3 * self.hidden * self.intermediate + norms + biases

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding and, where it is another, of the output matrix."""
        return self.embedding * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.embeddings + self.layers * self.layer + self.hidden

    def kv_bytes(self, value_bytes: int = 2) -> int:
        """Of a token's keys and values in all layers."""
        return 2 * self.layers * self.kv_size * value_bytes

    def forward_flops(self, tokens: float, context: float) -> float:
        """Of `tokens` that see, on average, `context` tokens: two for each weight they meet, and attention."""
        weights = self.layers * self.layer + self.embedding
        return tokens * (2 * weights + 4 * self.layers * self.query_size * context)


def _qwen3(name: str, layers: int, hidden: int, intermediate: int, heads: int, tied: bool) -> ModelShape:
    return ModelShape(
        name=f"Qwen/{name}", layers=layers, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=8,
        head_dim=128, vocabulary=151936, tied=tied, positions=40960, query_key_norms=True,
    )  # fmt: skip


_SMOLLM2 = ModelShape(
    name="HuggingFaceTB/SmolLM2-135M", layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64,
    vocabulary=49152, tied=True, positions=8192,
)  # fmt: skip

# The config.json that each publishes.
KNOWN = {
    shape.name: shape
    for shape in (
        _qwen3("Qwen3-0.6B", 28, 1024, 3072, 16, tied=True),
        _qwen3("Qwen3-1.7B", 28, 2048, 6144, 16, tied=True),
        _qwen3("Qwen3-4B", 36, 2560, 9728, 32, tied=True),
        _qwen3("Qwen3-8B", 36, 4096, 12288, 32, tied=False),
        _qwen3("Qwen3-14B", 40, 5120, 17408, 40, tied=False),
        _qwen3("Qwen3-32B", 64, 5120, 25600, 64, tied=False),
        _SMOLLM2,
        _SMOLLM2.model_copy(update={"name": "HuggingFaceTB/SmolLM2-135M-Instruct"}),
    )
}
# preset: tiny, as astra_trainer.tiny makes it, with a full vocabulary.
TINY = ModelShape(
    name="tiny", layers=2, hidden=128, intermediate=384, heads=4, kv_heads=4, head_dim=32, vocabulary=1024, tied=True,
    positions=4096, query_key_norms=True,
)  # fmt: skip

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # by `model_type`
_GIVE_CONFIG = "give its shape with --model-config path/to/config.json"


def shape_of(model: Model, config: Path | None = None) -> ModelShape:
    """The shape of the model that a run starts from, or that a config.json describes. Raises BadInput."""
    found = _shape_of(model, config)
    return found.model_copy(update={"positions": max(found.positions, model.context or 0)})


def _shape_of(model: Model, config: Path | None) -> ModelShape:
    if config is not None:
        return _from_config(config, f"--model-config {config}")
    if model.preset is not None:
        return TINY
    if model.gguf is not None:
        return _from_gguf(model.gguf)
    if model.path is not None:
        return _from_config(Path(model.path) / "config.json", f"spec.model.path: {model.path}")
    if model.name not in KNOWN:
        known = ", ".join(KNOWN)
        raise BadInput(f"spec.model.name: {model.name} is not in the plan's table; {_GIVE_CONFIG} (known: {known})")
    return KNOWN[model.name]


def _from_config(file: Path, where: str) -> ModelShape:
    """The shape that a Hugging Face config.json describes."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{where}: {file} cannot be read: {error.strerror}; give a Hugging Face config.json") from None
    except ValueError:
        raise BadInput(f"{where}: {file} is not JSON; give a Hugging Face config.json") from None
    if not isinstance(config, dict):
        raise BadInput(f"{where}: {file} is not a JSON object; give a Hugging Face config.json")
    family = config.get("model_type")
    if family not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise BadInput(f"{where}: model_type {family!r} in {file} is not planned; dense models of {known} are")
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = config.get("head_dim")
    if head_dim is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        head_dim = hidden // heads
    fields = {
        "layers": config.get("num_hidden_layers"),
        "hidden": hidden,
        "intermediate": config.get("intermediate_size"),
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": head_dim,
        "vocabulary": config.get("vocab_size"),
        "positions": config.get("max_position_embeddings"),
        "tied": config.get("tie_word_embeddings", False),
        "attention_biases": family == "qwen2" or bool(config.get("attention_bias", False)),
    }
    return _checked(fields | {"name": file.parent.name, "query_key_norms": family == "qwen3"}, where, file)


def _from_gguf(gguf: GgufModel) -> ModelShape:
    """The shape that the header of a GGUF file describes."""
    file = gguf_file(gguf)
    where = f"spec.model.gguf: {file}"
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise BadInput(f"{where}: reading it needs {error.name}; install astra-farm[trainer]") from None
    try:
        reader = GGUFReader(file)
    except (ValueError, OSError) as error:
        raise BadInput(f"{where}: not a GGUF file: {error}; {_GIVE_CONFIG}") from None

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    family = value("general.architecture")
    if family not in _FAMILIES:
        raise BadInput(f"{where}: architecture {family!r} is not planned; dense models of {', '.join(_FAMILIES)} are")
    heads, hidden = value(f"{family}.attention.head_count"), value(f"{family}.embedding_length")
    head_dim = value(f"{family}.attention.key_length")
    if head_dim is None and heads and hidden:
        head_dim = hidden // heads
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    fields = {
        "layers": value(f"{family}.block_count"),
        "hidden": hidden,
        "intermediate": value(f"{family}.feed_forward_length"),
        "heads": heads,
        "kv_heads": value(f"{family}.attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "vocabulary": int(tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in tensors else None,
        "positions": value(f"{family}.context_length"),
        "tied": "output.weight" not in tensors,
        "query_key_norms": "blk.0.attn_q_norm.weight" in tensors,
        "attention_biases": "blk.0.attn_q.bias" in tensors,
    }
    return _checked(fields | {"name": file.stem}, where, file)


def _checked(fields: dict[str, Any], where: str, file: Path) -> ModelShape:
    try:
        return ModelShape.model_validate(fields)
    except ValidationError as error:
        wrong = ", ".join(f"{details['loc'][0]} ({fields.get(str(details['loc'][0]))})" for details in error.errors())
        raise BadInput(f"{where}: {file} lacks a usable {wrong}; give the config.json of a dense decoder") from None
