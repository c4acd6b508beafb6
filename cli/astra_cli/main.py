"""The `astra` command: heeds signals from the first moment on, and exits as its command came out."""

import contextlib
import io
import os
import sys
import tempfile

from astra_api.interrupts import EXIT_CODE, Interrupted, interrupts


def main() -> None:
    """Runs the command line and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character ends nothing
    try:
        with interrupts():
            code = run(sys.argv[1:])
    except Interrupted as error:  # before a command began, or once it was done
        code = EXIT_CODE
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(error.word, file=sys.stderr)
    except SystemExit as error:  # whoever read the output has enough
        code = error.code if isinstance(error.code, int) else 1
    code = _flushed(code)
    _tidy()
    if code == EXIT_CODE:
        os._exit(code)  # not when the step under way in another thread ends, which is done again anyway
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Runs one command; the exit code. The only place where errors end: bad input prints without a traceback."""
    from astra_cli.commands import run_command

    return run_command(arguments)


def _flushed(code: int) -> int:
    """The exit code, once all is written. A reader that is gone makes it another, and must not be written to again."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        return code or 1
    return code


def _tidy() -> None:
    """Removes the empty folder that torch makes for its compiler when it is imported."""
    if "torch" in sys.modules:
        for folder in os.scandir(tempfile.gettempdir()):
            if folder.name.startswith("torchinductor_"):
                with contextlib.suppress(OSError):  # it holds something, or is another user's
                    os.rmdir(folder)
