"""A shard: the rows that one toolset knows. Shards of a pack share no root entity until every one was used."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from astra_api.matching import fold
from astra_synth.tables.dataset import Dataset, Grouping, Row
from astra_synth.tables.pack import PackError


def seeded(*parts: object) -> random.Random:
    """A generator that depends on nothing but its parts."""
    return random.Random("/".join(map(str, parts)))


@dataclass(frozen=True)
class Shard:
    """Rows by table, and the groups that are complete here: a count over one equals a count over the whole table."""

    dataset: Dataset
    rows: Mapping[str, Mapping[Any, Row]]

    @cached_property
    def groups(self) -> dict[Grouping, dict[Any, list[Any]]]:
        """Complete groups of at least one row: value -> keys in table order."""
        found: dict[Grouping, dict[Any, list[Any]]] = {}
        for grouping, members in self.dataset.members.items():
            here = self.rows.get(grouping.table, {})
            complete = {v: keys for v, keys in members.items() if all(key in here for key in keys)}
            if grouping.parent:
                complete = {v: keys for v, keys in complete.items() if v in self.rows.get(grouping.parent, {})}
            if complete:
                found[grouping] = complete
        return found

    @cached_property
    def homonyms(self) -> frozenset[str]:
        """Folded names that rows of two tables share: Luxembourg is a city and a country."""
        seen: set[str] = set()
        twice: set[str] = set()
        for rows in self.rows.values():
            names = {fold(str(key)) for key in rows}
            twice |= names & seen
            seen |= names
        return frozenset(twice)


class ShardPlan:
    """Cuts a dataset into shards; shard j is a function of (seed, j)."""

    def __init__(self, dataset: Dataset, seed: int, row_limit: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.row_limit = row_limit
        root, _, column = dataset.pack.shards.by.partition(".")
        self._root = root
        self._column = column
        closures = {value: self._closure(value) for value in self._values()}
        sizes = {value: sum(map(len, rows.values())) for value, rows in closures.items()}
        fitting = {value: size for value, size in sizes.items() if size <= max(2, row_limit // 2)}
        has_children = any(g.parent == root for g in dataset.members) and not column
        self._sizes = {v: s for v, s in fitting.items() if s >= 3} if has_children else fitting
        if not self._sizes:
            smallest = min(sizes.values())
            raise PackError(
                f"pack {dataset.pack.name}: shards.by: {dataset.pack.shards.by} gives no shard of at most {row_limit} "
                f"rows (the smallest part has {smallest}); raise toolset.rows or divide by something finer"
            )
        ordered = sorted(self._sizes.values())
        self._block = max(2, min(12, row_limit // max(1, ordered[len(ordered) // 2])))
        self._blocks = max(1, len(self._sizes) // self._block)

    @property
    def disjoint(self) -> int:
        """How many shards there are before root entities come back."""
        return self._blocks

    def shard(self, index: int) -> Shard:
        """Shard number `index` (from 0)."""
        epoch, block = divmod(index, self._blocks)
        order = list(self._sizes)
        seeded(self.seed, self.dataset.pack.name, "shards", epoch).shuffle(order)
        chosen = order[block * self._block : (block + 1) * self._block]
        picked: dict[str, set[Any]] = {}
        room = self.row_limit
        for value in chosen:
            if self._sizes[value] <= room or not picked:
                room -= self._sizes[value]
                _merge(picked, self._closure(value))
        self._ascend(picked)
        tables = self.dataset.tables
        return Shard(
            self.dataset,
            {
                name: {k: row for k, row in tables[name].rows.items() if k in picked[name]}
                for name in tables
                if name in picked
            },
        )

    def _values(self) -> list[Any]:
        if not self._column:
            return list(self.dataset.tables[self._root].rows)
        return next(
            list(members)
            for grouping, members in self.dataset.members.items()
            if (grouping.table, grouping.column) == (self._root, self._column)
        )

    def _closure(self, value: Any) -> dict[str, set[Any]]:
        """The root's rows and everything below them: rows that reference them, and so on down."""
        if self._column:
            members = self.dataset.members[self._root_grouping][value]
            found = {self._root: set(members)}
        else:
            found = {self._root: {value}}
        frontier = [self._root]
        while frontier:
            table = frontier.pop()
            for grouping, groups in self.dataset.members.items():
                if grouping.parent == table and grouping.table not in found:
                    below = {key for parent in found[table] for key in groups.get(parent, ())}
                    if below:
                        found[grouping.table] = below
                        frontier.append(grouping.table)
        return found

    @cached_property
    def _root_grouping(self) -> Grouping:
        return next(g for g in self.dataset.members if (g.table, g.column) == (self._root, self._column))

    def _ascend(self, picked: dict[str, set[Any]]) -> None:
        """Adds the rows that picked rows reference, so that every walk up ends at a row."""
        frontier = list(picked)
        while frontier:
            table = frontier.pop()
            rows = self.dataset.tables[table].rows
            for column, spec in self.dataset.pack.tables[table].columns.items():
                if spec.references:
                    above = {rows[key][column] for key in picked[table]} - {None} - picked.get(spec.references, set())
                    if above:
                        picked.setdefault(spec.references, set()).update(above)
                        frontier.append(spec.references)


def _merge(into: dict[str, set[Any]], more: Mapping[str, set[Any]]) -> None:
    for table, keys in more.items():
        into.setdefault(table, set()).update(keys)
