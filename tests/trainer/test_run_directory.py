"""The run directory: what is committed stays, what is not is undone, and nobody else's run is touched."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytest

from astra_api.errors import BadInput
from astra_api.training_run import TrainingRun
from astra_api.yaml_writing import yaml_text
from astra_trainer.compute import compute
from astra_trainer.run_directory import Position, RunDirectory, open_run


def a_run(**spec: Any) -> TrainingRun:
    rl = {"steps": 5, "learningRate": 1e-6}
    checkpoint = {"keepStates": 2}
    return TrainingRun.model_validate(
        {
            "metadata": {"name": "run"},
            "spec": {"model": {"preset": "tiny"}, "rl": rl, "checkpoint": checkpoint, **spec},
        }
    )


def commit(directory: RunDirectory, step: int, stage: str = "rl") -> None:
    position = Position(stage=stage, step=step)  # type: ignore[arg-type]
    directory.commit(position, {"stage": stage, "step": step}, lambda file: file.write_text(f"engine {step}") and None)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_commits_are_found_again(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert directory.position is None
        commit(directory, 1)
        commit(directory, 2)
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert directory.position == Position(stage="rl", step=2)
        assert directory.engine_state is not None
        assert directory.engine_state.read_text() == "engine 2"
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


class Crash(BaseException):
    """The process dies here."""


def test_what_was_written_but_not_committed_is_undone(tmp_path: Path) -> None:
    def dies(_: Path) -> None:
        raise Crash

    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        commit(directory, 1)
        directory.save_trajectories("rl", 1, "train", [])
        directory.save_trajectories("rl", 2, "train", [])
        directory.save_trajectories("sft", 0, "demonstrations", [])
        with pytest.raises(Crash):
            directory.commit(Position(stage="rl", step=2), {"stage": "rl", "step": 2}, dies)
    assert len(lines(tmp_path)) == 2  # the line was out before the process died
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert directory.position == Position(stage="rl", step=1)
        assert [line["step"] for line in lines(tmp_path)] == [1]
        left = sorted(file.name for file in (tmp_path / "trajectories").iterdir())
        assert left == ["rl-000001-train.jsonl", "sft-000000-demonstrations.jsonl"]
        commit(directory, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_snapshot_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        (folder / "half").write_text("")
        raise Crash

    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        directory.save_snapshot("rl", 10, lambda folder: (folder / "whole").write_text("") and None)
        with pytest.raises(Crash):
            directory.save_snapshot("rl", 10, dies)
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert [file.name for file in directory.last_checkpoint("rl").iterdir()] == ["whole"]
        assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["rl-10"]


def test_states_and_snapshots_are_kept_separately(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        for step in range(1, 6):
            directory.save_snapshot("rl", step, lambda folder: None)
            commit(directory, step)
    assert len(list((tmp_path / "state").iterdir())) == 2
    assert len(list((tmp_path / "checkpoints").iterdir())) == 5


def test_removing_the_newest_state_goes_back_a_step(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        for step in range(1, 4):
            commit(directory, step)
    newest = max((tmp_path / "state").iterdir())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert directory.position == Position(stage="rl", step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_an_evaluation_keeps_the_engine_of_the_step_before(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        commit(directory, 3, "sft")
        assert not directory.completed("sft")
        directory.commit(Position(stage="sft", step=3, evaluated=True), {})
        assert directory.completed("sft")
        assert directory.completed("base")
        assert not directory.completed("rl")
        assert directory.engine_state is not None
        assert directory.engine_state.read_text() == "engine 3"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 7}, r"spec\.seed"),
        ({"rl": {"steps": 5, "learningRate": 2e-6}}, r"spec\.rl\.learningRate"),
        ({"rl": {"steps": 6, "learningRate": 1e-6}}, r"spec\.rl\.steps"),
        ({"sft": {"dataset": {"type": "gold"}}}, r"spec\.sft"),
        ({"model": {"path": "elsewhere"}}, r"spec\.model\.path"),
    ],
)
def test_a_changed_run_is_refused_and_the_field_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    with open_run(tmp_path, a_run(), "sha256:1"):
        pass
    before = (tmp_path / "run.yaml").read_bytes()
    with pytest.raises(BadInput, match=rf"^{field}: .*new directory"), open_run(tmp_path, a_run(**change), "sha256:1"):
        pass
    assert (tmp_path / "run.yaml").read_bytes() == before


def test_what_does_not_matter_to_the_steps_may_change(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1"):
        pass
    with open_run(tmp_path, a_run(checkpoint={"keepStates": 5}, sandboxes={"replicas": 3}), "sha256:1"):
        pass
    assert "replicas: 3" in (tmp_path / "run.yaml").read_text()


def test_other_environments_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, a_run(), "sha256:1"):
        pass
    with pytest.raises(BadInput, match="other environments"), open_run(tmp_path, a_run(), "sha256:2"):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="not the directory of a run"), open_run(tmp_path, a_run(), "sha256:1"):
        pass
    assert not (tmp_path / "run.yaml").exists()


def test_run_yaml_holds_the_run_as_resolved(tmp_path: Path) -> None:
    from astra_api.manifests import load_manifests

    with open_run(tmp_path, a_run(), "sha256:1"):
        pass
    (read,) = load_manifests([tmp_path / "run.yaml"])
    assert isinstance(read.resource, TrainingRun)
    assert read.resource.spec == a_run().spec
    assert "clipRatio: 0.2" in (tmp_path / "run.yaml").read_text()


def test_two_processes_cannot_train_in_one_directory(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from test_run_directory import a_run\n"
        "from astra_api.errors import BadInput; from astra_trainer.run_directory import open_run\n"
        "try:\n    open_run(Path(sys.argv[1]), a_run(), 'sha256:1').__enter__()\n"
        "except BadInput as error:\n    print(error); sys.exit(2)\n"
    )
    paths = ":".join([*filter(None, sys.path), str(Path(__file__).parent)])
    with open_run(tmp_path, a_run(), "sha256:1"):
        found = subprocess.run(
            [sys.executable, "-c", other, str(tmp_path)],
            env={"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 2, found.stderr
    assert "another process is training" in found.stdout


async def test_a_commit_under_way_when_a_run_is_given_up_is_whole(tmp_path: Path) -> None:
    """Its thread does not hear of the interrupt: what it writes is neither lost nor half swept away."""
    began = threading.Event()

    def engine(file: Path) -> None:
        file.write_text("half ")
        began.set()
        time.sleep(0.3)
        with file.open("a") as state:
            state.write("an engine")

    with contextlib.suppress(Crash), open_run(tmp_path, a_run(), "sha256:1") as directory:
        line = {"stage": "rl", "step": 1}
        committing = asyncio.ensure_future(compute(directory.commit, Position(stage="rl", step=1), line, engine))
        await asyncio.to_thread(began.wait)
        raise Crash
    await committing
    assert [line["step"] for line in lines(tmp_path)] == [1]
    with open_run(tmp_path, a_run(), "sha256:1") as directory:
        assert directory.position == Position(stage="rl", step=1)
        assert directory.engine_state is not None
        assert directory.engine_state.read_text() == "half an engine"


async def test_while_a_step_that_was_given_up_still_runs_nobody_has_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astra_trainer.run_directory._PATIENCE", 0.05)
    held: list[TextIO] = []
    monkeypatch.setattr("astra_trainer.run_directory._HELD", held)
    began, may_end = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        (folder / "weights").write_text("half")
        began.set()
        may_end.wait(20)

    with contextlib.suppress(Crash), open_run(tmp_path, a_run(), "sha256:1") as directory:
        (tmp_path / "checkpoints" / ".empty").mkdir()
        snapshot = asyncio.ensure_future(compute(directory.save_snapshot, "rl", 1, write))
        await asyncio.to_thread(began.wait)
        raise Crash
    assert not (tmp_path / "checkpoints" / ".empty").exists()
    with pytest.raises(BadInput, match="another process is training"), open_run(tmp_path, a_run(), "sha256:1"):
        pass
    may_end.set()
    await snapshot
    assert (tmp_path / "checkpoints/rl-1/weights").read_text() == "half", "the writer had all that it wrote"
    held.pop().close()


def test_a_folder_of_manifests_is_left_alone(tmp_path: Path) -> None:
    text = yaml_text(a_run().model_dump(mode="json", by_alias=True, exclude_none=True))
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"its run\.yaml is a manifest"), open_run(tmp_path, a_run(), "sha256:1"):
        pass
    assert (tmp_path / "run.yaml").read_text() == text
