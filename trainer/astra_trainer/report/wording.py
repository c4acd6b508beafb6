"""How the report says things: stages, durations, figures, and text that nobody vouches for."""

import math

from astra_api.display import shortened, visible
from astra_trainer.run_directory import Stage

STAGE_NAMES: dict[Stage, str] = {"base": "Base", "sft": "SFT", "rl": "RL"}
__all__ = ["STAGE_NAMES", "duration", "figure", "shortened", "visible"]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 12 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def figure(value: float, digits: int = 3) -> str:
    """A number, or a dash for none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
