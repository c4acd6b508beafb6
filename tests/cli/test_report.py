"""`astra report`: at any moment of a run, of a folder that is none, and beside a run that goes on."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from astra_api.training_run import TrainingRun

Astra = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]

SYNTHESIS = """\
apiVersion: astra.farm/v1alpha1
kind: SynthesisRun
metadata: {name: metals}
spec:
  count: 400
  environments:
    source: {type: tables, pack: chemistry}
    hops: {min: 1, max: 2}
"""


def begun(path: Path) -> Path:
    """The directory of a run that has done nothing yet."""
    from astra_trainer.run_directory import open_run

    run = TrainingRun.model_validate({"metadata": {"name": "new"}, "spec": {"model": {"name": "a/b"}, "rl": {}}})
    with open_run(path, run, "sha256:0"):
        pass
    return path


def test_a_run_that_has_only_begun(astra: Astra, tmp_path: Path) -> None:
    code, out, err = astra("report", begun(tmp_path / "run"))
    assert (code, out, err) == (0, f"report: {tmp_path / 'run/report.html'}\n", "")
    assert "Unfinished: Base; RL at step 0 of 140" in (tmp_path / "run/report.html").read_text()


def foreign(path: Path) -> None:
    (path / "thesis.txt").write_text("mine")


def manifest(path: Path) -> None:
    """A folder of a user's own manifests."""
    (path / "run.yaml").write_text(
        "apiVersion: astra.farm/v1alpha1\nkind: TrainingRun\nmetadata: {name: x}\n"
        "spec: {model: {preset: tiny}, rl: {}}\n"
    )


def damaged(path: Path) -> None:
    (path / "run.json").write_text('{"name": "x"')


def another(path: Path) -> None:
    (path / "run.json").write_text('{"scripts": {"test": "jest"}, "name": "a web page", "spec": {"count": 1}}')


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.rmdir(), "there is no such directory"),
        (lambda path: None, "is empty; give --out of astra train or astra synth"),
        (lambda path: (path.rmdir(), path.write_text("x")), "is a file; give the directory that holds it"),
        (foreign, "is not the directory of a run (it has no run.yaml and no run.json)"),
        (manifest, "its run.yaml is a manifest, and no record of a run"),
        (damaged, "is not the output of a synthesis run"),
        (another, "is not the output of a synthesis run"),
        (lambda path: (path / "run.yaml").mkdir(), "run.yaml: "),
    ],
)
def test_what_is_no_run_gets_one_line_and_is_left_as_it_was(
    astra: Astra, tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "some where"
    path.mkdir()
    make(path)
    before = sorted(path.rglob("*"))
    code, out, err = astra("report", path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(path) in err
    assert says in err
    assert sorted(path.rglob("*")) == before


def test_a_synthesis_is_reported_while_it_runs_and_after_it_was_killed(
    astra: Astra, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "run.yaml").write_text(SYNTHESIS)
    process = start("synth", "-f", tmp_path / "run.yaml", "--out", out)
    while not any(out.glob("done/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    for _ in range(3):
        code, said, err = astra("report", out)
        assert code == 0, err
        assert said == f"report: {out / 'report.html'}\n"
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert astra("report", out)[0] == 0
    page = (out / "report.html").read_text()
    assert re.search(r"\d+ of 400 environments so far", page)


def test_of_a_demo_its_syntheses_have_reports_too(astra: Astra, tmp_path: Path) -> None:
    made = tmp_path / "demo/environments/metals"
    made.mkdir(parents=True)
    source = {"type": "tables", "pack": "chemistry"}
    run = {"name": "metals", "spec": {"count": 5, "seed": 0, "environments": {"source": source}}}
    (made / "run.json").write_text(json.dumps(run))
    code, out, err = astra("report", tmp_path / "demo")
    assert (code, out) == (0, f"report: {made / 'report.html'}\n"), err
    assert "0 of 5 environments so far" in (made / "report.html").read_text()
    begun(tmp_path / "demo")
    assert astra("report", tmp_path / "demo")[1].splitlines() == [
        f"report: {made / 'report.html'}",
        f"report: {tmp_path / 'demo/report.html'}",
    ]


def test_a_report_is_one_file_that_needs_no_other(astra: Astra, tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    lines = [{"kind": "train", "stage": "rl", "step": n, "reward_mean": 0.5, "seconds": 1.0} for n in (1, 2, 3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert astra("report", path)[0] == 0
    page = (path / "report.html").read_text()
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^" >)]+)', page)
    assert sources
    for source in sources:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.partition(",")[2], validate=True).startswith(b"\x89PNG")
    assert "img-src data:" in page
    assert "@media print" in page


def test_reports_written_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    from astra_trainer.report import write_report

    path, errors = begun(tmp_path / "run"), list[BaseException]()

    def write() -> None:
        try:
            for _ in range(10):
                write_report(path)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert not [name for name in os.listdir(path) if name.endswith(".part")]
