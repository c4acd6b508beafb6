"""Namespaces share the workers: whatever is added, and however long keys take."""

from collections import Counter
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from astra_operator.turns import Turns


class Key(NamedTuple):
    namespace: str
    name: int


KEYS = st.builds(Key, st.sampled_from("abcde"), st.integers(0, 7))


class SharedWorkers(RuleBasedStateMachine):
    """Adds keys, gives them to workers and takes them back, in any order; this side keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[Key] = Turns()
        self.waiting: set[Key] = set()
        self.working: set[Key] = set()
        self.added_meanwhile: set[Key] = set()
        self.passed_over: Counter[str] = Counter()  # picks since a namespace that waits had one

    @property
    def held(self) -> Counter[str]:
        return Counter(key.namespace for key in self.working)

    @rule(key=KEYS)
    def add(self, key: Key) -> None:
        self.turns.add(key)
        (self.added_meanwhile if key in self.working else self.waiting).add(key)

    @rule()
    def take(self) -> None:
        key = self.turns.take()
        if key is None:
            assert not self.waiting, "a key was lost"
            return
        assert key in self.waiting, "no key that nobody added, and none twice at a time"
        rivals = {other.namespace for other in self.waiting}
        assert self.held[key.namespace] == min(self.held[rival] for rival in rivals)
        self.waiting.remove(key)
        self.working.add(key)
        for rival in rivals - {key.namespace}:
            self.passed_over[rival] += 1
            if not self.held[rival]:
                assert self.passed_over[rival] < len("abcde"), f"{rival} waits, has no worker, and had no turn"
        self.passed_over[key.namespace] = 0

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.working.remove(key)
        assert self.turns.done(key) == (key in self.added_meanwhile)
        self.added_meanwhile.discard(key)
        self.passed_over[key.namespace] = 0  # from now on it may wait without a worker

    @invariant()
    def counts(self) -> None:
        assert len(self.turns) == len(self.waiting) + len(self.working)


TestSharedWorkers = SharedWorkers.TestCase
TestSharedWorkers.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_one_with_thousands_does_not_starve_one_with_five() -> None:
    turns: Turns[Key] = Turns()
    for number in range(5000):
        turns.add(Key("many", number))
    for number in range(5):
        turns.add(Key("few", number))
    picked = []
    for _ in range(10):
        key = turns.take()
        assert key is not None
        picked.append(key)
        turns.done(key)
    assert [key.name for key in picked if key.namespace == "few"] == [0, 1, 2, 3, 4]


def test_keys_that_take_long_hold_their_share_of_the_workers_and_no_more() -> None:
    turns: Turns[Key] = Turns()
    for number in range(100):
        turns.add(Key("slow", number))
        turns.add(Key("fast", number))
    workers: list[Key] = []
    for _ in range(5):
        while len(workers) < 12 and (key := turns.take()) is not None:
            workers.append(key)
        assert Counter(key.namespace for key in workers) == {"slow": 6, "fast": 6}
        for key in workers[:]:
            if key.namespace == "fast":  # what is slow is never done
                workers.remove(key)
                turns.done(key)
