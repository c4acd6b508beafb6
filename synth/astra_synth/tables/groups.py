"""Operations on a group of rows, named by a parent's key or a category: what they share, members and counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from astra_synth.tables.dataset import Dataset, Grouping
from astra_synth.tables.operation import Kind, Needs, Operation, Parameter, Query, Undefined, key_parameter, snake
from astra_synth.tables.pack import Column, TableSpec
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a

LONGEST_LIST = 8


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

    @property
    def order(self) -> str:
        return "in numerical order" if self.child.key_type == "integer" else "in alphabetical order"

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
        return f"The {self.child.plural} {self.within(a(self.noun))}, {self.order}."

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
            f"List all {plural} {self.within(about)} {self.order}.",
        ]


@dataclass(frozen=True)
class Count(GroupOperation):
    """How many rows a group has: `country_city_count(country)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.noun)}_count"

    @property
    def description(self) -> str:
        return f"The number of {self.child.plural} {self.within(a(self.noun))}."

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
