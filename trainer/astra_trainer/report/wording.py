"""How the report says things: stages, durations, figures, and text that nobody vouches for."""

import math

from astra_api.display import duration, shortened, visible
from astra_trainer.run_directory import Stage

STAGE_NAMES: dict[Stage, str] = {"base": "Base", "sft": "SFT", "rl": "RL"}
__all__ = ["STAGE_NAMES", "duration", "figure", "shortened", "visible"]


def figure(value: float, digits: int = 3) -> str:
    """A number, or a dash for none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
