"""Model folders that cannot be trained: each is one line that names the folder, what is wrong, and the fix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.training_run import GgufModel, Model
from astra_trainer.chat import ChatFormat
from astra_trainer.models import check_model, load_tokenizer, prepare_model
from astra_trainer.tiny import TinyModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4967215360\n"
Fault = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_environment: Callable[..., Environment]) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    TinyModel(hidden=32, intermediate=32, layers=2, practice=()).build([make_environment()], 0, folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "m"))


def pointer(name: str) -> Fault:
    return lambda folder: (folder / name).write_text(POINTER)


def text(name: str, content: str) -> Fault:
    return lambda folder: (folder / name).write_text(content)


def removed(*names: str) -> Fault:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, to: int) -> Fault:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:to])


def configured(file: str = "config.json", **changes: Any) -> Fault:
    def change(folder: Path) -> None:
        value = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Fault:
    def fault(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return fault


def sharded(lost: str = "", unlisted: str = "") -> Fault:
    """Two shards, one a layer; `lost` is deleted, what `unlisted` is in the name of does not stand in the index."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = {name: f"model-0000{2 if 'layers.1' in name else 1}-of-00002.safetensors" for name in tensors}
        for shard in set(names.values()):
            save_file(
                {n: t for n, t in tensors.items() if names[n] == shard}, folder / shard, metadata={"format": "pt"}
            )
        listed = {name: shard for name, shard in names.items() if not unlisted or unlisted not in name}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        if lost:
            (folder / lost).unlink()

    return fault


def several(*faults: Fault) -> Fault:
    return lambda folder: [fault(folder) for fault in faults]


def renamed(old: str, new: str) -> Fault:
    return lambda folder: (folder / old).rename(folder / new)


def without_layer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}


FAULTS: dict[str, tuple[Fault, str]] = {
    "weights are a pointer": (pointer(WEIGHTS), "model.safetensors is a git-lfs pointer; run git lfs pull"),
    "a tokenizer is a pointer": (pointer("tokenizer.json"), "tokenizer.json is a git-lfs pointer; run git lfs pull"),
    "a config is a pointer": (pointer("config.json"), "config.json is a git-lfs pointer; run git lfs pull"),
    "an index is a pointer": (several(sharded(), pointer(INDEX)), f"{INDEX} is a git-lfs pointer"),
    "a shard is a pointer": (
        several(sharded(), pointer("model-00002-of-00002.safetensors")),
        "model-00002-of-00002.safetensors is a git-lfs pointer",
    ),
    "weights cut short": (cut(WEIGHTS, 20_000), "model.safetensors has 20000 bytes, not the .* download it again"),
    "weights cut in the header": (cut(WEIGHTS, 500), "model.safetensors is cut short; download it again"),
    "empty weights": (cut(WEIGHTS, 0), "model.safetensors is empty; download it again"),
    "weights of zeros": (
        lambda folder: (folder / WEIGHTS).write_bytes(bytes(5000)),
        "model.safetensors is no safetensors file; download it again",
    ),
    "a page of HTML for weights": (text(WEIGHTS, "<!doctype html>" * 9), "model.safetensors is no safetensors file"),
    "a download under way": (text(f"{WEIGHTS}.aria2", "x"), "model.safetensors is not whole: .*finish the download"),
    "an unfinished download": (renamed(WEIGHTS, f"{WEIGHTS}.incomplete"), r"no \*\.safetensors.*finish the download"),
    "a shard is missing": (
        sharded(lost="model-00002-of-00002.safetensors"),
        "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names; finish the download",
    ),
    "an index of nothing": (several(removed(WEIGHTS), text(INDEX, "{}")), "has no weight_map; download it again"),
    "an index that leads elsewhere": (
        several(removed(WEIGHTS), text(INDEX, '{"weight_map": {"a": "../x.safetensors"}}')),
        r"lacks \.\./x\.safetensors",
    ),
    "an index without its last layer": (
        several(sharded(unlisted="layers.1"), removed("model-00002-of-00002.safetensors")),
        r"lacks the weights model\.layers\.1\..* more; give the whole model",
    ),
    "a shard without a tensor": (
        several(sharded(), lambda f: save_file({"x": torch.ones(1)}, f / "model-00002-of-00002.safetensors")),
        r"model-00002-of-00002\.safetensors lacks model\.layers\.1",
    ),
    "a layer is missing": (
        weights(without_layer),
        r"lacks the weights model\.layers\.1\..* more; give the whole model",
    ),
    "an output matrix is missing": (configured(tie_word_embeddings=False), r"lacks the weights lm_head\.weight"),
    "weights too many": (
        weights(lambda tensors: {**tensors, "v_head.weight": torch.ones(3)}),
        r"config\.json has no place for the weights v_head\.weight",
    ),
    "a config of fewer layers": (
        configured(num_hidden_layers=1, layer_types=...),
        r"config\.json has no place for the weights model\.layers\.1",
    ),
    "a config of another size": (
        configured(hidden_size=64),
        r"is \[.*\], by its configuration \[.*; give the one of",
    ),
    "a config that contradicts itself": (configured(num_hidden_layers=1), "transformers cannot load it: .*layer_types"),
    "no weights": (removed(WEIGHTS), r"no \*\.safetensors weights; give the folder of a whole"),
    "pickles": (renamed(WEIGHTS, "pytorch_model.bin"), r"pickles \(pytorch_model\.bin\).* never loaded; convert them"),
    "one shard, no index": (renamed(WEIGHTS, "model-00001-of-00002.safetensors"), "neither model.safetensors nor"),
    "a GGUF file": (
        several(removed(WEIGHTS, "config.json"), text("x.gguf", "GGUF")),
        r"has no config\.json but x\.gguf; give that file in spec\.model\.gguf\.path",
    ),
    "no config": (removed("config.json"), "has no config.json; give the folder of a whole"),
    "a config that is not JSON": (text("config.json", "{model"), "config.json is not JSON; download it again"),
    "a config that is a list": (text("config.json", "[]"), "config.json is not a JSON object"),
    "no model_type": (configured(model_type=...), "config.json has no model_type"),
    "an unknown architecture": (configured(model_type="qwen9"), "model_type qwen9 in config.json is unknown to"),
    "own code": (
        configured(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
        r"needs code of its own \(auto_map in config\.json\), which is never run; give a model that transformers knows",
    ),
    "own code that is not needed": (
        configured(auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
        "never run; if that is not needed, take auto_map out: transformers has qwen3 itself",
    ),
    "a tokenizer's own code": (
        configured("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_mine.Mine", None]}),
        r"auto_map in tokenizer_config\.json\), which is never run",
    ),
    "AWQ": (
        configured(quantization_config={"quant_method": "awq", "bits": 4}),
        r"is quantised \(quantization_config in config\.json: awq\), which cannot be trained; give the weights in",
    ),
    "compressed tensors": (configured(compression_config={"format": "int8"}), "is quantised .compression_config"),
    "MLX": (configured(quantization={"bits": 4}), "is quantised"),
    "GPTQ of old": (text("quantize_config.json", "{}"), r"is quantised \(quantize_config\.json\)"),
    "packed weights": (
        weights(lambda t: {**t, "model.layers.0.mlp.up_proj.weight": torch.ones(3, dtype=torch.int8)}),
        "is quantised .*of type I8",
    ),
    "float8": (
        weights(lambda t: {n: w.to(torch.float8_e4m3fn) if "proj" in n else w for n, w in t.items()}),
        "is quantised .*of type F8_E4M3",
    ),
    "vision": (
        configured(vision_config={"depth": 2}),
        "sees or hears .vision_config in config.json.; give one of text",
    ),
    "an encoder and a decoder": (configured(model_type="t5", architectures=...), "t5, no causal language model"),
    "a classifier": (configured(architectures=["Qwen3ForSequenceClassification"]), "no causal language model"),
    "a base model": (configured(architectures=["Qwen3Model"]), "holds a Qwen3Model, no causal language model"),
    "embeddings": (text("modules.json", "[]"), "holds a model of embeddings"),
    "an adapter": (text("adapter_config.json", "{}"), "holds an adapter .*; merge it into its base model"),
    "no tokenizer": (removed("tokenizer.json"), "has no tokenizer.json"),
    "no tokenizer config": (removed("tokenizer_config.json"), "has no tokenizer_config.json"),
    "a broken tokenizer": (text("tokenizer.json", "{}"), "transformers cannot load it"),
    "broken defaults": (text("generation_config.json", "{"), "generation_config.json is not JSON"),
    "no chat template": (removed("chat_template.jinja"), "no chat template: add chat_template.jinja"),
    "an empty chat template": (text("chat_template.jinja", ""), "chat_template.jinja is empty"),
    "a broken chat template": (text("chat_template.jinja", "{% for"), "the chat template refuses a conversation"),
    "a template that fails": (text("chat_template.jinja", "{{ 1 + 'x' }}"), "the chat template refuses a conversation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_cannot_be_trained_is_refused_in_one_line(folder: Path, name: str) -> None:
    fault, message = FAULTS[name]
    fault(folder)
    with pytest.raises(BadInput, match=message) as refused:
        check_model(Model(path=str(folder)), "embedded")
    assert str(refused.value).startswith(f"spec.model.path: {folder}: ")
    assert "\n" not in str(refused.value)


def test_whole_folders_are_taken(folder: Path) -> None:
    check_model(Model(path=str(folder)), "embedded")
    weights(lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})(folder)
    check_model(Model(path=str(folder)), "embedded")  # a tied matrix that is saved twice
    text("pytorch_model.bin", POINTER)(folder)  # not what is loaded
    text("consolidated.safetensors", POINTER)(folder)
    sharded()(folder)
    check_model(Model(path=str(folder)), "embedded")


@pytest.mark.parametrize("name", ["a layer is missing", "own code", "AWQ"])
def test_a_downloaded_model_is_looked_at_too(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault, message = FAULTS[name]
    fault(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(BadInput, match=rf"spec\.model\.name: .*{message}"):
        prepare_model(Model(name="some/model"), folder / "unused", [], 0)


def test_tokens_without_a_row_are_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["another"])  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match=r"has tokens up to \d+, its embedding \d+ rows; give the tokenizer of this"):
        check_model(Model(path=str(folder)), "embedded")


def test_what_the_embedded_engine_cannot_sample_from_is_left_to_the_other(folder: Path) -> None:
    configured(layer_types=["full_attention", "sliding_attention"], sliding_window=8, use_sliding_window=True)(folder)
    with pytest.raises(BadInput, match="layers of full_attention, sliding_attention; engine: embedded samples from"):
        check_model(Model(path=str(folder)), "embedded")
    check_model(Model(path=str(folder)), "verl")


def test_a_path_that_is_no_folder_is_told_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in [
        ("Qwen/Qwen3-14B", "there is no folder Qwen/Qwen3-14B; a model of a hub goes in spec.model.name"),
        ("model.gguf", "model.gguf: is a file; .* a GGUF file goes in spec.model.gguf.path"),
        ("loop", "loop: cannot be read: .*: Too many levels of symbolic links"),
        ("model.gguf/x", "model.gguf/x: cannot be read: .*: Not a directory"),
    ]:
        with pytest.raises(BadInput, match=rf"^spec\.model\.path: {message}"):
            check_model(Model(path=path), "embedded")


def _named(folder: Path, **given: str) -> None:
    (folder / "chat_template.jinja").unlink()
    named = [{"name": name, "template": template} for name, template in given.items()]
    configured("tokenizer_config.json", chat_template=named)(folder)


def test_a_template_by_the_name_tool_use_is_found(folder: Path) -> None:
    """In a list of names, and in a folder of its own beside the default that knows no tools."""
    good = (folder / "chat_template.jinja").read_text()
    no_tools = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    _named(folder, default=no_tools, tool_use=good)
    check_model(Model(path=str(folder)), "embedded")
    plain = ChatFormat(load_tokenizer(folder)).assistant_turn("Yes.")
    configured("tokenizer_config.json", chat_template=...)(folder)
    (folder / "chat_template.jinja").write_text(no_tools)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(good)
    check_model(Model(path=str(folder)), "embedded")
    assert ChatFormat(load_tokenizer(folder)).assistant_turn("Yes.") == plain


def test_templates_by_other_names_are_told(folder: Path) -> None:
    _named(folder, rag="{{ messages }}", other="{{ messages }}")
    with pytest.raises(BadInput, match="chat templates by the names other, rag: name one of them tool_use"):
        check_model(Model(path=str(folder)), "embedded")


def _gguf(file: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16) -> Path:
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    shape = gguf.quant_shape_to_byte_shape((4, 256), kind) if kind.name != "F16" else (4, 256)
    data = np.zeros(shape, dtype=np.float16 if kind.name == "F16" else np.uint8)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda file: file.write_text(POINTER), "is a git-lfs pointer; run git lfs pull"),
        (lambda file: file.write_bytes(b""), "is no GGUF file; download it again"),
        (lambda file: file.write_bytes(file.read_bytes()[:30]), "is cut short or damaged .*; download it again"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "is cut short or damaged .*; download it again"),
        (lambda file: _gguf(file, gguf.GGMLQuantizationType.Q8_K), "is quantised as Q8_K, which cannot be read"),
    ],
)
def test_a_gguf_file_is_looked_at_before_it_is_turned_into_weights(
    tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    file = _gguf(tmp_path / "m.gguf")
    check_model(Model(gguf=GgufModel(path=str(file))), "embedded")
    break_it(file)
    with pytest.raises(BadInput, match=rf"^spec\.model\.gguf: {file}: {message}"):
        check_model(Model(gguf=GgufModel(path=str(file))), "embedded")
