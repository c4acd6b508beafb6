"""Whether the census knows what an API server lists."""

import sys
import threading
from typing import Any

import pytest
from farms import environment_body

from astra_api.resource import Selector
from astra_operator.census import Census, Counts

ALL = [Selector()]
X = {"set": "x"}


def metadata(name: str, generation: int = 1, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"name": name, "namespace": "lab", "generation": generation, "labels": labels or {}}


@pytest.mark.parametrize(
    ("listed", "agrees"),
    [
        ([metadata("a", labels=X), metadata("b")], True),
        ([metadata("b"), metadata("a", labels=X)], True),
        ([metadata("a", labels=X), metadata("b"), metadata("c")], False),  # one that the watch has not told of
        ([metadata("a", labels=X)], False),  # one that is deleted
        ([metadata("a", labels=X), metadata("b", generation=2)], False),  # its verdict is of another spec
        ([metadata("a", labels={"set": "y"}), metadata("b")], False),  # another run's now
    ],
)
def test_it_agrees_with_a_list_only_where_it_knows_the_same(listed: list[dict[str, Any]], agrees: bool) -> None:
    census = Census()
    census.note(environment_body("a", labels=X))
    census.note(environment_body("b"))
    census.note({**environment_body("b"), "metadata": {**metadata("b"), "namespace": "elsewhere"}})
    assert census.agrees("lab", ALL, listed) is agrees


def test_what_a_run_does_not_select_does_not_hold_it_up() -> None:
    census = Census()
    census.note(environment_body("a", labels=X))
    listed = [metadata("a", labels=X), metadata("c", labels={"set": "y"})]
    assert census.agrees("lab", [Selector(match_labels=X)], listed)


def test_it_is_read_while_it_is_written() -> None:
    census = Census()
    failed: list[RuntimeError] = []

    def read() -> None:
        try:
            while not done.is_set():
                census.count("lab", ALL)
                census.phases()
        except RuntimeError as error:
            failed.append(error)

    done = threading.Event()
    readers = [threading.Thread(target=read) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for reader in readers:
            reader.start()
        for number in range(2000):
            census.note(environment_body(f"e{number % 700}"))
            census.forget("lab", f"e{number % 500}")
    finally:
        done.set()
        sys.setswitchinterval(before)
        for reader in readers:
            reader.join()
    assert not failed
    census.forget("lab", "none")
    assert census.count("elsewhere", ALL) == Counts(0, 0, 0)
