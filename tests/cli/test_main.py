"""The `astra` command: help, usage errors, and the exit code of whatever goes wrong."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
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
    ("report",): "astra report runs/tiny",
    ("env", "list"): "astra env list runs/small",
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
        (["report"], "Missing argument 'DIR'"),
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


def test_the_version(astra: Astra) -> None:
    code, out, err = astra("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"astra \d+\.\d+\S*\n", out)


def astra_process(*arguments: object, through: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command as a process, its output piped through another command if one is given."""
    program = [sys.executable, "-c", "from astra_cli.main import main; main()", *map(str, arguments)]
    line = f"set -o pipefail; {shlex.join(program)} {through}\nexit $?"  # so that the shell stays, as its parent
    here = {"PYTHONPATH": os.pathsep.join(sys.path), "ASTRA_ISOLATION": "process"}
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, **here, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "offers"),
    [("astra tr", {"train"}), ("astra env ", {"verify", "list", "show"}), ("astra train --dr", {"--dry-run"})],
)
def test_a_shell_completes_commands_and_options(words: str, offers: set[str]) -> None:
    asked = {"_ASTRA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert set(astra_process(**asked).stdout.split()) == offers


def test_completion_is_shown_for_a_shell() -> None:
    found = astra_process("--show-completion", "bash")
    assert found.returncode == 0
    assert "_ASTRA_COMPLETE=complete_bash" in found.stdout


def many(folder: Path, examples: Path, count: int = 300) -> Path:
    text = (examples / "environments/city-trip.yaml").read_text()
    texts = [text.replace("name: city-trip", f"name: city-trip-{n}") for n in range(count)]
    (folder / "many.yaml").write_text("\n---\n".join(texts))
    return folder / "many.yaml"


@pytest.mark.parametrize(
    "command", [("env", "list"), ("env", "list", "--json"), ("env", "show"), ("env", "show", "--json")]
)
def test_a_reader_that_has_enough_is_no_error(command: tuple[str, ...], tmp_path: Path, examples: Path) -> None:
    found = astra_process(*command, many(tmp_path, examples), through="| head -1")
    assert found.stdout.count("\n") == 1
    assert found.stderr == ""


def test_a_full_disk_under_the_output_is_an_error(tmp_path: Path, examples: Path) -> None:
    found = astra_process("env", "list", many(tmp_path, examples), through="> /dev/full")
    assert found.returncode == 1
    assert "No space left on device" in found.stderr or "no space left" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_terminal_without_unicode_or_colours_takes_everything(tmp_path: Path, examples: Path) -> None:
    text = (examples / "environments/city-trip.yaml").read_text()
    (tmp_path / "e.yaml").write_text(text.replace("larger of Paris", "größeren, 大きい, of Paris"))
    no_unicode = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for command, settings in (
        (("env", "list"), no_unicode),
        (("env", "show"), {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}),
        (("env", "show"), {"TERM": "dumb"}),
    ):
        found = astra_process(*command, tmp_path / "e.yaml", **settings)
        assert (found.returncode, found.stderr) == (0, "")
        assert "\x1b" not in found.stdout
    found = astra_process("env", "show", "--json", tmp_path / "e.yaml", **no_unicode)
    assert "größeren, 大きい" in json.loads(found.stdout)["spec"]["question"]


def test_a_synthesis_and_a_verification_may_be_quiet(astra: Astra, tmp_path: Path, examples: Path) -> None:
    run = "apiVersion: astra.farm/v1alpha1\nkind: SynthesisRun\nmetadata: {name: metals}\n"
    run += "spec: {count: 4, environments: {source: {type: tables, pack: chemistry}, hops: {min: 1, max: 2}}}\n"
    (tmp_path / "run.yaml").write_text(run)
    code, out, err = astra(
        "synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out", "-q", "--set", "spec.count=3"
    )
    assert (code, out, err) == (0, f"Succeeded: {tmp_path / 'out'}\n", "")
    assert json.loads((tmp_path / "out/run.json").read_text())["spec"]["count"] == 3
    code, out, err = astra("env", "verify", examples / "environments", "--quiet")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"2 verified in \S+ s \(\d+ a second\)\n", out)
    code, out, _ = astra("env", "list", tmp_path / "out")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["name", "domain", "scenario", "verdict", "hops", "steps", "tools", "question"]
    assert [row[3] for row in rows[1:]] == ["Verified"] * 3


def test_two_syntheses_into_one_folder(
    astra: Astra, start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    run = "apiVersion: astra.farm/v1alpha1\nkind: SynthesisRun\nmetadata: {name: metals}\n"
    run += "spec: {count: 400, environments: {source: {type: tables, pack: chemistry}, hops: {min: 1, max: 2}}}\n"
    (tmp_path / "run.yaml").write_text(run)
    first = start("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    while not any((tmp_path / "out").glob("done/*.json")):
        assert first.poll() is None
        time.sleep(0.02)
    code, out, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"--out {tmp_path / 'out'}: another process is writing into it; wait, or give another one" in err
