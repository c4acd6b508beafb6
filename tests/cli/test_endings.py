"""How long commands end before they are done: signals, full disks, few descriptors. Each can be gone on with."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Astra = Callable[..., tuple[int, str, str]]
PROGRAM = "from astra_cli.main import main; main()"
SYNTHESIS = """\
apiVersion: astra.farm/v1alpha1
kind: SynthesisRun
metadata: {name: metals}
spec:
  count: COUNT
  environments:
    source: {type: tables, pack: chemistry}
    hops: {min: 1, max: 2}
"""
TRAINING = """\
apiVersion: astra.farm/v1alpha1
kind: TrainingRun
metadata: {name: short}
spec:
  model: {path: MODEL}
  environments: {holdout: {selector: {matchLabels: {astra.farm/domain: travel}}}}
  sft: {dataset: {type: gold, recoveries: 0.0}, epochs: 3000, batchSize: 4, learningRate: 1e-3, maxLength: 2048}
"""


class Place:
    """Where a command runs: a folder for its output, and one for what is temporary."""

    def __init__(self, root: Path) -> None:
        self.out, self.temporary, self.run = root / "out", root / "temporary", root / "run.yaml"
        self.temporary.mkdir()

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-c", PROGRAM, *map(str, arguments)]

    def start(self, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
        here = {"TMPDIR": str(self.temporary), "ASTRA_ISOLATION": "process", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            self.command(*arguments),
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    @property
    def left(self) -> list[str]:
        """What is still there: processes that were started with this folder for temporary files, and files."""
        marker = f"TMPDIR={self.temporary}".encode()
        found = [str(path) for path in self.temporary.iterdir()]
        found += [str(path) for path in self.out.rglob("*") if path.suffix == ".part"] if self.out.exists() else []
        found += [str(path) for path in self.out.rglob(".*") if path.name != ".lock"] if self.out.exists() else []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if marker in (entry / "environ").read_bytes().split(b"\0") and not _ended(entry):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def stays(self) -> list[str]:
        """What is left once what is about to end has ended."""
        until = time.monotonic() + 10
        while self.left and time.monotonic() < until:
            time.sleep(0.05)
        return self.left


def _ended(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def when(process: "subprocess.Popen[str]", ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def _heeds(process: "subprocess.Popen[str]", number: signal.Signals) -> bool:
    """Whether the process has begun to catch a signal, as the kernel knows."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def ended(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """What it said to a signal, which its exit code tells of."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    return err.splitlines()[-1]


def test_a_synthesis_leaves_nothing_and_goes_on(place: Place) -> None:
    place.run.write_text(SYNTHESIS.replace("COUNT", "400"))
    process = place.start("synth", "-f", place.run, "--out", place.out)
    when(process, lambda: any(place.out.glob("done/*.json")))
    assert ended(process, signal.SIGHUP) == "hung up; the same command goes on from here"
    assert place.stays() == []
    kept = sorted(place.out.glob("done/*.json"))
    process = place.start("synth", "-f", place.run, "--out", place.out)
    when(process, lambda: len(list(place.out.glob("done/*.json"))) > len(kept))
    assert ended(process, signal.SIGINT) == "interrupted; the same command goes on from here"
    assert place.stays() == []


def test_a_training_leaves_nothing(place: Place, small_model: Path, examples: Path) -> None:
    place.run.write_text(TRAINING.replace("MODEL", str(small_model)))
    process = place.start("train", "-f", place.run, "-f", examples / "environments", "--out", place.out)
    metrics = place.out / "metrics.jsonl"
    when(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 2)
    assert ended(process, signal.SIGTERM) == "terminated; the same command goes on from here"
    assert place.stays() == []


@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_a_verification_leaves_nothing_whenever_it_is_ended(pause: float, place: Place, examples: Path) -> None:
    process = place.start("env", "verify", *[examples / "environments"] * 60)
    when(process, lambda: _heeds(process, signal.SIGTERM))
    time.sleep(pause)
    assert ended(process, signal.SIGTERM) == "terminated"
    assert place.stays() == []


def test_what_was_started_to_outlive_its_terminal_does(place: Place) -> None:
    """As by `nohup`."""
    place.run.write_text(SYNTHESIS.replace("COUNT", "400"))

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = place.start("synth", "-f", place.run, "--out", place.out, preexec_fn=ignore)
    when(process, lambda: any(place.out.glob("done/*.json")))
    process.send_signal(signal.SIGHUP)
    done = len(list(place.out.glob("done/*.json")))
    when(process, lambda: len(list(place.out.glob("done/*.json"))) > done)
    ended(process, signal.SIGTERM)


def limited(**limits: int) -> Callable[[], None]:
    def limit() -> None:
        for name, value in limits.items():
            soft = (value, resource.getrlimit(getattr(resource, name))[1])
            resource.setrlimit(getattr(resource, name), soft)

    return limit


def test_few_descriptors_are_told_with_the_fix(place: Place, examples: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    place.run.write_text(SYNTHESIS.replace("COUNT", "4"))
    for arguments in (
        ("env", "verify", examples / "environments"),
        ("synth", "-f", place.run, "--out", place.out),
    ):
        process = place.start(*arguments, preexec_fn=few)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err == "error: only 64 files may be open at once, and 256 are needed; raise the limit (ulimit -n 4096)\n"
        assert place.stays() == []
    process = place.start("env", "verify", examples / "environments", "-q", preexec_fn=limited(RLIMIT_NOFILE=64))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), "a process may raise its own limit up to the hard one"
    assert out.startswith("2 verified")


def test_files_that_may_not_be_written_whole_end_a_run_with_one_line_and_it_goes_on(
    astra: Astra, place: Place, small_model: Path, examples: Path
) -> None:
    """A limit on the size of files stands in for a full disk: libraries that cannot write do not tell which it was."""
    text = TRAINING.replace("MODEL", str(small_model)).replace("epochs: 3000", "epochs: 3")
    place.run.write_text(text)
    command = ("train", "-f", place.run, "-f", examples / "environments", "--out", place.out, "--quiet")
    process = place.start(*command, preexec_fn=limited(RLIMIT_FSIZE=100_000))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert err.count("\n") == 1
    assert err.startswith(f"error: {place.out}")
    assert "; the same command goes on from here" in err
    assert place.stays() == []
    assert not (place.out / "checkpoints/sft-3").exists()
    code, out, err = astra(*command)
    assert code == 0, err
    assert out == f"report: {place.out / 'report.html'}\n"
