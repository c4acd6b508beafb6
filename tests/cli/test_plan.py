"""`astra plan` as a person runs it: tables, JSON, options, exit codes, and what it refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Astra = Callable[..., tuple[int, str, str]]
MODEL = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 40960, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def large(examples: Path) -> Path:
    return examples / "train-qwen3-14b.yaml"


@pytest.fixture
def changed(large: Path, tmp_path: Path) -> Callable[..., Path]:
    """The example with texts replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = large.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return write


def plan(astra: Astra, *arguments: object) -> dict[str, Any]:
    code, out, _ = astra("plan", "--json", *arguments)
    found: dict[str, Any] = json.loads(out)
    assert code == (0 if found["fits"] else 1)
    return found


def test_tables_answer_every_question(astra: Astra, large: Path) -> None:
    code, out, err = astra("plan", "-f", large, "--gpu-price", "2.50")
    assert (code, err) == (0, "")
    for words in ("qwen3-14b (Qwen/Qwen3-14B, 14.77B parameters, engine verl): fits", "Memory of one h100-80gb"):
        assert words in out
    for title in ("Devices", "Sandboxes", "An RL step", "The whole run", "Checkpoints", "Assumptions"):
        assert f"\n{title}" in out
    assert "163,840 bytes a token" in out
    assert "[--calls-per-rollout]" in out
    assert "at --gpu-price" in out
    unpriced = astra("plan", "-f", large)[1]
    assert "give --gpu-price" in unpriced


def test_what_does_not_fit_exits_with_1(astra: Astra, changed: Callable[..., Path]) -> None:
    code, out, _ = astra("plan", "-f", changed(("sequenceParallel: 8 ", "sequenceParallel: 1 ")))
    assert code == 1
    assert "does not fit: spec.verl.tokensPerGpu: 10,240 x sequenceParallel 1 hold 10,240 tokens" in out
    assert "too much" not in out
    code, out, _ = astra("plan", "-f", changed(), "--gpu", "l40s")
    assert code == 1
    assert "too much" in out


def test_options_change_the_assumptions_that_the_plan_lists(astra: Astra, large: Path) -> None:
    base = plan(astra, "-f", large)
    given = {
        "--calls-per-rollout": 10, "--tokens-per-rollout": 8000, "--prompt-tokens": 6000, "--tool-seconds": 1.5,
        "--longest-rollout": 5, "--discarded-share": 0.4, "--demonstrations": 100, "--mfu": 0.2,
        "--bandwidth-share": 0.4,
    }  # fmt: skip
    optional = {a["option"] for a in base["assumptions"].values() if a["option"]}
    assert optional == set(given)
    for option, value in given.items():
        found = plan(astra, "-f", large, option, value)
        (name,) = [name for name, a in found["assumptions"].items() if a["option"] == option]
        assert found["assumptions"][name]["value"] == value
        assert base["assumptions"][name]["value"] != value
        assert (found["rl"], found["sft"]) != (base["rl"], base["sft"])
    assert plan(astra, "-f", large, "--gpu", "h200")["device"]["memory"] == 141 * 10**9
    assert base["totals"]["cost"] is None
    priced = plan(astra, "-f", large, "--gpu-price", 3)["totals"]
    assert priced["cost"] == pytest.approx(3 * base["totals"]["gpu_hours"])


def test_the_shape_of_any_model(astra: Astra, changed: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(MODEL))
    unknown = changed(("{name: Qwen/Qwen3-14B, context: 74752}", "{name: acme/model}"))
    code, _, err = astra("plan", "-f", unknown)
    assert code == 2
    assert "spec.model.name: acme/model" in err
    assert "--model-config path/to/config.json" in err
    by_option = plan(astra, "-f", unknown, "--model-config", config)
    by_path = plan(astra, "-f", changed(("{name: Qwen/Qwen3-14B, context: 74752}", f"{{path: {tmp_path / 'model'}}}")))
    by_name = plan(astra, "-f", changed(("{name: Qwen/Qwen3-14B, context: 74752}", "{name: Qwen/Qwen3-0.6B}")))
    assert by_option["memory"] == by_path["memory"] == by_name["memory"]


def test_a_data_set_in_files_is_counted(astra: Astra, changed: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n" * 70 + "\n")
    file = changed(("{type: gold, limit: 8192}", f"{{type: files, path: {data}}}"))
    assert plan(astra, "-f", file)["sft"]["steps"] == 2 * 3
    data.unlink()
    assert plan(astra, "-f", file)["sft"]["steps"] is None


def test_a_run_without_gpus(astra: Astra, examples: Path) -> None:
    found = plan(astra, "-f", examples / "train-tiny.yaml", "--cpus", 4, "--demonstrations", 12)
    assert found["device"]["name"] == "4 CPU cores"
    assert found["totals"]["gpu_hours"] == 0
    code, out, _ = astra("plan", "-f", examples / "train-tiny.yaml", "-f", examples / "environments")
    assert code == 0
    assert "Memory of a trainer pod" in out
    assert plan(astra, "-f", examples / "train-tiny.yaml", "--gpu", "l4")["totals"]["gpus"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "tpu"], "--gpu tpu: not in the table; one of a100-40gb"),
        (["--cpus", "4"], "--cpus: goes with a trainer without GPUs"),
        (["--tokens-per-rollout", "60000"], "--tokens-per-rollout 60000: exceeds spec.rl.maxResponseTokens 49152"),
        (["--prompt-tokens", "30000"], "--prompt-tokens 30000: exceeds spec.rl.maxPromptTokens 25600"),
        (["--demonstrations", "9000"], "--demonstrations 9000: exceeds spec.sft.dataset.limit 8192"),
        (["--model-config", "nowhere.json"], "--model-config nowhere.json: nowhere.json cannot be read"),
    ],
)
def test_bad_options_exit_with_2(astra: Astra, large: Path, options: list[str], message: str) -> None:
    code, out, err = astra("plan", "-f", large, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_bad_manifests_exit_with_2(astra: Astra, changed: Callable[..., Path], examples: Path, large: Path) -> None:
    code, _, err = astra("plan", "-f", examples / "environments")
    assert code == 2
    assert "0 documents of kind TrainingRun" in err
    assert astra("plan", "-f", large, "-f", examples / "train-tiny.yaml")[0] == 2
    code, _, err = astra("plan", "-f", changed(("tensorParallel: 2 ", "tensorParallel: 3 ")))
    assert code == 2
    assert "tensorParallel: 3 does not divide 8 rollout GPUs" in err
    code, _, err = astra(
        "plan",
        "-f",
        changed(
            ("gpusPerNode: 8", "gpusPerNode: 0"),
            ("sequenceParallel: 8 ", "sequenceParallel: 1 "),
            ("tensorParallel: 2 ", "tensorParallel: 1 "),
        ),
        "--gpu",
        "h200",
    )
    assert code == 2
    assert "spec.trainer.gpusPerNode is 0" in err


def test_planning_imports_no_torch(large: Path) -> None:
    program = (
        f"import sys; from astra_cli.main import run; assert run(['plan', '-f', {str(large)!r}]) == 0; "
        "print(sorted({'torch', 'transformers', 'verl', 'ray', 'grpc', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
