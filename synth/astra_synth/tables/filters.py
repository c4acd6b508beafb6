"""The rows of a group that pass a test: above a bound, or of a category."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from astra_synth.tables.groups import LONGEST_LIST, ColumnOperation, GroupOperation
from astra_synth.tables.operation import Kind, Needs, Parameter, Query, Undefined, snake
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a, plain


@dataclass(frozen=True)
class Over(ColumnOperation):
    """How many rows of a group exceed a threshold: `country_count_cities_with_population_over(country, minimum)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.plural)}_with_{snake(self.quantity.noun)}_over"

    @property
    def description(self) -> str:
        unit = f" in {self.quantity.unit}" if self.quantity.unit else ""
        noun = f"{a(self.quantity.noun)}{unit}"
        return f"The {self.child.plural} {self.within(a(self.noun))} with {noun} above a minimum, {self.order}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        kind = "integer" if self.quantity.digits == 0 else "number"
        return (*super().parameters, Parameter("minimum", {"type": kind, "description": "Exclusive lower bound."}))

    @property
    def gives(self) -> Kind:
        return Kind("list", self.grouping.table)

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        return frozenset({("over", self.grouping.table, self.grouping.column, self.column)})

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        ranked = sorted(self.values(shard, first).values())
        cuts = [(low, high) for low, high in pairwise(ranked) if low < high]
        if not cuts:
            raise Undefined("tie")
        low, high = rng.choice(cuts)
        return {"minimum": round_between(low, high, self.quantity.digits)}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        found = sorted(key for key, value in self.values(shard, first).items() if value > extra["minimum"])
        if not 1 <= len(found) <= LONGEST_LIST:
            raise Undefined("long-list" if found else "empty-list")
        return found

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        sql = f"SELECT key {self._from_group} AND {quoted(self.column)} > ? ORDER BY key"
        return Query(sql, (first, extra["minimum"]), many=True)

    def source(self) -> str:
        return (
            f"def {self.name}({self.parameters[0].name}, minimum):\n"
            f"    return sorted(key for value, key in {self.values_in_group} if value > minimum)\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        unit = f" {self.quantity.unit}" if self.quantity.unit else ""
        noun = a(self.quantity.noun)
        return [
            f"the {self.child.plural} {self.within(about)} with {noun} {word} {plain(extra['minimum'])}{unit}"
            for word in ("above", "of more than")
        ]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"Which are {phrase}?" for phrase in self.phrases(about, extra)]


def round_between(low: Any, high: Any, digits: int) -> Any:
    """The roundest number x with low <= x < high: people ask for "more than 100000", not 98731."""
    for places in range(12, -digits - 1, -1):
        step = 10.0**places
        candidate = round((high - step / 1e6) // step * step, digits)
        if low <= candidate < high:
            return int(candidate) if digits == 0 or float(candidate).is_integer() else candidate
    return low


@dataclass(frozen=True)
class Matching(GroupOperation):
    """The rows of a group with a category: `country_subdivisions_by_type(country, type)`."""

    category: str

    @property
    def _word(self) -> str:
        return self.dataset.spec(self.grouping.table, self.category).noun

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.plural)}_by_{snake(self._word)}"

    @property
    def description(self) -> str:
        return f"The {self.child.plural} {self.within(a(self.noun))} of a given {self._word}, {self.order}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (
            *super().parameters,
            Parameter(snake(self._word), {"type": "string", "description": f"The {self._word}."}),
        )

    @property
    def gives(self) -> Kind:
        return Kind("list", self.grouping.table)

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        return frozenset({("matching", self.grouping.table, self.grouping.column, self.category)})

    def _categories(self, shard: Shard, first: Any) -> list[Any]:
        rows = shard.rows[self.grouping.table]
        return [rows[key][self.category] for key in self.members(shard, first)]

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        if None in (found := self._categories(shard, first)) or len(set(found)) < 2:
            raise Undefined("one-category")
        return {snake(self._word): rng.choice(sorted(set(found)))}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        wanted = extra[snake(self._word)]
        rows = shard.rows[self.grouping.table]
        found = sorted(key for key in self.members(shard, first) if rows[key][self.category] == wanted)
        if not 1 <= len(found) <= LONGEST_LIST:
            raise Undefined("long-list" if found else "empty-list")
        return found

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        sql = f"SELECT key {self._from_group} AND lower({quoted(self.category)}) = lower(?) ORDER BY key"
        return Query(sql, (first, extra[snake(self._word)]), many=True)

    def needs(self) -> Needs:
        return Needs(frozenset({(self.grouping.table, self.category)}), frozenset({self.grouping}))

    def source(self) -> str:
        word = snake(self._word)
        return (
            f"def {self.name}({self.parameters[0].name}, {word}):\n"
            f"    wanted = _folded({word})\n"
            f"    rows = _{self.grouping.table.upper()}\n"
            f"    keys = {self.rows_in_group}\n"
            f"    found = [key for key in keys if _folded(rows[key][{self.category!r}]) == wanted]\n"
            f"    if not found:\n"
            f'        raise LookupError(f"no {self.child.noun} with the {self._word} {{{word}!r}}")\n'
            f"    return sorted(found)\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"the {self.child.plural} {self.within(about)} whose {self._word} is {extra[snake(self._word)]}"]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        plural = self.child.plural
        return [f"Which {plural} {self.within(about)} have the {self._word} {extra[snake(self._word)]}?"]
