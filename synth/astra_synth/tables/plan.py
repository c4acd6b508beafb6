"""A plan: the calls that answer a question, as a tree of operations over values that the question names.

`Draft`s are drawn at random without looking at data; `realise` works them out over a shard, or says why there is no
question in them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from astra_api.matching import fold
from astra_synth.tables.arithmetic import Join
from astra_synth.tables.operation import Kind, Operation, Undefined
from astra_synth.tables.shard import Shard


class Unfit(Exception):
    """A draw that is no question of the kind asked for: of another length, in a circle. No reject, only drawn again."""


@dataclass(frozen=True)
class Literal:
    """A value that the question names."""

    kind: Kind
    value: Any


@dataclass(frozen=True)
class Draft:
    """An operation on a literal or on what another draft gives."""

    operation: Operation
    about: "Literal | Draft"


@dataclass(frozen=True)
class Spread:
    """The same operation on every member of the list that a draft gives."""

    operation: Operation
    members: Draft


@dataclass(frozen=True)
class Sketch:
    """What to ask: one branch alone, or branches brought together at the end, by a tool or by reasoning."""

    branches: tuple[Draft | Spread, ...]
    end: "End | None" = None
    after: Operation | None = None  # a conversion of the result of a join by tool

    def signature(self) -> str:
        """Tells sketches apart that would ask different things."""
        return f"{'; '.join(sorted(map(_signed, self.branches)))} {self.end.name if self.end else ''}"


@dataclass(frozen=True)
class End:
    """How branches meet. `call` when a tool does it."""

    name: str  # a join's name, or "most", "least", "list"
    join: Join | None = None
    call: bool = False


@dataclass(eq=False)
class Node:
    """A worked-out step. Nodes are told apart by identity: a shared prefix is one node."""

    operation: Operation | None  # None for an end
    inputs: "tuple[Literal | Node | Item, ...]"
    kind: Kind
    value: Any
    extra: Mapping[str, Any] = field(default_factory=dict)
    end: End | None = None

    @property
    def calls(self) -> bool:
        return self.operation is not None or (self.end is not None and self.end.call)

    @property
    def tool(self) -> str:
        if self.operation is not None:
            return self.operation.name
        return self.end.name if self.end else ""

    def arguments(self) -> dict[str, Any]:
        values = [source.value for source in self.inputs]
        if self.operation is not None:
            return self.operation.arguments(values[0], self.extra)
        if self.end is None or self.end.join is None:
            return {}
        return self.end.join.arguments(values)


@dataclass(frozen=True)
class Item:
    """One member of the list that a node gives."""

    node: Node
    value: Any
    kind: Kind


def in_order(root: Node) -> list[Node]:
    """Every node once, inputs before users."""
    found: list[Node] = []

    def visit(node: Node) -> None:
        if any(node is other for other in found):
            return
        for parent in parents(node):
            visit(parent)
        found.append(node)

    visit(root)
    return found


def parents(node: Node) -> list[Node]:
    """The nodes that a node takes values from, each once."""
    sources = [source.node if isinstance(source, Item) else source for source in node.inputs]
    distinct: list[Node] = []
    for source in sources:
        if isinstance(source, Node) and not any(source is other for other in distinct):
            distinct.append(source)
    return distinct


def realise(sketch: Sketch, shard: Shard, rng: Random, hops: int) -> Node:
    """The worked-out plan. Raises Undefined with the reason it gives no fair question, Unfit for another length."""
    done: dict[Draft, Node] = {}
    leaves: list[Node] = []
    for branch in sketch.branches:
        if isinstance(branch, Spread):
            members = _work(branch.members, shard, rng, done)
            kind = branch.operation.takes
            leaves += [_apply(branch.operation, Item(members, value, kind), shard, rng) for value in members.value]
        else:
            leaves.append(_work(branch, shard, rng, done))
    root = leaves[0] if sketch.end is None else _meet(sketch.end, leaves)
    if sketch.after is not None:
        root = _apply(sketch.after, root, shard, rng)
    nodes = in_order(root)
    if sum(node.calls for node in nodes) != hops:
        raise Unfit
    _check_distinct([node for node in nodes if node.calls])
    return root


def _work(draft: Draft, shard: Shard, rng: Random, done: dict[Draft, Node]) -> Node:
    if draft in done:
        return done[draft]
    if isinstance(draft.about, Literal):
        if draft.about.kind.sort == "entity" and fold(str(draft.about.value)) in shard.homonyms:
            raise Undefined("ambiguous-name", f"{draft.about.value} names rows of two tables")
        node = _apply(draft.operation, draft.about, shard, rng)
    else:
        node = _apply(draft.operation, _work(draft.about, shard, rng, done), shard, rng)
    seen = {(source.kind, str(source.value)) for source in _chain(node)}
    if (node.kind, str(node.value)) in seen:
        raise Unfit  # leads back to where it came from
    done[draft] = node
    return node


def _chain(node: Node) -> Iterator[Node | Literal | Item]:
    for source in node.inputs:
        yield source
        if isinstance(source, Node):
            yield from _chain(source)


def _apply(operation: Operation, source: Literal | Node | Item, shard: Shard, rng: Random) -> Node:
    called = f"{operation.name}({source.value!r})"
    try:
        extra = operation.sample(shard, source.value, rng)
        value = operation.answer(shard, source.value, extra)
    except Undefined as trouble:
        raise Undefined(trouble.reason, trouble.message or f"{called}: {trouble.reason}") from None
    if any(fold(str(given)) == fold(str(value)) for given in (source.value, *extra.values())):
        raise Undefined("echo", f"{called}: answers with its own argument")
    return Node(operation, (source,), operation.gives, value, extra)


def _meet(end: End, leaves: Sequence[Node]) -> Node:
    values = [leaf.value for leaf in leaves]
    inputs = tuple(leaves)
    called = f"{end.name}{tuple(values)!r}"
    if end.join is not None:
        try:
            value = end.join.answer(values)
        except Undefined as trouble:
            raise Undefined(trouble.reason, f"{called}: {trouble.reason}") from None
        if any(value == given for given in values):
            raise Undefined("echo", f"{called}: answers with its own argument")
        return Node(None, inputs, leaves[0].kind, value, end=end)
    if end.name == "list":
        return Node(None, inputs, Kind("list", leaves[0].kind.table), values, end=end)
    best = max(values) if end.name == "most" else min(values)
    if values.count(best) > 1:
        raise Undefined("tie", f"{called}: a tie")
    winner = leaves[values.index(best)].inputs[0]
    return Node(None, inputs, winner.kind, winner.value, end=end)


def _check_distinct(nodes: Sequence[Node]) -> None:
    """One call must credit one step, whichever it is."""
    calls = [(node.tool, repr(sorted(node.arguments().items()))) for node in nodes]
    if len(set(calls)) < len(calls):
        raise Unfit
    answers = [(node.tool, repr(node.value)) for node in nodes]
    if len(set(answers)) < len(answers):
        raise Undefined(
            "repeated-answer", f"{answers[0][0]}: two steps give one answer, and no judge could tell which was found"
        )


def _signed(branch: Draft | Spread | Literal) -> str:
    match branch:
        case Literal():
            return repr(branch.value)
        case Spread():
            return f"each {branch.operation.name}({_signed(branch.members)})"
        case Draft():
            return f"{branch.operation.name}({_signed(branch.about)})"
