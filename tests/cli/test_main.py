"""The `astra` command: help, usage errors, and the exit code of whatever goes wrong."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from astra_api.errors import BadInput
from astra_cli import main
from astra_sandbox.interface import SandboxUnavailable

Astra = Callable[..., tuple[int, str, str]]
COMMANDS = {
    ("demo",): "astra demo --out runs/demo",
    ("train",): "astra train -f examples/train-tiny.yaml",
    ("synth",): "astra synth -f examples/synthesis/geography.yaml",
    ("plan",): "astra plan -f examples/train-qwen3-14b.yaml",
    ("env", "verify"): "astra env verify envs/",
    ("env", "show"): "astra env show city.yaml",
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(astra: Astra, command: tuple[str, ...]) -> None:
    code, out, _ = astra(*command, "--help")
    assert code == 0
    assert COMMANDS[command] in out


def test_the_help_of_all_lists_every_command(astra: Astra) -> None:
    code, out, _ = astra("--help")
    assert code == 0
    for command, *_ in COMMANDS:
        assert command in out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from astra_cli.main import run; assert run(['train', '--help']) == 0; "
        "print(sorted({'torch', 'transformers', 'duckdb', 'grpc', 'matplotlib', 'verl'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["train"], "Missing option"),
        (["train", "-f", "x.yaml"], "Missing option '--out'"),
        (["demo", "--seed", "-1"], "--seed"),
        (["demo", "--seed", "one"], "--seed"),
        (["demo", "extra"], "unexpected extra argument"),
        (["synth", "--jobs", "0"], "--jobs"),
        (["plan"], "Missing option '-f'"),
        (["plan", "-f", "x.yaml", "--mfu", "2"], "--mfu"),
        (["env"], ""),
        ([], ""),
    ],
)
def test_bad_usage_exits_with_2(astra: Astra, arguments: list[str], message: str) -> None:
    code, out, err = astra(*arguments)
    assert code == 2
    assert message in err
    assert "Usage: astra" in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BadInput("spec.seed: is odd; make it even"), 2, "error: spec.seed: is odd; make it even"),
        (SandboxUnavailable("nobody answers"), 1, "error: SandboxUnavailable: nobody answers"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here"),
    ],
)
def test_what_goes_wrong_becomes_a_line_and_an_exit_code(
    astra: Astra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, code: int, message: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("astra_cli.synth.load_manifests", fails)
    found, out, err = astra("synth", "-f", tmp_path / "x.yaml", "--out", tmp_path / "out")
    assert (found, out, err.strip()) == (code, "", message)


def test_an_error_that_nobody_foresaw_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("astra_cli.synth.load_manifests", fails)
    with pytest.raises(ZeroDivisionError):
        main.run(["synth", "-f", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "out")])


def test_an_isolation_that_does_not_exist(astra: Astra, monkeypatch: pytest.MonkeyPatch, examples: Path) -> None:
    monkeypatch.setenv("ASTRA_ISOLATION", "castle")
    code, _, err = astra("env", "verify", examples / "environments")
    assert code == 1
    assert "ASTRA_ISOLATION=castle: give one of process, namespaces, gvisor" in err
