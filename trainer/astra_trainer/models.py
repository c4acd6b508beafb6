"""Where a policy starts: `spec.model` of a TrainingRun, as a Hugging Face model folder on this machine."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from astra_api.environment import Environment
from astra_api.files import share
from astra_api.training_run import GgufModel, Model
from astra_trainer.chat import ChatFormat, ChatTemplateError
from astra_trainer.gguf_files import ModelError, check_gguf, gguf_file
from astra_trainer.model_folder import check_model_folder, some
from astra_trainer.tiny import TinyModel, chat_template

cast(Any, transformers_logging).disable_progress_bar()  # what a run draws, its caller draws


def check_model(model: Model, engine: str) -> None:
    """Raises ModelError for a folder or GGUF file that cannot be trained: before anything is started or made."""
    if model.gguf is not None:
        check_gguf(model.gguf)
    if model.path is None:
        return
    folder = _checked(Path(model.path), "spec.model.path")
    where = f"spec.model.path: {folder}"
    try:
        ChatFormat(load_tokenizer(folder))
    except ChatTemplateError as error:
        raise ModelError(f"{where}: {error}") from None
    if engine == "embedded" and (reason := unsampled(AutoConfig.from_pretrained(str(folder)))):
        raise ModelError(f"{where}: {reason}; engine: embedded samples from full causal attention only")


def unsampled(config: PreTrainedConfig) -> str | None:
    """Why the embedded engine cannot sample from such a model; None where it can."""
    default = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    kinds = set(getattr(config, "layer_types", None) or [default])
    if kinds != {"full_attention"}:
        return f"{config.model_type}: layers of {', '.join(sorted(kinds))}"
    needed = ("num_attention_heads", "num_hidden_layers", "max_position_embeddings", "vocab_size")
    if not all(getattr(config, name, None) for name in needed) or getattr(config, "kv_lora_rank", None):
        return f"{config.model_type}: keys and values of another layout"
    return None


def prepare_model(model: Model, folder: Path, training: Sequence[Environment], seed: int) -> Path:
    """The folder to load the policy from. What must be made first (tiny, gguf) is made in `folder`, once.

    `training` are the environments that a tokenizer of its own may learn from. Raises ModelError.
    """
    if model.path is not None:
        return _stretched(_checked(Path(model.path), "spec.model.path"), model.context, folder)
    if model.name is not None:
        return _stretched(_checked(_download(model.name), "spec.model.name"), model.context, folder)
    if not folder.exists():
        if model.gguf is not None:
            _make(folder, partial(_unpack, model.gguf))
        else:
            _make(folder, partial(TinyModel().build, training, seed))
    return folder


def load_policy(folder: Path, device: str) -> PreTrainedModel:
    """The model to sample from: bfloat16 on an accelerator, float32 on a CPU, frozen."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, attn_implementation="sdpa")
    torch.nn.Module.to(model, device)
    model.requires_grad_(False)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with its chat template."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return tokenizer


def _unpack(gguf: GgufModel, folder: Path) -> None:
    """Writes the weights of a GGUF file in float32, its tokenizer, and a chat template that knows tools."""
    file = gguf_file(gguf)
    try:
        with _quiet():
            model, found = cast(Any, AutoModelForCausalLM).from_pretrained(
                str(file.parent),
                gguf_file=file.name,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # whatever a library makes of a file that it was not made for
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"spec.model.gguf: transformers cannot read {file.name}: {reason}") from error
    _refuse_gaps(found, f"spec.model.gguf: {file.name}")
    stop = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)  # the tokenizer's own are often wrong in a GGUF
    tokenizer.eos_token = stop
    tokenizer.pad_token = tokenizer.pad_token or stop
    if stop == "<|im_end|>":  # a ChatML model; another keeps its own template
        tokenizer.chat_template = chat_template("chatml_tools")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(f"spec.model.name: {name!r} is not a hub name such as Qwen/Qwen3-14B; a folder goes in path")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"spec.model.name: cannot fetch {name}: {str(error).splitlines()[0]}") from error


def _checked(folder: Path, field: str) -> Path:
    """The folder of a model whose every weight is in it, and whose tokens all have one. Raises ModelError."""
    check_model_folder(folder, field)
    where = f"{field}: {folder}"
    found = _loaded_in_name(folder, where)
    _refuse_gaps(found, where)
    if unexpected := sorted(found["unexpected_keys"]):
        raise ModelError(
            f"{where}: config.json has no place for the weights {some(unexpected)}; give the config.json of these "
            "weights, or take them out"
        )
    return folder


def _refuse_gaps(found: Mapping[str, Any], where: str) -> None:
    """Raises ModelError where loading would give weights that nobody trained."""
    if wrong := sorted(found["mismatched_keys"]):
        name, shape, wanted = wrong[0]
        raise ModelError(
            f"{where}: {name} is {list(shape)}, by its configuration {list(wanted)}; give the one of these weights"
        )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{where}: lacks the weights {some(missing)}; give the whole model")


def _loaded_in_name(folder: Path, where: str) -> dict[str, Any]:
    """Loads all of a folder but the numbers; returns what loading would make up or leave out. Raises ModelError."""
    try:
        with _quiet(), _NumbersEqual():
            model, found = cast(Any, AutoModelForCausalLM).from_pretrained(
                str(folder),
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
            tokenizer = load_tokenizer(folder)
    except Exception as error:  # whatever a library makes of a folder that it was not made for
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{where}: transformers cannot load it: {type(error).__name__}: {reason}") from None
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"{where}: its tokenizer has tokens up to {highest}, its embedding {rows} rows; give the tokenizer of this "
            "model, or enlarge the embedding (resize_token_embeddings)"
        )
    return dict(found)


class _NumbersEqual(TorchFunctionMode):
    """Tensors without numbers are equal: transformers asks whether a tied matrix that is saved twice is one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if func is torch.equal else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from telling in its own words what is about to be told."""
    logging = cast(Any, transformers_logging)
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _stretched(given: Path, context: int | None, folder: Path) -> Path:
    """The given folder; if it has fewer positions than `context`, one that links to it, with positions stretched.

    YaRN, as the makers of Qwen3 describe it for sequences longer than those of the training: a factor over the
    positions that the model was trained with.
    """
    config = AutoConfig.from_pretrained(str(given))
    positions = getattr(config, "max_position_embeddings", None)
    if context is None or positions is None or context <= positions:
        return given
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"spec.model.context: {context} is more than the {positions} positions of {given}, stretched already"
        )

    def build(target: Path) -> None:
        for file in given.iterdir():
            if file.name != "config.json":
                (target / file.name).symlink_to(file.resolve())
        stretch = {"rope_type": "yarn", "factor": context / positions, "original_max_position_embeddings": positions}
        config.rope_parameters = rope | stretch
        config.max_position_embeddings = context
        config.save_pretrained(target)

    if not folder.exists():
        _make(folder, build)
    return folder


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Builds a folder beside its place and moves it there whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}-{os.getpid()}")
    with contextlib.ExitStack() as clean:
        clean.callback(shutil.rmtree, building, ignore_errors=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        build(building)
        share(building)
        building.rename(folder)
