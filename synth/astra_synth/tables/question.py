"""Plans in English: the question of the environment and of each of its steps, varied by seed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random

from astra_synth.tables.arithmetic import Convert
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Kind, Operation
from astra_synth.tables.plan import Item, Literal, Node, in_order
from astra_synth.tables.rankings import Next
from astra_synth.tables.wording import capital, enumerate_words, plain

_ONE = (
    "What is {}?",
    "What is {}?",
    "Find {}.",
    "Tell me {}.",
    "Can you tell me {}?",
    "I would like to know {}.",
    "Please look up {}.",
)
_MANY = ("What are {}?", "List {}.", "Please list {}.", "Give me {}.")
_THEN = ("Then find {}.", "Next, find {}.", "Then take {}.")
_STARTS = ("First find {}.", "Start with {}.", "Consider {}.", "Take {}.")


class Narrator:
    """Says plans of one dataset. What it says is a function of the plan and the generator."""

    def __init__(self, dataset: Dataset, rng: Random) -> None:
        self._dataset = dataset
        self._rng = rng

    def question(self, root: Node) -> str:
        """The whole question, with only the plan's literals in it."""
        chain = _single_chain(root)
        steps = _steps(chain or [])
        long = chain is not None and (len(chain) >= 4 or steps >= 2 or (len(chain) == 3 and steps == 1))
        if chain is not None and (long or (len(chain) == 3 and self._rng.random() < 0.5)):
            return self._told(chain)
        if (start := _shared_start(root)) is not None:
            opening = self._rng.choice(_STARTS).format(self._phrase(start, {}))
            return f"{opening} {self._ask(root, {id(start): self._that(start.kind)})}"
        return self._ask(root, {})

    def step(self, node: Node) -> str:
        """One step's question, with the values of earlier steps filled in."""
        known = {
            id(source): self._value(source.kind, source.value) for source in node.inputs if isinstance(source, Node)
        }
        if node.end is not None and node.end.join is not None:
            known = {key: plain(source.value) for key, source in zip(known, node.inputs, strict=False)}
        if node.end is not None and node.end.name == "list":
            return f"Give these results in order: {'; '.join(known.values())}."
        return self._ask(node, known)

    def _told(self, chain: Sequence[Node]) -> str:
        """A chain of calls in sentences: "Find the country of Lyon. What is the capital of that country?"."""
        sentences: list[str] = []
        known: dict[int, str] = {}
        calls = 0
        for node, after in pairwise(chain):
            calls += 1
            stepping = isinstance(after.operation, Next)
            if node.kind.sort == "entity" and (calls == 2 or stepping or self._rng.random() < 0.4):
                phrase = self._phrase(node, known)
                sentences.append(self._pick(_THEN if sentences else _STARTS).format(phrase))
                known = {id(node): self._that(node.kind)}
                calls = 0
        return " ".join([*sentences, self._ask(chain[-1], known)])

    def _ask(self, node: Node, known: Mapping[int, str]) -> str:
        """A question for a node's value; `known` has phrases for nodes already spoken of."""
        if node.end is not None:
            return self._ask_end(node, known)
        assert node.operation is not None
        about = self._about(node.inputs[0], known)
        phrase = self._pick(node.operation.phrases(about, node.extra))
        asks = node.operation.asks(about, node.extra)
        if asks and self._rng.random() < 0.5:
            return capital(self._pick(asks))
        return self._framed(node.operation, phrase)

    def _framed(self, operation: Operation, phrase: str) -> str:
        if operation.gives.sort == "list":
            return self._pick(_MANY).format(f"{phrase}, {operation.order}")
        return self._pick(_ONE).format(phrase)

    def _ask_end(self, node: Node, known: Mapping[int, str]) -> str:
        assert node.end is not None
        if (listed := _spread_of(node)) is not None:
            return self._ask_spread(node, listed, known)
        if node.end.name in ("most", "least"):
            branches = [source for source in node.inputs if isinstance(source, Node)]
            assert branches[0].operation is not None
            column = self._dataset.spec(branches[0].kind.table, branches[0].kind.column)
            word = "highest" if node.end.name == "most" else "lowest"
            things = [self._about(branch.inputs[0], known) for branch in branches]
            noun = self._noun(node.kind)
            superlative = column.high if node.end.name == "most" else column.low
            verb = (
                f"is the {superlative}" if superlative and self._rng.random() < 0.5 else f"has the {word} {column.noun}"
            )
            start = f"Which {noun}" if self._rng.random() < 0.5 else "Which"
            return f"{start} {verb}: {', '.join(things[:-1])} or {things[-1]}?"
        things = self._things(node, known)
        if node.end.join is None:
            both = "in that order"
            return self._pick(("What are {}, {}?", "Find {}, {}.", "Give me {}, {}.")).format(
                enumerate_words(things), both
            )
        asks = node.end.join.asks(things, "")
        if asks and self._rng.random() < 0.5:
            return capital(self._pick(asks))
        return self._pick(_ONE).format(self._pick(node.end.join.phrases(things, "")))

    def _ask_spread(self, node: Node, listed: Node, known: Mapping[int, str]) -> str:
        """One property of every member of a list, brought together."""
        assert node.end is not None
        assert listed.operation is not None
        each = next(source for source in node.inputs if isinstance(source, Node))
        column = self._dataset.spec(each.kind.table, each.kind.column) if each.kind.sort != "entity" else None
        noun = column.noun if column else self._property(each)
        members = self._phrase(listed, known)
        few = len(node.inputs) == 2
        match node.end.name:
            case "most" | "least":
                word = "highest" if node.end.name == "most" else "lowest"
                return f"Which of {members} has the {word} {noun}?"
            case "add":
                return self._pick(_ONE).format(
                    self._pick((f"the combined {noun} of {members}", f"the total {noun} of {members}"))
                )
            case "average":
                return self._pick(_ONE).format(f"the average {noun} of {members}, rounded to two decimals")
            case "difference" if few:
                return self._pick(_ONE).format(f"the difference in {noun} between {members}")
            case _:
                order = f"taking them {listed.operation.order}"
                return self._pick(("What is the {} of each of {}, {}?", "Give the {} of each of {}, {}.")).format(
                    noun, members, order
                )

    def _things(self, node: Node, known: Mapping[int, str]) -> list[str]:
        """Phrases for the branches; later ones that only differ in what they are about say "that of"."""
        branches = [source for source in node.inputs if isinstance(source, Node)]
        if all(id(branch) in known for branch in branches):
            return [known[id(branch)] for branch in branches]
        first = branches[0].operation
        if (
            all(branch.operation == first and branch.extra == branches[0].extra for branch in branches)
            and first is not None
        ):
            pattern = self._pick([p for p in first.phrases("\0", branches[0].extra) if p.count("\0") == 1] or ["\0"])
            spoken = [pattern.replace("\0", self._about(branch.inputs[0], known)) for branch in branches]
            if pattern.startswith("the ") and pattern.endswith(" of \0"):
                return [spoken[0], *(f"that of {self._about(branch.inputs[0], known)}" for branch in branches[1:])]
            return spoken
        return [self._phrase(branch, known) for branch in branches]

    def _phrase(self, node: Node, known: Mapping[int, str]) -> str:
        """A noun phrase for what a node gives."""
        if id(node) in known:
            return known[id(node)]
        if node.operation is None:
            assert node.end is not None
            assert node.end.join is not None
            if (listed := _spread_of(node)) is not None:
                return self._joined(node, listed, known)
            return self._pick(node.end.join.phrases(self._things(node, known), ""))
        return self._pick(node.operation.phrases(self._about(node.inputs[0], known), node.extra))

    def _joined(self, node: Node, listed: Node, known: Mapping[int, str]) -> str:
        each = next(source for source in node.inputs if isinstance(source, Node))
        noun = self._dataset.spec(each.kind.table, each.kind.column).noun
        word = {"add": "total", "average": "average", "difference": "difference in"}[node.end.name if node.end else ""]
        return f"the {word} {noun} of {self._phrase(listed, known)}"

    def _about(self, source: Node | Literal | Item, known: Mapping[int, str]) -> str:
        if isinstance(source, Node):
            return self._phrase(source, known)
        return self._value(source.kind, source.value)

    def _value(self, kind: Kind, value: object) -> str:
        """A concrete value as a question writes it."""
        if isinstance(value, list):
            return enumerate_words([self._value(Kind("entity", kind.table), item) for item in value])
        if kind.sort == "entity":
            spec = self._dataset.pack.tables[kind.table]
            named = spec.called.format(value)
            return f"the {named}" if value in spec.the else named
        return f"{plain(value)} {kind.unit}" if kind.unit else plain(value)

    def _that(self, kind: Kind) -> str:
        """Points back to what was just spoken of: "that isotope" for a natural isotope."""
        return f"that {self._noun(kind).rpartition(' ')[2]}"

    def _noun(self, kind: Kind) -> str:
        return self._dataset.pack.tables[kind.table].noun

    def _property(self, node: Node) -> str:
        """What a look-up that walks up a relation is called: "country"."""
        operation = node.operation
        column = getattr(operation, "column", "")
        table = getattr(operation, "table", "")
        return self._dataset.spec(table, column).noun if column else self._noun(node.kind)

    def _pick(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)


def _steps(chain: Sequence[Node]) -> int:
    return sum(isinstance(node.operation, Next) for node in chain)


def _single_chain(root: Node) -> list[Node] | None:
    nodes = in_order(root)
    straight = all(node.operation is not None and not isinstance(node.operation, Convert) for node in nodes)
    return nodes if straight and all(len(node.inputs) == 1 for node in nodes) else None


def _shared_start(root: Node) -> Node | None:
    """The one node that all branches of an end start from, if they do."""
    starts = [source.inputs[0] for source in root.inputs if isinstance(source, Node)] if root.end else []
    first = starts[0] if starts else None
    return first if isinstance(first, Node) and all(start is first for start in starts) and len(starts) > 1 else None


def _spread_of(node: Node) -> Node | None:
    """The list that the inputs of an end are properties of, if they are."""
    sources = [source.inputs[0] for source in node.inputs if isinstance(source, Node)]
    if sources and all(isinstance(source, Item) for source in sources):
        first = sources[0]
        return first.node if isinstance(first, Item) else None
    return None
