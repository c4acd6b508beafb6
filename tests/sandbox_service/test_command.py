"""`python -m astra_sandbox`: help with examples, and exit code 2 without a traceback for bad usage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "astra_sandbox", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
    )


def test_help_shows_examples() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout
    assert "--tls-ca" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--listen"),
        (["--listen", "nonsense"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--listen", "0.0.0.0:50051"], "not loopback"),
        (["--listen", "unix:/does/not/exist/s"], "does not exist"),
        (["--listen", "unix:/tmp/" + "x" * 120], "107"),
        (["--listen", "127.0.0.1:0", "--capacity", "0"], "positive"),
        (["--listen", "127.0.0.1:0", "--capacity", "many"], "--capacity"),
        (["--listen", "127.0.0.1:0", "--idle-seconds", "nan"], "positive"),
        (["--listen", "127.0.0.1:0", "--contain", "hope"], "--contain"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "x"], "go together"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "/no", "--tls-key", "/no", "--tls-ca", "/no"], "No such file"),
    ],
)
def test_bad_usage_is_explained(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_an_address_in_use_is_explained(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    result = run("--listen", f"unix:{tmp_path}/s", "--contain", "process")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "cannot listen" in result.stderr


def test_a_file_that_is_no_certificate_is_explained(tmp_path: Path) -> None:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("-----BEGIN nothing")
    flags = [word for name in ("cert", "key", "ca") for word in (f"--tls-{name}", str(tmp_path / name))]
    result = run("--listen", "127.0.0.1:0", "--contain", "process", *flags)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "cannot listen" in result.stderr
