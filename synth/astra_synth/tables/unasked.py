"""What a run never asked about, and why: the columns and groups that a pack offers in vain."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Operation
from astra_synth.tables.shard import ShardPlan
from astra_synth.tables.toolset import ToolsetShape, obstacle, offered_operations, speakable

_TOOLSETS = 40  # looked at, before a column is taken to be out of reach
_REASONS = {
    "no-rows": "no toolset has a value of it to ask for",
    "no-group": "no value of it names two rows or more that fit into one toolset whole; raise toolset.rows",
    "few": "fewer than three things in a toolset can be asked for it; raise toolset.rows",
    "one-answer": "it is the same for everything in a toolset",
    "answer-in-question": "what it would be asked about says the answer",
    "tie": "equal values make every ranking a tie",
    "missing-value": "values are missing in every group",
    "long-list": "its lists are too long to ask for",
    "one-category": "every group is of one category, or misses some",
}


@dataclass(frozen=True, order=True)
class Subject:
    """What can be asked about: a column, or the groups of rows that its values name."""

    table: str
    column: str
    groups: bool = False

    def __str__(self) -> str:
        name = f"{self.table}.{self.column}"
        return f"groups by {name}" if self.groups else name


def unasked(dataset: Dataset, plan: ShardPlan, shape: ToolsetShape, tools: Iterable[str]) -> list[str]:
    """A line for every column and group that none of the tools called asks about, with the reason.

    `tools` are the names of those that the gold calls of a run use.
    """
    called = set(tools)
    offered = list(offered_operations(dataset))
    asked = {subject for _, operation in offered if operation.name in called for subject in _subjects(operation)}
    left = [subject for subject in _all(dataset) if subject not in asked]
    by_subject = {subject: [(k, o) for k, o in offered if subject in _subjects(o)] for subject in left}
    reasons: dict[Subject, str] = {}
    for subject, offers in by_subject.items():
        allowed = [operation for kind, operation in offers if kind in shape.kinds]
        if not allowed:
            kinds = sorted({kind for kind, _ in offers})
            reasons[subject] = f"no tool of toolset.kinds asks for it; add one of {', '.join(kinds)}"
        elif not any(map(speakable, allowed)):
            reasons[subject] = "the names of its tools would pass 64 letters or clash; choose shorter nouns"
    open_ends = {s: [o for k, o in by_subject[s] if k in shape.kinds] for s in left if s not in reasons}
    reasons |= _out_of_reach(plan, open_ends)
    lines = [f"{subject}: {reasons[subject]}" for subject in sorted(reasons)]
    if by_chance := [str(subject) for subject in left if subject not in reasons]:
        lines.append(f"{', '.join(by_chance)}: could be, but no environment came to it; raise spec.count")
    return lines


def _out_of_reach(plan: ShardPlan, operations: dict[Subject, list[Operation]]) -> dict[Subject, str]:
    """Why no toolset asks about a subject, for each of which that is so."""
    troubles: dict[Subject, Counter[str]] = {subject: Counter() for subject in operations}
    tables = set[str]()
    for number in range(min(plan.disjoint, _TOOLSETS)):
        shard = plan.shard(number)
        tables |= set(shard.rows)
        for subject in list(troubles):
            found = [obstacle(operation, shard) for operation in operations[subject] if speakable(operation)]
            if None in found:
                del troubles[subject]
            else:
                troubles[subject].update(trouble for trouble in found if trouble is not None)
    return {subject: _reason(plan, subject, counted, tables) for subject, counted in troubles.items()}


def _reason(plan: ShardPlan, subject: Subject, troubles: Counter[str], tables: set[str]) -> str:
    if subject.table not in tables:
        by = plan.dataset.pack.shards.by
        return f"no row of {subject.table} is in a toolset: nothing ties it to shards.by, {by}"
    (trouble, _), *_ = troubles.most_common(1) or [("no-rows", 0)]
    return _REASONS.get(trouble, trouble)


def _all(dataset: Dataset) -> Iterator[Subject]:
    for table, spec in dataset.pack.tables.items():
        yield from (Subject(table, column) for column in spec.columns)
    yield from (Subject(grouping.table, grouping.column, True) for grouping in dataset.members)


def _subjects(operation: Operation) -> frozenset[Subject]:
    """What a tool asks about; the column that names its groups is none of it."""
    needs = operation.needs()
    groups = {Subject(grouping.table, grouping.column, True) for grouping in needs.groups}
    named = {(grouping.table, grouping.column) for grouping in needs.groups}
    return frozenset(groups | {Subject(table, column) for table, column in needs.columns - named})
