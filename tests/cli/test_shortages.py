"""What a machine had too little of, told of the error of whatever library: what, of which file, and the fix."""

import errno
import os
from pathlib import Path

import pytest

from astra_api.errors import BadInput
from astra_cli.shortages import cut_short, shortage


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"), "/data/x: no space left on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "OUT: the disk quota is used up"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files for this process; raise the limit (ulimit"),
        (
            RuntimeError("Error while serializing: IoError(Os { code: 28, message: No space left on device })"),
            "OUT: no space",
        ),
        (Exception("No space left on device (os error 28)"), "OUT: no space left"),
        (RuntimeError("can't start new thread"), "no more processes or threads may be started"),
        (chained(ValueError("report"), OSError(errno.ENOSPC, "", "/data/y")), "/data/y: no space left"),
        (
            ExceptionGroup("tasks", [ValueError("x"), OSError(errno.EROFS, "", "/data/z")]),
            "/data/z: the file system is",
        ),
        (MemoryError(), "no memory left"),
    ],
)
def test_shortages(error: BaseException, says: str, tmp_path: Path) -> None:
    said = shortage(error, str(tmp_path))
    assert said is not None
    assert said.replace(str(tmp_path), "OUT").startswith(says)
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        FileNotFoundError(errno.ENOENT, "", "x"),
        ConnectionRefusedError(errno.ECONNREFUSED, ""),
        KeyError("28"),
    ],
)
def test_other_errors_are_none(error: BaseException, tmp_path: Path) -> None:
    assert shortage(error, str(tmp_path)) is None


def test_input_that_was_taken_to_be_bad_for_a_shortage() -> None:
    def refused(cause: OSError) -> BadInput:
        error = BadInput("spec.model: cannot be loaded")
        error.__context__ = cause
        return error

    said = cut_short(refused(OSError(errno.EMFILE, "Too many open files", "model.safetensors")))
    assert said is not None
    assert said.startswith("model.safetensors: too many open files")
    assert cut_short(refused(OSError(errno.EROFS, "Read-only file system"))) is None
    assert cut_short(BadInput("spec.model: no")) is None
