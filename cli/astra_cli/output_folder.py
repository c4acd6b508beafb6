"""The folder that a command writes into."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from astra_api.errors import BadInput


def output_folder(path: Path) -> Path:
    """Makes the folder, where it is missing, before any long work begins. Raises BadInput when nothing can go there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadInput(f"--out {path}: is a file; give a directory") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(f"--out {path}: cannot be made: {error.strerror}; give another directory") from None
    writable(path)
    return path


def writable(path: Path) -> None:
    """Raises BadInput where `path`, or the nearest folder above it that is there, takes no files. Writes nothing."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        found = "is a file; give a directory" if there == path else "cannot be made: Not a directory"
        raise BadInput(f"--out {path}: {found}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"--out {path}: cannot be written to; give another directory")


@contextlib.contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Holds an output folder for this process. Raises BadInput where another process is writing into it."""
    with (output_folder(path) / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"--out {path}: another process is writing into it; wait, or give another one") from None
        yield
