"""Draws sketches of a scenario and a number of hops from the tools of a toolset: the grammar of questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, TypeVar

from astra_api.environment import Scenario
from astra_synth.tables.arithmetic import JOINS, Convert, Join
from astra_synth.tables.groups import ColumnOperation, GroupOperation, Members
from astra_synth.tables.lookups import Lookup
from astra_synth.tables.operation import Kind, Operation
from astra_synth.tables.plan import Draft, End, Literal, Sketch, Spread, Unfit
from astra_synth.tables.rankings import Next
from astra_synth.tables.shard import Shard

_T = TypeVar("_T")


@dataclass(frozen=True)
class Composer:
    """The tools of one toolset, and how they fit together."""

    shard: Shard
    operations: tuple[Operation, ...]
    joins: tuple[Join, ...]

    def sketch(self, scenario: Scenario, hops: int, rng: Random) -> Sketch:
        """A random sketch. Raises Unfit when the draw missed the scenario or length, or these tools have none."""
        match scenario:
            case "single-hop":
                return Sketch((self._chain(1, rng),))
            case "multi-hop":
                return Sketch((self._walk(hops, rng),))
            case "parallel-single-hop":
                return self._side_by_side(hops, rng)
            case "parallel-multi-hop":
                ways = [self._branches, self._shared_start, self._spread]
                return rng.choice(ways)(hops, rng)

    @cached_property
    def _domains(self) -> dict[Operation, list[Any]]:
        return {operation: operation.domain(self.shard) for operation in self.operations}

    @cached_property
    def _starts(self) -> list[Operation]:
        return [operation for operation in self.operations if self._domains[operation]]

    def _walk(self, length: int, rng: Random) -> Draft:
        """A chain that is told in several sentences, and so may step from neighbour to neighbour."""
        draft = self._chain(1, rng)
        for _ in range(length - 1):
            fitting = [o for o in self.operations if o.takes == draft.operation.gives]
            others = [o for o in fitting if o != draft.operation]
            draft = Draft(_pick(others if others and rng.random() < 0.7 else fitting, rng), draft)
        return draft

    def _length_fits(self, operation: Operation, length: int, gives: Callable[[Kind], bool]) -> bool:
        if length == 1:
            return gives(operation.gives)
        return any(self._length_fits(after, length - 1, gives) for after in self._after(operation))

    def _after(self, operation: Operation) -> list[Operation]:
        """What may follow within one phrase: "the one below the one below X" would not be English."""
        fitting = [after for after in self.operations if after.takes == operation.gives and after != operation]
        return [after for after in fitting if not (isinstance(after, Next) and isinstance(operation, Next))]

    def _chain(self, length: int, rng: Random, gives: Callable[[Kind], bool] = lambda _: True) -> Draft:
        first = _pick([o for o in self._starts if self._length_fits(o, length, gives)], rng)
        draft = Draft(first, self._literal(first, rng))
        return self._extend(draft, length - 1, rng, gives)

    def _extend(self, draft: Draft, more: int, rng: Random, gives: Callable[[Kind], bool] = lambda _: True) -> Draft:
        for left in range(more, 0, -1):
            fitting = [o for o in self._after(draft.operation) if self._length_fits(o, left, gives)]
            draft = Draft(_pick(fitting, rng), draft)
        return draft

    def _literal(self, operation: Operation, rng: Random) -> Literal:
        return Literal(operation.takes, rng.choice(self._domains[operation]))

    def _literals(self, operation: Operation, count: int, rng: Random) -> list[Literal]:
        domain = self._domains[operation]
        if len(domain) < count:
            raise Unfit
        return [Literal(operation.takes, value) for value in rng.sample(domain, count)]

    def _side_by_side(self, hops: int, rng: Random) -> Sketch:
        """Independent calls: one tool on several things, or several tools on one thing."""
        if hops <= 3 and rng.random() < 0.25:
            start = rng.choice(self._starts)
            about = self._literal(start, rng)
            alike = [
                o
                for o in self._starts
                if o.takes == start.takes and o.gives.sort != "list" and about.value in self._domains[o]
            ]
            if len(alike) < hops:
                raise Unfit
            return Sketch(tuple(Draft(o, about) for o in rng.sample(alike, hops)), End("list"))
        operation = _pick([o for o in self._starts if o.gives.sort != "list"], rng)
        branches = tuple(Draft(operation, literal) for literal in self._literals(operation, hops, rng))
        return Sketch(branches, self._reasoned_end(branches, rng))

    def _branches(self, hops: int, rng: Random) -> Sketch:
        """Chains of their own, brought together: by a tool where there is one."""
        join = _pick([*self.joins, None], rng) if self.joins else None
        calls = hops - (join is not None)
        after = None
        if join is not None and join.name != "ratio" and calls >= 3 and rng.random() < 0.3:
            after = next((o for o in self.operations if isinstance(o, Convert)), None)
            calls -= after is not None
        most = 2 if join is not None and join.pair else 3
        count = rng.randint(2, max(2, min(most, calls)))
        if calls < count or (join is None and calls == count):
            raise Unfit
        cuts = sorted(rng.sample(range(1, calls), count - 1))
        lengths = [right - left for left, right in zip([0, *cuts], [*cuts, calls], strict=True)]
        first = self._chain(lengths[0], rng, lambda kind: kind.sort in ("quantity", "entity", "label"))
        wanted = first.operation.gives
        if join is not None and (wanted.sort != "quantity" or (after is not None and after.takes != wanted)):
            raise Unfit
        if rng.random() < 0.6:  # the same way from another start reads best: "... of X and of Y"
            rest = [self._chain(length, rng, wanted.__eq__) for length in lengths[1:]]
        else:
            rest = [self._restart(first, rng) for length in lengths[1:] if length == lengths[0]]
        if len(rest) < count - 1 or any(branch.operation.gives != wanted for branch in rest):
            raise Unfit
        branches = (first, *rest)
        if join is None:
            return Sketch(branches, self._reasoned_end(branches, rng))
        if join.name == "add" and not self._adds_up(branches):
            raise Unfit
        return Sketch(branches, End(join.name, join, call=True), after)

    def _restart(self, draft: Draft, rng: Random) -> Draft:
        """The same operations from another start."""
        if isinstance(draft.about, Literal):
            return Draft(draft.operation, self._literal(draft.operation, rng))
        return Draft(draft.operation, self._restart(draft.about, rng))

    def _shared_start(self, hops: int, rng: Random) -> Sketch:
        """One thing found first, then several of its properties."""
        count = 2 if hops < 4 else rng.randint(2, 3)
        start = self._chain(hops - count, rng, lambda kind: kind.sort == "entity") if hops > count else None
        if start is None:
            raise Unfit
        after = [o for o in self._after(start.operation) if o.gives.sort != "list"]
        if len(after) < count:
            raise Unfit
        return Sketch(tuple(Draft(o, start) for o in rng.sample(after, count)), End("list"))

    def _spread(self, hops: int, rng: Random) -> Sketch:
        """A list, then a property of each of its members, brought together."""
        length = rng.randint(1, max(1, hops - 2))
        members = self._chain(length, rng, lambda kind: kind.sort == "list")
        table = members.operation.gives.table
        each = [
            o for o in self.operations if isinstance(o, Lookup) and o.table == table and not self._shortcut(members, o)
        ]
        operation = _pick(each, rng)
        branches = (Spread(operation, members),)
        if operation.gives.sort == "quantity" and self.joins and rng.random() < 0.6:
            join = rng.choice(self.joins)
            if not join.pair and (join.name != "add" or self._adds_up(branches)):
                return Sketch(branches, End(join.name, join, call=True))
        return Sketch(branches, self._reasoned_end(branches, rng))

    def _shortcut(self, members: Draft, each: Lookup) -> bool:
        """Does another tool of this toolset say at once what a property of each member would add up to?"""
        listing = members.operation
        if not isinstance(listing, GroupOperation):
            return True
        same = [o for o in self.operations if isinstance(o, ColumnOperation) and o is not listing]
        return isinstance(listing, Members) and any(
            o.grouping == listing.grouping and o.column == each.column for o in same
        )

    def _reasoned_end(self, branches: Sequence[Draft | Spread], rng: Random) -> End:
        """A way to bring values together without a tool; never one that a tool of this toolset does."""
        operation = branches[0].operation
        ends = [End("list")]
        if operation.gives.sort == "quantity":
            by_tool = {join.name for join in self.joins}
            pair = len(branches) == 2 and not isinstance(branches[0], Spread)
            names = ["difference"] if pair else []
            names += ["add"] if self._adds_up(branches) else []
            ends += [End(name, JOINS[name]) for name in names if name not in by_tool]
            if isinstance(operation, Lookup) and all(branch.operation == operation for branch in branches):
                ends += [End("most"), End("least")]
        return rng.choice(ends[1:] if len(ends) > 1 and rng.random() < 0.8 else ends)

    def _adds_up(self, branches: Sequence[Draft | Spread]) -> bool:
        kind = branches[0].operation.gives
        if kind.sort != "quantity":
            return False
        column = self.shard.dataset.pack.tables[kind.table].columns.get(kind.column)
        return column is None or column.sum


def _pick(items: Sequence[_T], rng: Random) -> _T:
    if not items:
        raise Unfit
    return rng.choice(items)
