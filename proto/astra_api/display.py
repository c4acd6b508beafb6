"""Text that nobody vouches for, made fit to be shown to people."""

import unicodedata

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


def _visible(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return f"⟨U+{ord(character):04X}⟩"
