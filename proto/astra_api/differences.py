"""Where two nested values differ."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(old: Any, new: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, old value, new value) of each leaf that differs, fields dotted and in order of name; None: absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{field}.{key}" if field else str(key))
    elif old != new:
        yield field, old, new
