"""Whole runs with an object store: training never waits for it, and what it lacks at the end is told."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import short_run as short
from astra_api.errors import BadInput
from astra_trainer.object_store import uploading
from astra_trainer.object_store.uploading import UploadFailed
from astra_trainer.pipeline import train
from astra_trainer.progress import Silence
from astra_trainer.report import write_report
from object_stores import BUCKET, SECRET, S3Server

NAMES = {"sft-25", f"sft-{short.SFT_STEPS}", f"rl-{short.RL_STEPS}"}


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("model")
    short.build_model(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(short.MODEL, str(folder))
        yield


class Recorder(Silence):
    """A Progress that remembers, and that may do something when it hears of a line."""

    def __init__(self, on_line: Any = lambda line: None) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.notes: list[str] = []
        self._on_line = on_line

    def line(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)
        self._on_line(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_with(store: str, out: Path, heard: Recorder) -> Path:
    run = short.run(checkpoint={"snapshotEvery": 25, "objectStore": {"url": store}})
    return asyncio.run(train(run, short.environments(), out, sandbox=short.sandbox(), progress=heard))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_whole(stored: Path, out: Path) -> None:
    """All snapshots of a run lie below a folder, with a snapshot.json each, and nothing else."""
    assert {folder.name for folder in stored.iterdir()} == NAMES
    for name in NAMES:
        found = files(stored / name)
        assert json.loads(found.pop("snapshot.json"))["whole"] is True
        assert found == files(out / "checkpoints" / name)


def test_the_snapshots_of_a_run_are_in_its_store_when_it_ends(tmp_path: Path) -> None:
    out, heard = tmp_path / "run", Recorder()
    run_with(f"file://{tmp_path}/store", out, heard)
    assert_whole(tmp_path / "store" / "short" / "checkpoints", out)
    told = [note for note in heard.notes if note.startswith(f"file://{tmp_path}/store/short/checkpoints/")]
    assert len(told) == len(NAMES)
    assert f"3 of 3 checkpoints in file://{tmp_path}/store/short" in write_report(out).read_text()


def test_a_store_that_hangs_holds_up_no_step(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers at the start, then nothing until the last line of the run is there."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)

    def at(line: Mapping[str, Any]) -> None:
        if (line["kind"], line["stage"]) == ("evaluation", "base"):
            s3.signal(signal.SIGSTOP)
        elif (line["kind"], line["stage"]) == ("evaluation", "rl"):
            assert not list(s3.file("short/checkpoints").glob("*/snapshot.json"))
            s3.signal(signal.SIGCONT)

    heard = Recorder(at)
    run_with(f"s3://{BUCKET}", tmp_path / "run", heard)
    assert heard.lines[-1]["stage"] == "rl"
    assert_whole(s3.file("short/checkpoints"), tmp_path / "run")


def test_a_run_that_cannot_be_copied_is_done_and_fails(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(uploading, "PATIENCE", 2.0)
    out = tmp_path / "run"
    heard = Recorder(lambda line: s3.stop() if line["kind"] == "evaluation" else None)
    with pytest.raises(UploadFailed, match=rf"^s3://{BUCKET}/short: checkpoints/sft-25 could not .* start it again"):
        run_with(f"s3://{BUCKET}", out, heard)
    assert (heard.lines[-1]["kind"], heard.lines[-1]["stage"]) == ("evaluation", "rl")
    assert f"0 of 3 checkpoints in s3://{BUCKET}/short" in write_report(out).read_text()
    s3.start()
    again = Recorder()
    run_with(f"s3://{BUCKET}", out, again)
    assert not again.lines
    assert_whole(s3.file("short/checkpoints"), out)


def test_a_store_that_refuses_is_found_before_anything_is_trained(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment(secret="wrong-but-just-as-secret").items():
        monkeypatch.setenv(name, value)
    heard = Recorder()
    with pytest.raises(BadInput, match=r"^spec\.checkpoint\.objectStore\.url: s3://snapshots/short: ") as refused:
        run_with(f"s3://{BUCKET}", tmp_path / "run", heard)
    assert not heard.lines
    assert "just-as-secret" not in str(refused.value)


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    killed = []

    def at(line: Mapping[str, Any]) -> None:
        if (line["kind"], line["stage"]) == ("evaluation", "base"):
            mine = [child for child in children(os.getpid()) if b"astra_trainer.object_store.upload" in command(child)]
            killed.extend(mine)
            for child in mine:
                os.kill(child, signal.SIGKILL)

    heard = Recorder(at)
    run_with(f"file://{tmp_path}/store", tmp_path / "run", heard)
    assert len(killed) == 1
    assert any("starting it again" in note for note in heard.notes)
    assert_whole(tmp_path / "store" / "short" / "checkpoints", tmp_path / "run")


def children(parent: int) -> list[int]:
    return [
        int(one) for task in Path(f"/proc/{parent}/task").iterdir() for one in (task / "children").read_text().split()
    ]


def command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def start(out: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, str(short.__file__), str(out)],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_interrupted_the_run_ends_with_all_snapshots(s3: S3Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**s3.environment(), short.STORE: f"s3://{BUCKET}"}
    last = f"sft-{short.SFT_STEPS}"
    for by, code, found in ((signal.SIGKILL, -signal.SIGKILL, "sft-25"), (signal.SIGTERM, 130, last)):
        with start(out, environment) as process:
            wait_for((out / "checkpoints" / found).exists, process)
            process.send_signal(by)
            assert process.wait(timeout=60) == code
    with start(out, environment) as process:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    assert_whole(s3.file("short/checkpoints"), out)


def test_interrupted_while_it_waits_for_the_store_it_leaves(s3: S3Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**s3.environment(), short.STORE: f"s3://{BUCKET}"}
    with start(out, environment) as process:
        wait_for(lambda: (out / "metrics.jsonl").exists(), process)
        s3.signal(signal.SIGSTOP)
        wait_for(lambda: '"evaluation","stage":"rl"' in (out / "metrics.jsonl").read_text().replace(" ", ""), process)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert time.monotonic() - began < 60  # far less than it would wait
        assert SECRET not in errors


def wait_for(what: Any, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not what():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)
