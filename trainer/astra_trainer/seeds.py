"""Seeds: item i of anything random is a function of (seed, i), never of what ran before it."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part, in order, and on nothing else (no `hash`, no global state)."""
    text = json.dumps(parts, ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
