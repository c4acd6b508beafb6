"""What lies in a Hugging Face model folder, told before anything loads it: no weights are read, and no code runs."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from astra_trainer.gguf_files import POINTER, ModelError

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_UNFINISHED = (".incomplete", ".part", ".aria2", ".crdownload", ".download", ".tmp")
_READ = (  # beside the weights
    "config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.jinja", "additional_chat_templates/*.jinja", _INDEX,
)  # fmt: skip
_MOST_HEADER = 100 << 20  # bytes; safetensors' own limit
_FLOATS = ("F64", "F32", "F16", "BF16")
_PACKED = ("qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "absmax", "quant_map", "scales")
_QUANTISED = ("quantization_config", "compression_config", "quantization", "quant_config")
_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower", "mm_vision_tower", "visual", "vit_config")
_WHOLE = "give the folder of a whole Hugging Face causal language model"
_AGAIN = "download it again"


def check_model_folder(folder: Path, field: str) -> None:
    """Raises ModelError, which names the field, the folder, what is wrong in it and how to mend it."""
    try:
        _check(folder)
    except FileNotFoundError:
        hub = "" if folder.is_absolute() or len(folder.parts) != 2 else "; a model of a hub goes in spec.model.name"
        raise ModelError(f"{field}: there is no folder {folder}{hub}") from None
    except OSError as error:
        raise ModelError(f"{field}: {folder}: cannot be read: {error.filename}: {error.strerror}") from None
    except _Wrong as error:
        raise ModelError(f"{field}: {folder}: {error}") from None


class _Wrong(Exception):
    """What is wrong in a folder, and how to mend it."""


def _check(folder: Path) -> None:
    folder.stat()  # raises what is_dir keeps to itself
    if not folder.is_dir():
        gguf = "; a GGUF file goes in spec.model.gguf.path" if folder.suffix == ".gguf" else ""
        raise _Wrong(f"is a file; {_WHOLE}{gguf}")
    for pattern in _READ:
        for file in sorted(folder.glob(pattern)):
            _check_content(file)
    if (folder / "adapter_config.json").exists():
        raise _Wrong("holds an adapter (adapter_config.json); merge it into its base model and give that folder")
    if (folder / "modules.json").exists():
        raise _Wrong(f"holds a model of embeddings (modules.json); {_WHOLE}")
    _check_config(folder)
    _check_weights(folder)
    _check_tokenizer(folder)


def _check_content(file: Path) -> None:
    if file.stat().st_size == 0:
        raise _Wrong(f"{file.name} is empty; {_AGAIN}")
    if is_pointer(file):
        raise _Wrong(f"{file.name} is a git-lfs pointer; run git lfs pull")


def is_pointer(file: Path) -> bool:
    """Whether a file holds, in place of its content, what git-lfs would fetch."""
    with file.open("rb") as content:
        return content.read(len(POINTER)) == POINTER


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").exists():
        if gguf := sorted(folder.glob("*.gguf")):
            raise _Wrong(f"has no config.json but {gguf[0].name}; give that file in spec.model.gguf.path")
        if snapshots := sorted(folder.glob("snapshots/*/config.json")):
            raise _Wrong(f"is a hub's cache; give its folder snapshots/{snapshots[0].parent.name}")
        raise _Wrong(f"has no config.json; {_WHOLE}")
    config = _object(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise _Wrong(f"config.json has no model_type; {_WHOLE}")
    _check_code(folder, config["model_type"])
    if found := next((key for key in _QUANTISED if config.get(key)), None):
        settings = config[found]
        method = settings.get("quant_method", "") if isinstance(settings, dict) else ""
        raise _quantised(f"{found} in config.json" + (f": {method}" if method else ""))
    for name in ("quantize_config.json", "quant_config.json"):
        if (folder / name).exists():
            raise _quantised(name)
    if found := next((key for key in _SENSES if config.get(key)), None):
        raise _Wrong(f"is of a model that sees or hears ({found} in config.json); give one of text alone")
    _check_architecture(config)


def _check_code(folder: Path, family: str) -> None:
    """No code of the folder's own is ever run, nor asked for."""
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    fix = "give a model that transformers knows"
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and _object(folder / name).get("auto_map"):
            known = f"if that is not needed, take auto_map out: transformers has {family} itself"
            how = known if family in CONFIG_MAPPING_NAMES else fix
            raise _Wrong(f"needs code of its own (auto_map in {name}), which is never run; {how}")
    if family not in CONFIG_MAPPING_NAMES:
        raise _Wrong(f"model_type {family} in config.json is unknown to transformers {version('transformers')}; {fix}")


def _check_architecture(config: Mapping[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    family = config["model_type"]
    named = config.get("architectures") or []
    wanted = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    causal = [name for name in named if name == wanted or str(name).endswith("ForCausalLM")]
    if wanted is None or config.get("is_encoder_decoder") or (named and not causal):
        raise _Wrong(f"holds a {', '.join(map(str, named)) or family}, no causal language model; {_WHOLE}")


def _quantised(where: str) -> _Wrong:
    return _Wrong(f"is quantised ({where}), which cannot be trained; give the weights in bfloat16, float16 or float32")


def _check_weights(folder: Path) -> None:
    """The files that transformers would load are there, whole, and in floating point."""
    if (folder / _WEIGHTS).exists():
        _header(folder / _WEIGHTS)
        return
    if not (folder / _INDEX).exists():
        raise _no_weights(folder)
    shards = _object(folder / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise _Wrong(f"{_INDEX} has no weight_map; {_AGAIN}")
    names = sorted(set(shards.values()))
    if missing := [name for name in names if "/" in name or not (folder / name).is_file()]:
        raise _Wrong(f"lacks {some(missing)}, which {_INDEX} names; finish the download")
    held = {name: _header(folder / name) for name in names}
    if absent := [tensor for tensor, name in shards.items() if tensor not in held[name]]:
        raise _Wrong(f"{shards[absent[0]]} lacks {some(absent)}, which {_INDEX} says it holds; {_AGAIN}")


def _no_weights(folder: Path) -> _Wrong:
    names = [file.name for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    unfinished = [file.name for suffix in _UNFINISHED for file in sorted(folder.glob(f"*{suffix}"))]
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    if unfinished:
        return _Wrong(f"no *.safetensors weights but {some(unfinished)}; finish the download")
    if names:
        return _Wrong(
            f"no *.safetensors weights but pickles ({some(names)}), which can run code and are never loaded; convert "
            "them with save_pretrained"
        )
    if gguf := sorted(folder.glob("*.gguf")):
        return _Wrong(f"no *.safetensors weights but {gguf[0].name}; give that file in spec.model.gguf.path")
    if shards:
        return _Wrong(f"has {some(shards)} but neither {_WEIGHTS} nor {_INDEX}; download what is missing")
    return _Wrong(f"no *.safetensors weights; {_WHOLE}")


def _header(file: Path) -> Mapping[str, Any]:
    """The tensors that a safetensors file says it holds, which its size bears out."""
    if unfinished := next((s for s in _UNFINISHED if file.with_name(file.name + s).exists()), None):
        raise _Wrong(f"{file.name} is not whole: {file.name}{unfinished} is beside it; finish the download")
    _check_content(file)
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        begins = content.read(1)
        if size < 8 or length > _MOST_HEADER or begins != b"{":
            raise _Wrong(f"{file.name} is no safetensors file; {_AGAIN}")
        text = begins + content.read(length - 1)
    if size < 8 + length:
        raise _Wrong(f"{file.name} is cut short; {_AGAIN}")
    try:
        tensors = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        kinds = {name: str(entry["dtype"]) for name, entry in tensors.items()}
    except (ValueError, AttributeError, TypeError, LookupError):
        raise _Wrong(f"{file.name} is no safetensors file; {_AGAIN}") from None
    if size != 8 + length + end:
        raise _Wrong(f"{file.name} has {size} bytes, not the {8 + length + end} that it should; {_AGAIN}")
    for name, kind in kinds.items():
        if name.rpartition(".")[2] in _PACKED or (name.endswith(".weight") and kind not in _FLOATS):
            raise _quantised(f"{name} of type {kind} in {file.name}")
    return tensors


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer_config.json").exists():
        raise _Wrong(f"has no tokenizer_config.json; {_WHOLE}")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (folder / name).exists():
            _object(folder / name)
    needed = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
    if not any((folder / name).exists() for name in needed):
        raise _Wrong(f"has no tokenizer.json; {_WHOLE}")


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise _Wrong(f"{file.name} is not JSON; {_AGAIN}") from None
    if not isinstance(value, dict):
        raise _Wrong(f"{file.name} is not a JSON object; {_AGAIN}")
    return value


def some(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
