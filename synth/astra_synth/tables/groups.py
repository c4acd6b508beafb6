"""Operations on a group of rows, named by a parent's key or a category: members, counts, aggregates, filters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, Literal

from astra_synth.tables.dataset import Dataset, Grouping
from astra_synth.tables.operation import Kind, Needs, Operation, Parameter, Query, Undefined, key_parameter, snake
from astra_synth.tables.pack import Column, TableSpec
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a, number_word, plain, whole

LONGEST_LIST = 8
Statistic = Literal["total", "average", "highest", "lowest"]
_SQL_STATISTIC = {"total": "sum", "average": "avg", "highest": "max", "lowest": "min"}


@dataclass(frozen=True)
class GroupOperation(Operation):
    """Base: the first parameter names the group."""

    dataset: Dataset = field(repr=False, compare=False)
    grouping: Grouping

    @property
    def child(self) -> TableSpec:
        return self.dataset.pack.tables[self.grouping.table]

    @property
    def noun(self) -> str:
        """What the group is named by: country, genre."""
        link = self.dataset.spec(self.grouping.table, self.grouping.column)
        return self.dataset.pack.tables[self.grouping.parent].noun if self.grouping.parent else link.noun

    @property
    def prefix(self) -> str:
        """Start of the tool's name. A second relation between the same tables is told apart by its own noun."""
        link = self.dataset.spec(self.grouping.table, self.grouping.column)
        rivals = [g for g in self.dataset.members if (g.table, g.parent) == (self.grouping.table, self.grouping.parent)]
        return snake(self.noun if len(rivals) == 1 or not self.grouping.parent else link.noun)

    def within(self, about: str) -> str:
        """What follows the plural: "in France"."""
        link = self.dataset.spec(self.grouping.table, self.grouping.column)
        return (link.within or ("of {}" if self.grouping.parent else f"with the {link.noun} {{}}")).format(about)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        if self.grouping.parent:
            return (key_parameter(self.dataset, self.grouping.parent),)
        return (Parameter(snake(self.noun), {"type": "string", "description": f"The {self.noun}."}),)

    @property
    def takes(self) -> Kind:
        if self.grouping.parent:
            return Kind("entity", self.grouping.parent)
        return Kind("label", self.grouping.table, self.grouping.column)

    def domain(self, shard: Shard) -> list[Any]:
        return [value for value, keys in shard.groups.get(self.grouping, {}).items() if self._fits(shard, keys)]

    def _fits(self, shard: Shard, keys: list[Any]) -> bool:
        return len(keys) >= 2

    def members(self, shard: Shard, first: Any) -> list[Any]:
        if not (keys := shard.groups.get(self.grouping, {}).get(first)):
            raise Undefined("incomplete-group")
        return keys

    def needs(self) -> Needs:
        return Needs(groups=frozenset({self.grouping}))

    @property
    def rows_in_group(self) -> str:
        """Python text for the list of keys of the group."""
        name = f"_{self.grouping.table}_by_{self.grouping.column}".upper()
        return f"_row({name}, {self.noun!r}, {self.parameters[0].name})"

    @property
    def _from_group(self) -> str:
        column = quoted(self.grouping.column)
        return f"FROM {quoted(self.grouping.table)} WHERE lower({column}::VARCHAR) = lower(?::VARCHAR)"


@dataclass(frozen=True)
class Members(GroupOperation):
    """The keys of a group in alphabetical order: `country_cities(country)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.plural)}"

    @property
    def description(self) -> str:
        return f"The {self.child.plural} {self.within(a(self.noun))}, in alphabetical order."

    @property
    def gives(self) -> Kind:
        return Kind("list", self.grouping.table)

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        return frozenset({("members", self.grouping.table, self.grouping.column)})

    def _fits(self, shard: Shard, keys: list[Any]) -> bool:
        return 2 <= len(keys) <= LONGEST_LIST

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        keys = self.members(shard, first)
        if len(keys) > LONGEST_LIST:
            raise Undefined("long-list")
        return sorted(keys)

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"SELECT key {self._from_group} ORDER BY key", (first,), many=True)

    def source(self) -> str:
        return f"def {self.name}({self.parameters[0].name}):\n    return sorted({self.rows_in_group})\n"

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"the {self.child.plural} {self.within(about)}"]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        plural = self.child.plural
        return [
            f"Which {plural} {self.within(about)} are listed?",
            f"List all {plural} {self.within(about)} in alphabetical order.",
        ]


@dataclass(frozen=True)
class Count(GroupOperation):
    """How many rows a group has: `country_city_count(country)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.noun)}_count"

    @property
    def description(self) -> str:
        return f"Number of {self.child.plural} {self.within(a(self.noun))}."

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.grouping.table, f"count by {self.grouping.column}")

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        return frozenset({("members", self.grouping.table, self.grouping.column)})

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return len(self.members(shard, first))

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"SELECT count(*) {self._from_group}", (first,))

    def source(self) -> str:
        return f"def {self.name}({self.parameters[0].name}):\n    return len({self.rows_in_group})\n"

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"the number of {self.child.plural} {self.within(about)}"]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        plural = self.child.plural
        return [
            f"How many {plural} {self.within(about)} are listed?",
            f"How many {plural} are there {self.within(about)}?",
        ]


@dataclass(frozen=True)
class ColumnOperation(GroupOperation):
    """Base: works on a quantity column of the group's rows."""

    column: str

    @property
    def quantity(self) -> Column:
        return self.dataset.spec(self.grouping.table, self.column)

    def values(self, shard: Shard, first: Any) -> dict[Any, Any]:
        """Value by key. Raises Undefined where one is missing: the true answer would be anyone's guess."""
        rows = shard.rows[self.grouping.table]
        found = {key: rows[key][self.column] for key in self.members(shard, first)}
        if any(value is None for value in found.values()):
            raise Undefined("missing-value")
        return found

    def needs(self) -> Needs:
        return Needs(frozenset({(self.grouping.table, self.column)}), frozenset({self.grouping}))

    @property
    def values_in_group(self) -> str:
        """Python text for the list of (value, key) of the group, unknown values left out."""
        return f"_pairs(_{self.grouping.table.upper()}, {self.rows_in_group}, {self.column!r})"

    @property
    def digits(self) -> int:
        return self.quantity.digits


@dataclass(frozen=True)
class Aggregate(ColumnOperation):
    """One statistic of a quantity over a group: `country_total_city_population(country)`."""

    statistic: Statistic

    @property
    def name(self) -> str:
        return f"{self.prefix}_{self.statistic}_{snake(self.child.noun)}_{snake(self.quantity.noun)}"

    @property
    def description(self) -> str:
        unit = f", in {self.quantity.unit}" if self.quantity.unit else ""
        start = f"{self.statistic.capitalize()} {self.quantity.noun}"
        rounded = f", rounded to {number_word(self.digits)} decimals" if self.statistic == "average" else ""
        return f"{start} of the {self.child.plural} {self.within(a(self.noun))}{unit}{rounded}."

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.grouping.table, self.column, self.quantity.unit)

    @property
    def digits(self) -> int:
        return max(self.quantity.digits, 2) if self.statistic == "average" else self.quantity.digits

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        role = "spread" if self.statistic in ("total", "average") else "order"
        return frozenset({(role, self.grouping.table, self.grouping.column, self.column)})

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return statistic_of(self.statistic, list(self.values(shard, first).values()), self.digits)

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        function = _SQL_STATISTIC[self.statistic]
        return Query(f"SELECT {function}({quoted(self.column)}) {self._from_group}", (first,), digits=self.digits)

    def source(self) -> str:
        values = f"[value for value, _ in {self.values_in_group}]"
        return (
            f"def {self.name}({self.parameters[0].name}):\n"
            f"    values = {values}\n"
            f"    return {PYTHON_STATISTIC[self.statistic].format(digits=self.digits)}\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        noun, plural = self.quantity.noun, f"{self.child.plural} {self.within(about)}"
        if self.statistic in ("highest", "lowest"):
            return [f"the {self.statistic} {noun} among the {plural}", f"the {self.statistic} {noun} of the {plural}"]
        word = {"total": ["total", "combined"], "average": ["average", "mean"]}[self.statistic]
        return [f"the {w} {noun} of the {plural}" for w in word]


def statistic_of(statistic: str, values: list[Any], digits: int) -> Any:
    """A statistic, rounded; whole numbers where `digits` is 0."""
    if not values:
        raise Undefined("empty-group")
    match statistic:
        case "total":
            result = math.fsum(values)  # correctly rounded: `sum` of floats differs between Python 3.11 and 3.12
        case "average":
            result = math.fsum(values) / len(values)
        case "highest":
            result = max(values)
        case _:
            result = min(values)
    return whole(round(result, digits))


PYTHON_STATISTIC = {
    "total": "_rounded(math.fsum(values), {digits})",
    "average": "_rounded(math.fsum(values) / len(values), {digits})",
    "highest": "max(values)",
    "lowest": "min(values)",
}


@dataclass(frozen=True)
class Summary(ColumnOperation):
    """Any statistic of a quantity over a group, by name: `country_city_population_summary(country, statistic)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.noun)}_{snake(self.quantity.noun)}_summary"

    @property
    def description(self) -> str:
        return f"A statistic of the {self.quantity.noun} over the {self.child.plural} {self.within(a(self.noun))}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        schema = {"type": "string", "enum": list(self._statistics), "description": "Which statistic."}
        return (*super().parameters, Parameter("statistic", schema))

    @property
    def _statistics(self) -> tuple[str, ...]:
        return ("total", "average", "highest", "lowest") if self.quantity.sum else ("average", "highest", "lowest")

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.grouping.table, self.column, self.quantity.unit)

    @property
    def digits(self) -> int:
        return max(self.quantity.digits, 2)

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        place = (self.grouping.table, self.grouping.column, self.column)
        return frozenset({("spread", *place), ("order", *place)})

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        return {"statistic": rng.choice(self._statistics)}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return statistic_of(extra["statistic"], list(self.values(shard, first).values()), self.digits)

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        function = _SQL_STATISTIC[extra["statistic"]]
        return Query(f"SELECT {function}({quoted(self.column)}) {self._from_group}", (first,), digits=self.digits)

    def source(self) -> str:
        known = "".join(
            f"    if statistic == {s!r}:\n        return {PYTHON_STATISTIC[s].format(digits=self.digits)}\n"
            for s in self._statistics
        )
        return (
            f"def {self.name}({self.parameters[0].name}, statistic):\n"
            f"    values = [value for value, _ in {self.values_in_group}]\n"
            f"{known}"
            f'    raise LookupError(f"no statistic named {{statistic!r}}")\n'
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return Aggregate(self.dataset, self.grouping, self.column, extra["statistic"]).phrases(about, {})


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
        return (
            f"The {self.child.plural} {self.within(a(self.noun))} with {noun} above a minimum, in alphabetical order."
        )

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
        return f"The {self.child.plural} {self.within(a(self.noun))} of a given {self._word}, in alphabetical order."

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
            f"    wanted = str({word}).strip().casefold()\n"
            f"    rows = _{self.grouping.table.upper()}\n"
            f"    keys = {self.rows_in_group}\n"
            f"    found = [key for key in keys if str(rows[key][{self.category!r}]).casefold() == wanted]\n"
            f"    if not found:\n"
            f'        raise LookupError(f"no {self.child.noun} with the {self._word} {{{word}!r}}")\n'
            f"    return sorted(found)\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"the {self.child.plural} {self.within(about)} whose {self._word} is {extra[snake(self._word)]}"]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        plural = self.child.plural
        return [f"Which {plural} {self.within(about)} have the {self._word} {extra[snake(self._word)]}?"]
