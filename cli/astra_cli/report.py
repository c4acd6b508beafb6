"""`astra report`: writes the report of a run anew, whatever the run is doing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from astra_api.errors import BadInput

EPILOG = "Examples:\n\n  astra report runs/tiny\n\n  watch -n 60 astra report runs/tiny"


def report(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="What --out of astra train, synth or demo named.", show_default=False, readable=False
        ),
    ],
) -> int:
    """Write the report of a run anew: finished, killed, or still running.

    DIR/report.html is one file with its plots inside, to be mailed or printed. A run that goes on is not disturbed.
    Exit code 2: DIR is not the directory of a run.
    """
    for folder in list(runs_in(directory)):
        print(f"report: {_write(folder)}")
    return 0


def runs_in(directory: Path) -> Iterator[Path]:
    """The directories of the runs that a directory holds: of `astra demo` those of its syntheses, then its own."""
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        raise BadInput(f"{directory}: there is no such directory; give --out of astra train or astra synth") from None
    except NotADirectoryError:
        raise BadInput(f"{directory}: is a file; give the directory that holds it") from None
    except OSError as error:
        raise BadInput(f"{directory}: cannot be read: {error.strerror}") from None
    syntheses = sorted(file.parent for file in directory.glob("environments/*/run.json"))
    if not names & {"run.yaml", "run.json"} and not syntheses:
        what = "is empty" if not names else "is not the directory of a run (it has no run.yaml and no run.json)"
        raise BadInput(f"{directory}: {what}; give --out of astra train or astra synth")
    yield from syntheses
    if names & {"run.yaml", "run.json"}:
        yield directory


def _write(folder: Path) -> Path:
    training = (folder / "run.yaml").exists()
    try:
        if training:
            from astra_trainer.report import write_report
        else:
            from astra_synth.report import write_report
    except ImportError as error:
        extra = "trainer" if training else "synth"
        raise BadInput(f"astra report needs {error.name}; install astra-farm[{extra}]") from None
    try:
        return write_report(folder)
    except PermissionError as error:
        raise BadInput(f"{error.filename or folder}: {error.strerror}; its owner may read and write it") from None
