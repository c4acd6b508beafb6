"""Trajectories as JSON lines."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from astra_api.records import Trajectory


def dump_lines(trajectories: Iterable[Trajectory]) -> bytes:
    """One line each, in order."""
    return "".join(trajectory.model_dump_json() + "\n" for trajectory in trajectories).encode()


def read_lines(file: Path) -> list[Trajectory]:
    """What `dump_lines` made."""
    with file.open(encoding="utf-8") as lines:
        return [Trajectory.model_validate_json(line) for line in lines]


def dataset_card() -> bytes:
    """The README.md of a run's directory, from which `datasets` knows the types of the columns of these lines."""
    return (files("astra_trainer") / "templates" / "dataset_card.md").read_bytes()
