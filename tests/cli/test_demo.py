"""`astra demo`: what it runs, and one of its runs cut down, interrupted twice, to its report."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astra_api.resource import Resource
from astra_api.yaml_writing import yaml_text
from astra_cli.demo import MANIFESTS, seeded_runs

Astra = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]


def _plain(resource: Resource) -> dict[str, Any]:
    return resource.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_a_seed_changes_seeds_and_nothing_else() -> None:
    first, other = seeded_runs(0), seeded_runs(5)
    for old, new in zip([*first[0], first[1]], [*other[0], other[1]], strict=True):
        assert (old.spec.seed, new.spec.seed) == (0, 5)
        plain, changed = _plain(old), _plain(new)
        changed["spec"]["seed"] = 0
        assert plain == changed


def test_the_demo_trains_in_every_stage_on_several_domains() -> None:
    syntheses, training = seeded_runs(0)
    assert len({run.metadata.name for run in syntheses}) == len(syntheses) >= 3
    assert training.spec.sft is not None
    assert training.spec.rl is not None
    assert training.spec.model.preset == "tiny"
    assert training.spec.engine == "embedded"


@pytest.fixture
def short_demo(tmp_path: Path, small_model: Path) -> Path:
    """The demo's manifests with few environments, few steps, and a model that needs no practice."""
    syntheses, training = seeded_runs(0)
    made = [_plain(run) for run in (syntheses[0], syntheses[-1])]
    for run in made:
        run["spec"]["count"] = 8
        run["spec"]["environments"]["source"]["toolset"]["environments"] = 4
    trained = _plain(training)
    spec = trained["spec"]
    spec["model"] = {"path": str(small_model)}
    spec["environments"]["holdout"] = {"fraction": 0.25}
    spec["sft"] |= {"epochs": 6, "batchSize": 4, "maxLength": 2048}
    spec["rl"] |= {"steps": 2, "groupSize": 2, "batchSize": 4, "maxTurns": 2, "maxPromptTokens": 2048}
    spec["rl"] |= {"maxResponseTokens": 24, "batchFilling": {"maxRounds": 1}}
    file = tmp_path / "short.yaml"
    file.write_text("---\n".join(yaml_text(document) for document in [*made, trained]))
    return file


def lines(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []


def interrupt(process: "subprocess.Popen[str]", ready: Callable[[], bool]) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in printed + err


def test_a_demo_is_interrupted_goes_on_and_ends_with_its_report(start: Start, short_demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("demo", "-f", short_demo, "--out", out, "--seed", 3)
    interrupt(start(*command), lambda: any(out.glob("environments/geography/done/*.json")))
    assert not lines(out)
    interrupt(start(*command), lambda: len(lines(out)) > 2)
    kept = lines(out)
    process = start(*command)
    printed, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert lines(out)[: len(kept) - 1] == kept[:-1], "the last one may not have been committed"
    figures = [json.loads(line) for line in lines(out)]
    assert [f["stage"] for f in figures if f["kind"] == "evaluation"] == ["base", "sft", "rl"]
    assert [f["step"] for f in figures if f["stage"] == "rl"] == [1, 2, 2]
    assert "nan" not in (out / "metrics.jsonl").read_text().lower()
    assert f"report: {out / 'report.html'}" in printed
    assert "</html>" in (out / "report.html").read_text()
    for line in [
        json.loads(line) for line in (out / "trajectories/base-000000-holdout.jsonl").read_text().splitlines()
    ]:
        assert line["environment"].startswith(("geography-", "chemistry-"))
    assert err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.split("---\n")[-1], "0 documents of kind SynthesisRun and 1 of kind TrainingRun"),
        (lambda text: text.rpartition("---\n")[0], "and 0 of kind TrainingRun"),
        (
            lambda text: text.replace("name: aviation", "name: geography"),
            "geography: names of SynthesisRuns must differ",
        ),
        (lambda text: text.replace("steps:", "setps:"), "did you mean steps?"),
    ],
)
def test_a_demo_of_other_manifests_that_cannot_be(
    astra: Astra, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(change(MANIFESTS.read_text()))
    code, _, err = astra("demo", "-f", file, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(astra: Astra, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    code, _, err = astra("demo", "--out", tmp_path / "out")
    assert code == 2
    assert err.strip() == f"error: --out {tmp_path / 'out'}: is a file; give a directory"


def test_tables_that_give_too_few_environments(astra: Astra, short_demo: Path, tmp_path: Path) -> None:
    short_demo.write_text(short_demo.read_text().replace("count: 8", "count: 1").replace("min: 3", "min: 32"))
    short_demo.write_text(short_demo.read_text().replace("max: 4", "max: 32"))
    code, _, err = astra("demo", "-f", short_demo, "--out", tmp_path / "out")
    assert code == 2
    assert "geography: spec.count: 0 of 1 could be made; lower it, or see" in err
