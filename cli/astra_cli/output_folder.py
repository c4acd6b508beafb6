"""The folder that a command writes into."""

import os
from pathlib import Path

from astra_api.errors import BadInput


def output_folder(path: Path) -> Path:
    """Makes the folder, where it is missing, before any long work begins. Raises BadInput when nothing can go there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadInput(f"--out {path}: is a file; give a directory") from None
    except OSError as error:
        raise BadInput(f"--out {path}: cannot be made: {error.strerror}; give another directory") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadInput(f"--out {path}: cannot be written to; give another directory")
    return path
