"""Does an answer match its gold answer? `exact`, `numeric` with an absolute tolerance, or folded `text`."""

import re
import unicodedata
from typing import Any, Literal

from astra_api.canonical import NotCanonicalError, canonical_json

Match = Literal["exact", "numeric", "text"]


def matches(actual: Any, gold: Any, match: Match = "exact", tolerance: float = 0.0) -> bool:
    """Whether `actual` answers like `gold`.

    exact: equal canonical JSON (`1` equals `1.0`, `true` does not equal `1`). numeric: two numbers, or numerals in
    strings, at most `tolerance` apart. text: equal after folding case, white space and punctuation.
    A value that has no canonical JSON matches nothing.
    """
    if match == "numeric":
        left, right = _number(actual), _number(gold)
        return left is not None and right is not None and abs(left - right) <= tolerance
    if match == "text":
        if not isinstance(actual, str | int | float) or not isinstance(gold, str | int | float):
            return False
        return fold(str(actual)) == fold(str(gold)) != ""
    try:
        return canonical_json(actual) == canonical_json(gold)
    except NotCanonicalError:
        return False


def fold(text: str) -> str:
    """Case-folds, turns punctuation into spaces and collapses white space; keeps letters, marks, digits, symbols."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    spaced = "".join(" " if unicodedata.category(char)[0] in "PZC" else char for char in normal)
    return " ".join(spaced.split())


_NUMERAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip().replace(",", "")
        if not _NUMERAL.fullmatch(text):
            return None
        value = float(text)
    if isinstance(value, int | float):
        number = float(value)
        return number if number == number and abs(number) != float("inf") else None
    return None
