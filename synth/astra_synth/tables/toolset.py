"""Which tools a shard is given: enough for the questions asked for, no two of them for the same purpose."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import get_args

from astra_api.synthesis_run import ToolKind
from astra_sandbox.verification.mentions import text_mentions
from astra_synth.tables.aggregates import Aggregate, Summary
from astra_synth.tables.arithmetic import CONVERSIONS, JOINS, Convert, Join
from astra_synth.tables.compose import Composer
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.filters import Matching, Over
from astra_synth.tables.groups import Count, GroupOperation, Members
from astra_synth.tables.lookups import Lookup, Reverse
from astra_synth.tables.module import render
from astra_synth.tables.operation import Operation, Undefined
from astra_synth.tables.rankings import Extreme, Next, Ranked, Top
from astra_synth.tables.shard import Shard, seeded

ALL_KINDS: tuple[ToolKind, ...] = get_args(ToolKind)
_WEIGHT: dict[ToolKind, float] = {
    "lookup": 3.0,
    "extreme": 2.0,
    "count": 1.5,
    "next": 1.5,
    "summary": 0.5,
    "filter": 0.7,
}  # 1 for the others


@dataclass(frozen=True)
class ToolsetShape:
    """Bounds of a toolset: how many tools, of which kinds, over how many rows, for how many environments."""

    min_tools: int = 3
    max_tools: int = 7
    rows: int = 60
    environments: int = 6
    kinds: tuple[ToolKind, ...] = ALL_KINDS


@dataclass(frozen=True)
class TableToolset:
    """A shard with its tools and their module."""

    shard: Shard
    operations: tuple[Operation, ...]
    joins: tuple[Join, ...]
    source: str = field(repr=False)

    @property
    def tools(self) -> tuple[Operation | Join, ...]:
        """What the model is told about, in order."""
        return (*self.operations, *self.joins)

    @cached_property
    def composer(self) -> Composer:
        return Composer(self.shard, self.operations, self.joins)


def choose(shard: Shard, shape: ToolsetShape, longest: int, rng: Random) -> TableToolset:
    """Tools for a shard. `longest` is the most hops that a question may take: one call needs no chain.

    Raises Undefined when the shard cannot fill a toolset of the shape.
    """
    offered = [(kind, o) for kind, o in _offered(shard.dataset, shape.kinds) if obstacle(o, shard) is None]
    wanted = rng.randint(shape.min_tools, shape.max_tools)
    joins: list[Join] = []
    if "arithmetic" in shape.kinds and longest >= 3 and wanted >= 3 and rng.random() < 0.5:
        joins.append(JOINS[rng.choice(sorted(JOINS))])
    chosen: list[Operation] = []
    if min(longest, wanted) >= 2 and (pair := _linked(offered, rng)):
        chosen += pair
    while len(chosen) + len(joins) < wanted:
        rest = [(kind, o) for kind, o in offered if _compatible(o, chosen)]
        if not rest:
            break
        weights = [_WEIGHT.get(kind, 1.0) * (3.0 if _connects(o, chosen) else 1.0) for kind, o in rest]
        chosen.append(rng.choices(rest, weights)[0][1])
    convert = next(_conversions(chosen), None) if "convert" in shape.kinds and longest >= 2 else None
    if convert is not None and len(chosen) + len(joins) < shape.max_tools and rng.random() < 0.4:
        chosen.append(convert)
    if len(chosen) + len(joins) < shape.min_tools:
        raise Undefined(
            "few-tools", f"only {len(chosen)} tools fit these rows; lower toolset.tools.min or raise toolset.rows"
        )
    order = sorted(chosen, key=lambda operation: operation.name)
    return TableToolset(shard, tuple(order), tuple(joins), render(shard.dataset.pack.title, shard, order, joins))


def toolset_for(shard: Shard, shape: ToolsetShape, longest: int, seed: int, index: int) -> TableToolset:
    """Toolset number `index`, a function of (seed, index)."""
    return choose(shard, shape, longest, seeded(seed, shard.dataset.pack.name, "tools", index))


def _offered(dataset: Dataset, kinds: tuple[ToolKind, ...]) -> Iterator[tuple[ToolKind, Operation]]:
    for kind, operation in offered_operations(dataset):
        if kind in kinds and speakable(operation):
            yield kind, operation


def speakable(operation: Operation) -> bool:
    """Whether long nouns or like ones leave it a name, and its parameters one each."""
    names = [parameter.name for parameter in operation.parameters]
    return len(operation.name) <= 64 and len(set(names)) == len(names)


def offered_operations(dataset: Dataset) -> Iterator[tuple[ToolKind, Operation]]:
    """Every operation that a dataset's columns and relations allow, with its kind."""
    for table, spec in dataset.pack.tables.items():
        for name, column in spec.columns.items():
            yield "lookup", Lookup(dataset, table, name)
            if column.unique:
                yield "reverse", Reverse(dataset, table, name)
    for grouping in dataset.members:
        yield "members", Members(dataset, grouping)
        yield "count", Count(dataset, grouping)
        for name, column in dataset.pack.tables[grouping.table].columns.items():
            if column.group and name != grouping.column:
                yield "filter", Matching(dataset, grouping, name)
            if column.is_quantity:
                for statistic in ("total", "average", "highest", "lowest"):
                    if statistic != "total" or column.sum:
                        yield "aggregate", Aggregate(dataset, grouping, name, statistic)
                yield "summary", Summary(dataset, grouping, name)
                yield "filter", Over(dataset, grouping, name)
            for direction in ("high", "low") if column.is_ordered else ():
                yield "extreme", Extreme(dataset, grouping, name, direction)
                yield "rank", Ranked(dataset, grouping, name, direction)
                yield "top", Top(dataset, grouping, name, direction)
                yield "next", Next(dataset, grouping, name, direction)


def obstacle(operation: Operation, shard: Shard) -> str | None:
    """What speaks against a tool: too few arguments that do not say their answers, or answers that do not tell them
    apart. None for a good one."""
    answers = set()
    known = 0
    troubles = Counter[str]()
    for value in operation.domain(shard):
        rng = seeded("varied", operation.name, value)
        try:
            answer = operation.answer(shard, value, operation.sample(shard, value, rng))
        except Undefined as trouble:
            troubles[trouble.reason] += 1
            continue
        if isinstance(answer, str) and any(text_mentions(answer, str(value))):
            troubles["answer-in-question"] += 1
            continue
        answers.add(repr(answer))
        known += 1
        if known >= 3 and len(answers) >= 2:
            return None
    if not known and not troubles:
        return "no-group" if isinstance(operation, GroupOperation) else "no-rows"
    if troubles.total() > known:
        return troubles.most_common(1)[0][0]
    return "few" if known < 3 else "one-answer"


def _linked(offered: list[tuple[ToolKind, Operation]], rng: Random) -> list[Operation]:
    """Two tools, of which the second takes what the first gives."""
    pairs = [
        (kind, [first, second])
        for kind, first in offered
        for _, second in offered
        if first.gives == second.takes
        and first != second
        and not (first.roles & second.roles)
        and first.name != second.name
    ]
    return rng.choices([pair for _, pair in pairs], [_WEIGHT.get(kind, 1.0) for kind, _ in pairs])[0] if pairs else []


def _compatible(operation: Operation, chosen: list[Operation]) -> bool:
    return all(operation.name != other.name and not operation.roles & other.roles for other in chosen)


def _connects(operation: Operation, chosen: list[Operation]) -> bool:
    return any(operation.takes == other.gives or operation.gives == other.takes for other in chosen)


def _conversions(chosen: list[Operation]) -> Iterator[Convert]:
    for operation in chosen:
        gives = operation.gives
        if gives.sort == "quantity" and gives.unit in CONVERSIONS:
            yield Convert(gives.table, gives.column, gives.unit)
