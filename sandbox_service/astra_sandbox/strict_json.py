"""Reads JSON that comes from models and tools: what two readers could read differently is refused.

The rules are those of `astra_api.canonical` (I-JSON): no duplicate keys, NaN, infinities, integers beyond 2^53 or
lone surrogates, at most 200 levels. Unlike it, this never writes the value: the text itself is passed on.
"""

import json
from typing import Any

MAX_INTEGER = 2**53
MAX_DEPTH = 200
WRITTEN_OUT = 1e21  # below it RFC 8785 writes a whole float like an integer


class StrictJsonError(ValueError):
    """The text is not JSON with exactly one reading; the message says where or why, and is the same every time."""


def read(text: str | bytes) -> Any:
    """The value of a JSON text. Raises StrictJsonError."""
    try:
        value = _decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise StrictJsonError("not UTF-8") from None
    except RecursionError:
        raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels") from None
    except StrictJsonError:
        raise
    except ValueError as error:
        raise StrictJsonError(str(error)) from None
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError(f"duplicate object key {key!a:.60}")
    return result


def _refuse(name: str) -> Any:
    raise StrictJsonError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 17:
        raise StrictJsonError(f"the integer {digits[:20]}... is beyond 2^53")
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer)


def _decode(text: str) -> Any:
    try:
        value, end = _decoder.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else _decoder.decode(text)  # nearly always there is no space around it


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise StrictJsonError("a string with a lone surrogate") from None
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise StrictJsonError(f"the integer {value} is beyond 2^53")
    elif kind is float:
        if value in (float("inf"), float("-inf")):
            raise StrictJsonError("a number too large for a double")
        if MAX_INTEGER < abs(value) < WRITTEN_OUT and value.is_integer():
            raise StrictJsonError("an integer beyond 2^53")
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels")
        for item in value:
            _check(item, depth + 1)
        if kind is dict:
            for item in value.values():
                _check(item, depth + 1)
