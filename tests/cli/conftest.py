"""The command line as a person runs it, in this process or as one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from astra_cli.main import run

Astra = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def astra(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Astra:
    """Runs a command here; exit code, standard output, standard error."""
    monkeypatch.setenv("ASTRA_ISOLATION", "process")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", "from astra_cli.main import main; main()", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ASTRA_ISOLATION": "process"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def examples() -> Path:
    return Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """A folder with a model that can do nothing, soon made."""
    from astra_api.environment import Environment
    from astra_api.manifests import load_manifests
    from astra_trainer.tiny import TinyModel

    found = [manifest.resource for manifest in load_manifests([examples / "environments"])]
    folder = tmp_path_factory.mktemp("small") / "model"
    environments = [resource for resource in found if isinstance(resource, Environment)]
    TinyModel(hidden=32, intermediate=64, practice=()).build(environments, 0, folder)
    return folder
