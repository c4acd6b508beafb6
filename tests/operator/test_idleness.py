"""When what serves on demand sleeps, and what wakes it."""

from astra_operator.idleness import Idleness


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_sleeps_after_its_time_without_use_and_wakes_at_once() -> None:
    clock = Clock()
    idle = Idleness(10.0, clock)
    clock.now += 9.0
    assert not idle.nod(), "it is warm from its start"
    assert idle.left() == 1.0
    assert not idle.begin(), "it was awake"
    clock.now += 60.0
    assert not idle.nod(), "it is in use, however long that takes"
    idle.end()
    clock.now += 9.5
    assert not idle.nod()
    clock.now += 0.5
    assert idle.nod()
    assert not idle.nod(), "it fell asleep once"
    assert idle.asleep
    assert idle.begin(), "this wakes it"
    assert not idle.asleep
    assert not idle.begin()
    idle.end()
    clock.now += 60.0
    assert not idle.nod(), "somebody else still uses it"
    idle.end()
    clock.now += 10.0
    assert idle.nod()
    assert idle.touch()
    clock.now += 9.0
    assert not idle.nod()


def test_zero_means_never() -> None:
    clock = Clock()
    idle = Idleness(0, clock)
    clock.now += 1e9
    assert not idle.nod()
    assert not idle.touch()
