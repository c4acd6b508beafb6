"""How much of what is held out stands in what is trained on: the figures to read a held-out score with."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from astra_api.canonical import canonical_json
from astra_api.environment import Environment
from astra_api.matching import fold
from astra_api.records import Record
from astra_trainer.split import EnvironmentSplit

FILE = "overlap.json"  # of a run's directory
_NEAR = 0.8  # of the word triples of two questions, from which on they count as near duplicates


class Seen(Record):
    """How many of some held-out things training holds too."""

    seen: int
    of: int

    @property
    def share(self) -> float:
        return self.seen / self.of if self.of else 0.0


class Overlap(Record):
    """What of the held-out environments occurs in those trained on; each occurrence counts, tools once each."""

    gold_calls: Seen  # a tool with all its arguments
    arguments: Seen  # values of gold calls
    tools: Seen  # names of tools that gold calls use
    templates: Seen  # questions without their arguments, answers and numbers
    answers: Seen  # final answers
    questions: Seen  # with a near duplicate: four fifths of the triples of words

    def sentence(self) -> str:
        """The figures in a line for people."""
        parts = (
            f"{name.replace('_', ' ')} {found.share:.0%}"
            for name, found in self
            if isinstance(found, Seen) and found.of
        )
        return f"of what is held out, training holds: {', '.join(parts)}"


def overlap(split: EnvironmentSplit) -> Overlap:
    """Counts what the two sides of a split share."""
    train, held = split.train, split.holdout
    return Overlap(
        gold_calls=_seen(_gold_calls(train), _gold_calls(held)),
        arguments=_seen(_arguments(train), _arguments(held)),
        tools=_seen(_tools(train), sorted(set(_tools(held)))),
        templates=_seen(map(template, train), map(template, held)),
        answers=_seen(_answers(train), _answers(held)),
        questions=_near_duplicates([one.spec.question for one in train], [one.spec.question for one in held]),
    )


def template(environment: Environment) -> str:
    """A question without what makes it one of many: arguments and answers of its steps, and numbers."""
    spec = environment.spec
    filled = {str(value) for _, value in _calls(environment) if not isinstance(value, bool | dict | list | None)}
    filled |= {str(step.answer) for step in spec.steps if isinstance(step.answer, str | int | float)}
    text = spec.question
    for value in sorted(filled, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "<>", text)
    return fold(re.sub(r"\d+(?:[.,]\d+)*", "#", text))


def _seen(train: Iterable[Any], held: Iterable[Any]) -> Seen:
    known, found = set(train), list(held)
    return Seen(seen=sum(one in known for one in found), of=len(found))


def _gold_calls(environments: Sequence[Environment]) -> Iterator[tuple[str, bytes]]:
    for environment in environments:
        for step in environment.spec.tool_steps:
            if step.call is not None:
                yield step.call.tool, canonical_json(step.call.arguments)


def _arguments(environments: Sequence[Environment]) -> Iterator[bytes]:
    for environment in environments:
        yield from (canonical_json(value) for _, value in _calls(environment))


def _calls(environment: Environment) -> Iterator[tuple[str, Any]]:
    for step in environment.spec.tool_steps:
        if step.call is not None:
            yield from step.call.arguments.items()


def _tools(environments: Sequence[Environment]) -> Iterator[str]:
    for tool, _ in _gold_calls(environments):
        yield tool


def _answers(environments: Sequence[Environment]) -> Iterator[bytes]:
    return (canonical_json(environment.spec.answer) for environment in environments)


def _near_duplicates(train: Sequence[str], held: Sequence[str]) -> Seen:
    """Prefix filtering: two sets that share four fifths of their members share one of each one's rarest few."""
    known, asked = [_triples(text) for text in train], [_triples(text) for text in held]
    frequency = Counter(triple for triples in (*known, *asked) for triple in triples)
    index: dict[tuple[str, ...], list[int]] = {}
    for number, triples in enumerate(known):
        for triple in _rarest(triples, frequency):
            index.setdefault(triple, []).append(number)

    def has_near(triples: frozenset[tuple[str, ...]]) -> bool:
        candidates = {number for triple in _rarest(triples, frequency) for number in index.get(triple, ())}
        return any(len(triples & known[one]) >= _NEAR * len(triples | known[one]) for one in candidates)

    return Seen(seen=sum(map(has_near, asked)), of=len(asked))


def _triples(text: str) -> frozenset[tuple[str, ...]]:
    words = fold(text).split()
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def _rarest(triples: frozenset[tuple[str, ...]], frequency: Mapping[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    ordered = sorted(triples, key=lambda triple: (frequency[triple], triple))
    return ordered[: len(ordered) - ceil(_NEAR * len(ordered)) + 1]
