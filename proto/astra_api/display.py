"""How things are said to people: durations, and text that nobody vouches for."""

import unicodedata

_JOINERS = "\u200c\u200d"  # invisible, but part of how scripts and emoji are written
_CUT = 2000  # characters of one text


def duration(seconds: float) -> str:
    """`42 s`, `3 min 12 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(part: float, whole: float, digits: int = 0) -> str:
    """A percentage, or a dash where there was nothing to take a part of. Only all is 100%, and only nothing 0%."""
    if not whole:
        return "–"
    shown = f"{part / whole:.{digits}%}"
    if part < whole and shown == f"{1:.{digits}%}":
        return f">{1 - 10.0 ** -(2 + digits):.{digits}%}"
    return f"<{10.0 ** -(2 + digits):.{digits}%}" if part > 0 and shown == f"{0:.{digits}%}" else shown


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
