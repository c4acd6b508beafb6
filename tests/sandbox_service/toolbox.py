"""The source of the toolset that the contract suite runs, in sandboxes as text and in the fake as functions."""

import random
import sys

_MEMORY = []


def add(a, b):
    return a + b


def echo(value):
    return value


def fail(text):
    raise ValueError(text)


def unjsonable(kind):
    deep = []
    for _ in range(500):
        deep = [deep]
    return {
        "nan": float("nan"),
        "bytes": b"x",
        "set": {1},
        "key": {1: 2},
        "big": 2**60,
        "surrogate": "\ud800",
        "deep": deep,
        "object": object(),
    }[kind]


def text(length):
    return "x" * length


def roll():
    return random.randrange(10**9)


def remember(item):
    _MEMORY.append(item)
    return list(_MEMORY)


def leave(status):
    sys.exit(status)


def dive(depth):
    return dive(depth + 1)


def noisy(value):
    print("noise " * 1000)
    print("noise", file=sys.stderr)
    return value
