"""Whole runs with the real engine: their lines and files, and that no interruption changes how they end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

import short_run as short
from astra_api.errors import BadInput
from astra_api.records import Trajectory
from astra_api.training_run import TrainingRun
from astra_trainer.local_run import train_here
from astra_trainer.models import load_policy
from astra_trainer.pipeline import train
from astra_trainer.progress import Silence
from astra_trainer.trajectory_lines import dump_lines, read_lines


class Recorder(Silence):
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.lines: list[Mapping[str, Any]] = []
        self.notes: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def line(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of the metrics."""
    text = (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def expected_lines() -> Counter[tuple[str, str, int]]:
    sft, rl = short.SFT_STEPS, short.RL_STEPS
    evaluations = [("evaluation", "base", 0), ("evaluation", "sft", sft), ("evaluation", "rl", rl)]
    steps = [("train", "sft", n) for n in range(1, sft + 1)] + [("train", "rl", n) for n in range(1, rl + 1)]
    return Counter(evaluations + steps)


def keys(out: Path) -> Counter[tuple[str, str, int]]:
    return Counter((line["kind"], line["stage"], line["step"]) for line in metrics(out))


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that all runs here start from."""
    folder = tmp_path_factory.mktemp("model")
    short.build_model(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(short.MODEL, str(folder))
        yield folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, Path]:
    """An undisturbed run: its directory, what it told, and the checkpoint it returned."""
    out, heard = tmp_path_factory.mktemp("runs") / "whole", Recorder()
    last = asyncio.run(train(short.run(), short.environments(), out, sandbox=short.sandbox(), progress=heard))
    return out, heard, last


def test_a_run_has_one_line_for_each_step_and_evaluation(finished: tuple[Path, Recorder, Path]) -> None:
    out, heard, _ = finished
    assert keys(out) == expected_lines()
    assert heard.lines == metrics(out)
    assert heard.stages == [("sft", 0, short.SFT_STEPS), ("rl", 0, short.RL_STEPS)]
    losses = [line["loss"] for line in metrics(out) if line["stage"] == "sft" and line["kind"] == "train"]
    assert losses[-1] < 0.2 * losses[0]


def test_rl_lines_say_what_was_rolled_out(finished: tuple[Path, Recorder, Path]) -> None:
    lines = [line for line in metrics(finished[0]) if line["stage"] == "rl" and line["kind"] == "train"]
    for line in lines:
        assert 0.0 <= line["reward_mean"] <= 1.0
        assert 0.0 <= line["discarded_share"] <= 1.0
        assert line["excluded"] == 0
        assert line.keys() >= {"reward_std", "recall", "precision", "tool_calls", "seconds", "response_tokens"}
    updated = [line for line in lines if line["loss"] is not None]
    assert updated, "SFT left no group with a spread of rewards: the test's run no longer tests RL"
    assert all(line["logprob_mismatch_max"] < 1e-3 for line in updated if not line["stale_groups"])


def test_checkpoints_and_states_are_kept_as_asked(finished: tuple[Path, Recorder, Path]) -> None:
    out, _, last = finished
    assert last == out / "checkpoints" / f"rl-{short.RL_STEPS}"
    names = {folder.name for folder in (out / "checkpoints").iterdir()}
    assert names == {"sft-25", f"sft-{short.SFT_STEPS}", last.name}
    assert len(list((out / "state").iterdir())) == 2
    assert load_policy(last, "cpu").config.vocab_size > 0


async def test_an_environment_may_be_demonstrated_more_than_once(tmp_path: Path) -> None:
    """Each time among other tools, in another order or by other calls; as many steps an epoch as demonstrations ask."""
    dataset = {"type": "gold", "samples": 3, "recoveries": 0.0, "detours": 0.5}
    run = short.run(sft={"dataset": dataset, "epochs": 1, "batchSize": 4, "learningRate": 1e-3}, rl=None)
    heard = Recorder()
    await train(run, short.environments(), tmp_path / "run", sandbox=short.sandbox(), progress=heard)
    assert heard.stages == [("sft", 0, 3)]
    saved = (tmp_path / "run" / "trajectories" / "sft-000000-demonstrations.jsonl").read_text().splitlines()
    made = [json.loads(line) for line in saved]
    assert set(Counter(trajectory["environment"] for trajectory in made).values()) == {3}
    assert len({tuple(trajectory["tokens"]) for trajectory in made}) > 4
    assert {trajectory["reward"]["calls"] for trajectory in made} == {1, 2}


async def test_a_finished_run_is_not_run_again(finished: tuple[Path, Recorder, Path]) -> None:
    out, _, last = finished
    before = (out / "metrics.jsonl").read_bytes()
    heard = Recorder()
    again = await train(short.run(), short.environments(), out, sandbox=short.sandbox(), progress=heard)
    assert again == last
    assert not heard.lines
    assert (out / "metrics.jsonl").read_bytes() == before


def test_trajectories_are_token_exact_and_complete(finished: tuple[Path, Recorder, Path]) -> None:
    files = {file.name: file.read_text().splitlines() for file in (finished[0] / "trajectories").iterdir()}
    assert len(files["sft-000000-demonstrations.jsonl"]) == 4
    for name in ("base-000000", f"sft-{short.SFT_STEPS:06}", f"rl-{short.RL_STEPS:06}"):
        assert len(files[f"{name}-holdout.jsonl"]) == 4
    for step in range(1, short.RL_STEPS + 1):
        rolled_out = [json.loads(line) for line in files[f"rl-{step:06}-train.jsonl"]]
        assert all(len(t["tokens"]) == len(t["mask"]) == len(t["logprobs"]) for t in rolled_out)


def test_datasets_reads_a_run(finished: tuple[Path, Recorder, Path], tmp_path: Path) -> None:
    """The directory, with types that no file has to guess, and every file of it alone."""
    out = finished[0]
    written = sorted((out / "trajectories").glob("*.jsonl"))
    whole = datasets.load_dataset(str(out), cache_dir=str(tmp_path))["train"]
    assert len(whole) == sum(len(file.read_text().splitlines()) for file in written)
    lines = [trajectory for file in written for trajectory in read_lines(file)]
    assert [Trajectory.model_validate(line) for line in whole] == lines
    for file in (*written, out / "metrics.jsonl"):
        alone = datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path))["train"]
        assert len(alone) == len(file.read_text().splitlines())


def _given(data: Path, **changes: Any) -> TrainingRun:
    sft = {"dataset": {"type": "files", "path": str(data)}, "epochs": 1, "batchSize": 4, "learningRate": 1e-3}
    return short.run(sft=sft, rl=None, **changes)


async def test_nothing_that_is_held_out_is_learned(finished: tuple[Path, Recorder, Path], tmp_path: Path) -> None:
    """Told before anything is evaluated."""
    written = finished[0] / "trajectories"
    demonstrated = read_lines(written / "sft-000000-demonstrations.jsonl")
    held_out = read_lines(written / "base-000000-holdout.jsonl")[0]
    demonstrated[2] = demonstrated[2].model_copy(update={"digest": held_out.digest})
    (tmp_path / "data.jsonl").write_bytes(dump_lines(demonstrated))
    run, heard = _given(tmp_path / "data.jsonl"), Recorder()
    with pytest.raises(
        BadInput, match=rf"data\.jsonl:3: a trajectory of {held_out.environment}, which this run holds out"
    ):
        await train(run, short.environments(), tmp_path / "run", sandbox=short.sandbox(), progress=heard)
    assert not heard.lines


def test_what_was_given_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    """In the directory of the run nothing is begun; data that were read once are not read again."""
    (tmp_path / "data.jsonl").write_text("{}")
    (tmp_path / "model").mkdir()
    run = _given(tmp_path / "data.jsonl", model={"path": str(tmp_path / "model")})
    with pytest.raises(BadInput, match=r"data\.jsonl: line 1: expected"):
        train_here(run, short.environments(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "trajectories").mkdir(parents=True)
    (tmp_path / "run" / "trajectories" / "sft-000000-demonstrations.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"spec\.model\.path: .*/model: has no config\.json"):
        train_here(run, short.environments(), tmp_path / "run")


def start(out: Path) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen([sys.executable, str(short.__file__), str(out)], env={**os.environ, "PYTHONPATH": paths})


def wait_for(out: Path, process: subprocess.Popen[bytes], count: int) -> None:
    end = time.monotonic() + 120
    while len(metrics(out)) < count:
        assert process.poll() is None, f"ended with {process.returncode} before line {count}"
        assert time.monotonic() < end, f"no line {count} in 120 s"
        time.sleep(0.002)


def test_interrupted_at_any_moment_a_run_ends_the_same(tmp_path: Path) -> None:
    rl_begins = short.SFT_STEPS + 2  # the line of the evaluation before RL
    for count, pause, by, code in (
        (1, 0.0, signal.SIGKILL, -signal.SIGKILL),
        (9, 0.01, signal.SIGKILL, -signal.SIGKILL),
        (15, 0.0, signal.SIGTERM, 130),
        (rl_begins + 1, 0.02, signal.SIGKILL, -signal.SIGKILL),
    ):
        process = start(tmp_path)
        wait_for(tmp_path, process, count)
        time.sleep(pause)
        process.send_signal(by)
        assert process.wait(timeout=60) == code
        assert len(metrics(tmp_path)) >= count
        assert max(keys(tmp_path).values()) == 1
    assert start(tmp_path).wait(timeout=120) == 0
    assert keys(tmp_path) == expected_lines()
    assert max((tmp_path / "state").iterdir()).name == f"{expected_lines().total():06}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suspend": True}, r"spec\.suspend"),
        (
            {"evaluation": {"benchmarks": ["holdout", "bfcl-multi-turn"]}},
            r"spec\.evaluation\.benchmarks: bfcl-multi-turn",
        ),
        ({"engine": "verl"}, r"spec\.engine: verl needs the package"),
        ({"environments": {"selector": {"matchLabels": {"a": "b"}}}}, r"spec\.environments\.selector"),
        ({"model": {"path": "/nowhere"}}, r"spec\.model\.path"),
        (
            {"sft": {"dataset": {"type": "files", "path": "/nowhere.jsonl"}}},
            r"spec\.sft\.dataset\.path: there is no JSON-lines file",
        ),
    ],
)
async def test_what_cannot_be_run_is_refused_by_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        await train(short.run(**changes), short.environments(), tmp_path, sandbox=short.sandbox())
