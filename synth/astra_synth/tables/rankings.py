"""Operations that order a group by a quantity: the extreme row, the row at a position, the first few."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Literal

from astra_synth.tables.groups import ColumnOperation
from astra_synth.tables.operation import Kind, Needs, Parameter, Query, Undefined, key_parameter, snake
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a, number_word, ordinal


@dataclass(frozen=True)
class Ranking(ColumnOperation):
    """Base: from the highest value down, or from the lowest up. No question rests on a tie."""

    direction: Literal["high", "low"]

    @property
    def word(self) -> str | None:
        """The superlative, where the pack has one: "most populous"."""
        return self.quantity.high if self.direction == "high" else self.quantity.low

    @property
    def end(self) -> str:
        if self.quantity.is_moment:
            return "latest" if self.direction == "high" else "earliest"
        return "highest" if self.direction == "high" else "lowest"

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        return frozenset({("order", self.grouping.table, self.grouping.column, self.column)})

    def _ranked(self, shard: Shard, first: Any, upto: int) -> list[Any]:
        """Keys in order. Raises Undefined unless the first `upto` places are certain."""
        values = self.values(shard, first)
        ordered = sorted(values, key=lambda key: values[key], reverse=self.direction == "high")
        if len(ordered) < upto:
            raise Undefined("short-group")
        for left, right in pairwise(ordered[: upto + 1]):
            if values[left] == values[right]:
                raise Undefined("tie")
        return ordered

    def _room(self, shard: Shard, first: Any, most: int, spare: int = 0) -> int:
        """The last place worth asking for, at least 2."""
        last = min(most, len(self.members(shard, first)) - spare)
        if last < 2:
            raise Undefined("short-group")
        return last

    @property
    def _sql(self) -> str:
        order = "DESC" if self.direction == "high" else "ASC"
        ranked = (
            f"SELECT key, rank() OVER (ORDER BY {quoted(self.column)} {order} NULLS FIRST) AS place {self._from_group}"
        )
        return f"SELECT key FROM ({ranked})"

    @property
    def _ordered(self) -> str:
        reverse = ", reverse=True" if self.direction == "high" else ""
        return f"[key for _, key in sorted({self.values_in_group}{reverse})]"

    def _described(self, noun: str, within: str, rank: str = "") -> list[str]:
        """Noun phrases: "the second most populous city in France"."""
        rank = f"{rank} " if rank else ""
        named = [f"the {rank}{self.word} {noun} {within}"] if self.word else []
        return [*named, f"the {noun} {within} with the {rank}{self.end} {self.quantity.noun}"]


@dataclass(frozen=True)
class Extreme(Ranking):
    """The row at the end of the order: `country_most_populous_city(country)`."""

    @property
    def name(self) -> str:
        noun = snake(self.child.noun)
        end = f"{snake(self.word)}_{noun}" if self.word else f"{noun}_with_{self.end}_{snake(self.quantity.noun)}"
        return f"{self.prefix}_{end}"

    @property
    def description(self) -> str:
        return f"The {self.child.noun} {self.within(a(self.noun))} with the {self.end} {self.quantity.noun}."

    @property
    def gives(self) -> Kind:
        return Kind("entity", self.grouping.table)

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return self._ranked(shard, first, 1)[0]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"{self._sql} WHERE place = 1", (first,))

    def source(self) -> str:
        return f"def {self.name}({self.parameters[0].name}):\n    return {self._ordered}[0]\n"

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return self._described(self.child.noun, self.within(about))

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        start = f"Which {self.child.noun} {self.within(about)}"
        named = [f"{start} is the {self.word}?"] if self.word else []
        return [*named, f"{start} has the {self.end} {self.quantity.noun}?"]


@dataclass(frozen=True)
class Ranked(Ranking):
    """The row at a position: `country_city_ranked_by_highest_population(country, rank)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.noun)}_ranked_by_{self.end}_{snake(self.quantity.noun)}"

    @property
    def description(self) -> str:
        start = f"The {self.child.noun} {self.within(a(self.noun))}"
        return f"{start} at a rank by {self.quantity.noun}, the {self.end} first."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (*super().parameters, Parameter("rank", {"type": "integer", "description": "Place in the order."}))

    @property
    def gives(self) -> Kind:
        return Kind("entity", self.grouping.table)

    def _fits(self, shard: Shard, keys: list[Any]) -> bool:
        return len(keys) >= 3

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        return {"rank": rng.randint(2, self._room(shard, first, 5))}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return self._ranked(shard, first, extra["rank"])[extra["rank"] - 1]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"{self._sql} WHERE place = ?", (first, extra["rank"]))

    def source(self) -> str:
        return (
            f"def {self.name}({self.parameters[0].name}, rank):\n"
            f"    ordered = {self._ordered}\n"
            f"    if not 1 <= rank <= len(ordered):\n"
            f'        raise LookupError(f"no rank {{rank}} among {{len(ordered)}}")\n'
            f"    return ordered[rank - 1]\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return self._described(self.child.noun, self.within(about), ordinal(extra["rank"]))

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        place = ordinal(extra["rank"])
        start = f"Which {self.child.noun} {self.within(about)}"
        return [f"{start} ranks {place} by {self.quantity.noun}, counting from the {self.end}?"]


@dataclass(frozen=True)
class Top(Ranking):
    """The first few rows in order: `country_most_populous_cities(country, count)`."""

    @property
    def name(self) -> str:
        plural = snake(self.child.plural)
        end = f"{snake(self.word)}_{plural}" if self.word else f"{plural}_with_{self.end}_{snake(self.quantity.noun)}"
        return f"{self.prefix}_{end}"

    @property
    def description(self) -> str:
        start = f"The first few {self.child.plural} {self.within(a(self.noun))}"
        return f"{start} by {self.quantity.noun}, the {self.end} first."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (*super().parameters, Parameter("count", {"type": "integer", "description": "How many."}))

    @property
    def gives(self) -> Kind:
        return Kind("list", self.grouping.table)

    def _fits(self, shard: Shard, keys: list[Any]) -> bool:
        return len(keys) >= 3

    @property
    def order(self) -> str:
        return f"from the {self.end} {self.quantity.noun} on"

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        return {"count": rng.randint(2, self._room(shard, first, 4, spare=1))}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return self._ranked(shard, first, extra["count"])[: extra["count"]]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"{self._sql} WHERE place <= ? ORDER BY place", (first, extra["count"]), many=True)

    def source(self) -> str:
        return (
            f"def {self.name}({self.parameters[0].name}, count):\n"
            f"    ordered = {self._ordered}\n"
            f"    if not 1 <= count <= len(ordered):\n"
            f'        raise LookupError(f"cannot give {{count}} of {{len(ordered)}}")\n'
            f"    return ordered[:count]\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        few, plural, within = number_word(extra["count"]), self.child.plural, self.within(about)
        named = [f"the {few} {self.word} {plural} {within}"] if self.word else []
        return [*named, f"the {few} {plural} {within} with the {self.end} {self.quantity.noun}"]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"Which are {phrase}, {self.order}?" for phrase in self.phrases(about, extra)]


@dataclass(frozen=True)
class Next(Ranking):
    """The row that follows a row in its group's order: `city_below_in_country_by_population(city)`."""

    @property
    def name(self) -> str:
        side = "below" if self.direction == "high" else "above"
        return f"{snake(self.child.noun)}_{side}_in_{self.prefix}_by_{snake(self.quantity.noun)}"

    @property
    def description(self) -> str:
        side = "below" if self.direction == "high" else "above"
        noun = self.child.noun
        among = f"the {self.child.plural} {self.within(f'its {self.noun}')}"
        return f"The {noun} ranked just {side} {a(noun)} by {self.quantity.noun} among {among}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (key_parameter(self.dataset, self.grouping.table),)

    @property
    def takes(self) -> Kind:
        return Kind("entity", self.grouping.table)

    @property
    def gives(self) -> Kind:
        return Kind("entity", self.grouping.table)

    def domain(self, shard: Shard) -> list[Any]:
        return [key for keys in shard.groups.get(self.grouping, {}).values() if len(keys) >= 3 for key in keys]

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        group = shard.rows[self.grouping.table][first][self.grouping.column]
        ordered = self._ranked(shard, group, len(self.members(shard, group)))
        place = ordered.index(first)
        if place + 1 == len(ordered):
            raise Undefined("last-row")
        return ordered[place + 1]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        table, column, group = (quoted(name) for name in (self.grouping.table, self.column, self.grouping.column))
        beyond, nearest = ("<", "max") if self.direction == "high" else (">", "min")
        here = f"(SELECT {group} AS g, {column} AS q FROM {table} WHERE key = ?)"
        joined = f"FROM {table} AS t, {here} AS h WHERE t.{group} = h.g"
        reach = f"(SELECT {nearest}(t.{column}) {joined} AND t.{column} {beyond} h.q)"
        sql = f"SELECT t.key {joined} AND t.{column} = {reach}"
        return Query(sql, (first, first))

    def needs(self) -> Needs:
        columns = {(self.grouping.table, self.column), (self.grouping.table, self.grouping.column)}
        return Needs(frozenset(columns), frozenset({self.grouping}))

    def source(self) -> str:
        parameter, table = self.parameters[0].name, f"_{self.grouping.table.upper()}"
        groups = f"{table}_BY_{self.grouping.column.upper()}"
        reverse = ", reverse=True" if self.direction == "high" else ""
        return (
            f"def {self.name}({parameter}):\n"
            f"    row = _row({table}, {self.child.noun!r}, {parameter})\n"
            f"    keys = _row({groups}, {self.noun!r}, row[{self.grouping.column!r}])\n"
            f"    ordered = [key for _, key in sorted(_pairs({table}, keys, {self.column!r}){reverse})]\n"
            f"    for key, following in zip(ordered, ordered[1:]):\n"
            f"        if {table}[key] is row:\n"
            f"            return following\n"
            f'    raise LookupError(f"no {self.child.noun} comes after {{{parameter}!r}}")\n'
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        side = "below" if self.direction == "high" else "above"
        among = f"the {self.child.plural} {self.within(f'its {self.noun}')}"
        return [
            f"the {self.child.noun} ranked {word} {side} {about} by {self.quantity.noun} among {among}"
            for word in ("just", "directly")
        ]
