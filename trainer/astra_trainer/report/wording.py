"""How the report says things: stages, durations, figures, and text that nobody vouches for."""

import math
import unicodedata

from astra_trainer.run_directory import Stage

STAGE_NAMES: dict[Stage, str] = {"base": "Base", "sft": "SFT", "rl": "RL"}
_JOINERS = "\u200c\u200d"  # invisible, but part of how scripts and emoji are written
_CUT = 2000  # characters of one text


def visible(text: str) -> str:
    """Untrusted text with its invisible characters spelled out, at most `_CUT` characters of it.

    Controls would vanish or be refused by browsers and fonts; direction marks could reorder what stands around them.
    """
    shown = "".join(map(_visible, text[:_CUT]))
    return shown if len(text) <= _CUT else f"{shown} … ({len(text) - _CUT:,} more characters)"


def shortened(text: str, length: int) -> str:
    """Untrusted text on one line of at most `length` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


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


def _visible(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return f"⟨U+{ord(character):04X}⟩"
