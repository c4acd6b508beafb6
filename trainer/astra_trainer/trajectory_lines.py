"""Trajectories as JSON lines."""

from collections.abc import Iterable
from pathlib import Path

from astra_api.records import Trajectory


def dump_lines(trajectories: Iterable[Trajectory]) -> bytes:
    """One line each, in order."""
    return "".join(trajectory.model_dump_json() + "\n" for trajectory in trajectories).encode()


def read_lines(file: Path) -> list[Trajectory]:
    """What `dump_lines` made."""
    with file.open(encoding="utf-8") as lines:
        return [Trajectory.model_validate_json(line) for line in lines]
