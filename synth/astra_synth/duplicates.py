"""Near-duplicate environments of a run: questions alike by their letters, and the same tools or the same answer.

An embedding is the hashed counts of words and character trigrams, of length 1: no model, the same for a text whatever
else there is, in any script.
"""

import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from astra_api.canonical import digest
from astra_api.environment import Environment
from astra_api.matching import fold

_DIMENSIONS = 2048
Vector = NDArray[np.float32]


class KnownEnvironments:
    """The environments that were kept so far, in order."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._vectors = np.zeros((64, _DIMENSIONS), dtype=np.float32)  # rows of which the first len(names) count
        self._names: list[str] = []
        self._answers: list[str] = []
        self._tools: list[frozenset[str]] = []
        self._calls: dict[str, str] = {}  # digest of all gold calls with their answers -> name

    def duplicate(self, environment: Environment) -> tuple[str, str] | None:
        """(reason, message) where an environment repeats an earlier one."""
        if earlier := self._calls.get(_calls(environment)):
            return "Duplicate", f"makes the same calls with the same answers as {earlier}"
        if not self._names:
            return None
        alike = self._vectors[: len(self._names)] @ embedding(environment.spec.question)
        answer, tools = digest(environment.spec.answer), _tools(environment)
        for index in np.flatnonzero(alike >= self._similarity - 1e-6):
            if answer == self._answers[index] or tools == self._tools[index]:
                shared = "answer" if answer == self._answers[index] else "tools"
                problem = f"asks like {self._names[index]} (cosine {alike[index]:.2f}), with the same {shared}"
                return "NearDuplicate", problem
        return None

    def add(self, environment: Environment) -> None:
        place = len(self._names)
        if place == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        self._vectors[place] = embedding(environment.spec.question)
        self._names.append(environment.name)
        self._answers.append(digest(environment.spec.answer))
        self._tools.append(_tools(environment))
        self._calls.setdefault(_calls(environment), environment.name)


def embedding(text: str) -> Vector:
    """A row of length 1; 0 for a text that says nothing."""
    counts = np.zeros(_DIMENSIONS, dtype=np.float32)
    for gram, count in Counter(_grams(text)).items():
        counts[zlib.crc32(gram.encode()) % _DIMENSIONS] += count
    counts = np.log1p(counts)
    length = float(np.linalg.norm(counts))
    return counts / np.float32(length) if length else counts


def _grams(text: str) -> Iterator[str]:
    folded = fold(text)
    yield from (f" {word} " for word in folded.split())
    padded = f" {folded} "
    yield from (padded[start : start + 3] for start in range(len(padded) - 2))


def _tools(environment: Environment) -> frozenset[str]:
    return frozenset(tool.name for tool in environment.spec.tools)


def _calls(environment: Environment) -> str:
    calls = [(step.call.tool, step.call.arguments, step.answer) for step in environment.spec.tool_steps if step.call]
    return digest(sorted(digest(list(call)) for call in calls))
