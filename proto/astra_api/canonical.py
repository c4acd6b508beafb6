"""Canonical JSON and digests (RFC 8785), the identity of everything that is content-addressed.

`1` equals `1.0`; `true` does not equal `1`; NaN, infinities, integers beyond 2^53 and lone surrogates are refused:
two machines that read the same document must agree on every byte.
"""

import hashlib
import json
from typing import Any

import rfc8785

MAX_INTEGER = 2**53


class NotCanonicalError(ValueError):
    """The value has no canonical JSON: a type that JSON lacks, NaN, an infinity, or an integer beyond 2^53."""


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises NotCanonicalError for what JSON cannot hold or two readers could read differently.
    """
    try:
        return rfc8785.dumps(_checked(value, 0))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise NotCanonicalError(str(error)) from None


def digest(value: Any) -> str:
    """`sha256:<hex>` of the canonical JSON of a value."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON as strictly as `canonical_json` writes it.

    Raises NotCanonicalError on text that is not JSON, duplicate keys, NaN, infinities and excessive depth.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotCanonicalError(str(error)) from None


_MAX_DEPTH = 200


def _checked(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise NotCanonicalError(f"nested deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise NotCanonicalError("an integer beyond 2^53")
        return float(value)  # `1` equals `1.0`: one number type, written one way
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise NotCanonicalError(f"{value} is not a JSON number")
        if MAX_INTEGER < abs(value) < 1e21 and value.is_integer():  # would be written like an integer
            raise NotCanonicalError("an integer beyond 2^53")
        return value
    if isinstance(value, list | tuple):
        return [_checked(item, depth + 1) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise NotCanonicalError(f"object key {key!r} is not a string")
        return {key: _checked(item, depth + 1) for key, item in value.items()}
    raise NotCanonicalError(f"{type(value).__name__} is not a JSON type")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotCanonicalError("duplicate object key")
    return result


def _refuse_constant(name: str) -> Any:
    raise NotCanonicalError(f"{name} is not a JSON number")
