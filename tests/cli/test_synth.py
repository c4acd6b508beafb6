"""`astra synth` as a person runs it: exit codes, messages, and what it leaves behind."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RUN = """\
apiVersion: astra.farm/v1alpha1
kind: SynthesisRun
metadata: {name: metals}
spec:
  count: 4
  seed: 2
  environments:
    source: {type: tables, pack: chemistry}
    hops: {min: 1, max: 2}
"""
_spec = importlib.util.spec_from_file_location(
    "scripted_teacher", Path(__file__).parents[1] / "synth" / "scripted_teacher.py"
)
assert _spec is not None
assert _spec.loader is not None
scripted_teacher = importlib.util.module_from_spec(_spec)
sys.modules["scripted_teacher"] = scripted_teacher
_spec.loader.exec_module(scripted_teacher)

Astra = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]


def wait_for_a_toolset(process: "subprocess.Popen[str]", out: Path) -> None:
    while not list(out.glob("done/*.json")):
        assert process.poll() is None
        time.sleep(0.05)


def test_a_run_makes_what_it_was_asked_for(astra: Astra, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    code, out, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 0, err
    assert re.search(r"verified environments +4\n", out)
    assert f"Succeeded: {tmp_path / 'out'}" in out
    assert "sandbox containment: process" in err
    assert json.loads((tmp_path / "out/status.json").read_text())["phase"] == "Succeeded"
    assert list((tmp_path / "out/environments").glob("*.yaml"))


BAD = {
    "unknown pack": (
        RUN.replace("chemistry", "alchemy"),
        "no pack 'alchemy'; shipped packs are administration, aviation",
    ),
    "trajectories": (RUN.replace("  count: 4", "  kind: trajectories\n  count: 4"), "trajectories is not built yet"),
    "pack and path": (RUN.replace("pack: chemistry", "pack: chemistry, path: x.yaml"), "exactly one of pack and path"),
    "missing path": (RUN.replace("pack: chemistry", "path: none.yaml"), "none.yaml: cannot be read"),
    "hops": (RUN.replace("min: 1", "min: 3"), "min 3 is more than max 2"),
    "unknown field": (RUN.replace("seed: 2", "sede: 2"), "did you mean seed?"),
    "another kind": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
        "holds 0 documents of kind SynthesisRun; give a file with exactly one",
    ),
    "two runs": (f"{RUN}---\n{RUN}", "holds 2 documents of kind SynthesisRun"),
    "no such questions": (
        RUN.replace("{type: tables, pack: chemistry}", "{type: questions, path: q.txt}").replace(
            "  count: 4", "  teacher: {baseUrl: 'http://h/v1', model: m}\n  count: 4"
        ),
        "q.txt: cannot be read",
    ),
    "an unknown language": (
        RUN.replace("{type: tables, pack: chemistry}", "{type: knowledge, domains: [a], languages: [xx]}").replace(
            "  count: 4", "  teacher: {baseUrl: 'http://h/v1', model: m}\n  count: 4"
        ),
        "spec.environments.source.languages[0]: xx cannot be told from other languages",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_exits_with_2_and_says_why(name: str, astra: Astra, tmp_path: Path) -> None:
    text, message = BAD[name]
    (tmp_path / "run.yaml").write_text(text)
    code, _, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_interrupt_exits_with_130_and_the_run_goes_on(astra: Astra, start: Start, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace("count: 4", "count: 60"))
    process = start("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    wait_for_a_toolset(process, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/environments").iterdir()}
    code, _, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 0, err
    assert {name: (tmp_path / "out/environments" / name).stat().st_mtime_ns for name in kept} == kept


def test_a_killed_run_goes_on(astra: Astra, start: Start, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace("count: 4", "count: 40"))
    process = start("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    wait_for_a_toolset(process, tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)
    code, _, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 0, err
    assert json.loads((tmp_path / "out/status.json").read_text())["produced"] == 40


def test_another_run_in_the_same_directory_is_refused(astra: Astra, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    assert astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")[0] == 0
    (tmp_path / "run.yaml").write_text(RUN.replace("seed: 2", "seed: 3"))
    code, _, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "holds another run, which differs in spec.seed; choose another directory" in err


@pytest.mark.parametrize(("name", "model"), [("harbours", "Qwen/Qwen3-32B"), ("questions", "Qwen/Qwen3-32B")])
def test_the_examples_with_a_teacher(name: str, model: str, astra: Astra, examples: Path, tmp_path: Path) -> None:
    """As they are shipped, but for the endpoint."""
    shutil.copytree(examples / "teacher", tmp_path / "teacher")
    file = tmp_path / "teacher" / f"{name}.yaml"
    with scripted_teacher.ScriptedTeacher() as teacher:
        file.write_text(file.read_text().replace("http://localhost:8000/v1", teacher.url))
        code, out, err = astra("synth", "-f", file, "--out", tmp_path / "out")
        assert code == 0, err
        assert json.loads(teacher.paid[0].content)["model"] == model
        paid = len(teacher.paid)
        assert astra("synth", "-f", file, "--out", tmp_path / "again", "--cache", tmp_path / "out" / "teacher")[0] == 0
        assert len(teacher.paid) == paid
    assert re.search(r"assemble +\d+ +\d+ +100%", out)
    assert (tmp_path / "out" / "report.html").exists()


def test_a_teacher_that_is_not_there(astra: Astra, examples: Path, tmp_path: Path) -> None:
    code, _, err = astra("synth", "-f", examples / "teacher" / "questions.yaml", "--out", tmp_path / "out")
    assert code == 1
    assert "TeacherUnavailable" in err
    assert "is the endpoint up" in err
    assert "Traceback" not in err
