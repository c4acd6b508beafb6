"""Each key once at a time, none forgotten, failures tried again."""

import asyncio
from collections import Counter
from typing import NamedTuple

from astra_operator.work_queue import WorkQueue


class Key(NamedTuple):
    name: str
    namespace: str = "lab"


A, B = Key("a"), Key("b")
BAD, GOOD = Key("bad"), Key("good")


async def test_a_key_is_in_one_worker_at_a_time_and_is_not_forgotten() -> None:
    busy: Counter[Key] = Counter()
    done: Counter[Key] = Counter()

    async def reconcile(key: Key) -> None:
        busy[key] += 1
        assert busy[key] == 1
        await asyncio.sleep(0.02)
        busy[key] -= 1
        done[key] += 1

    queue = WorkQueue(reconcile, workers=4)
    queue.start()
    for _ in range(5):
        queue.add(A)
        queue.add(B)
    await asyncio.sleep(0.01)
    queue.add(A)  # while it is being reconciled: once more
    await asyncio.sleep(0.5)
    assert len(queue) == 0
    await queue.stop()
    assert done == {A: 2, B: 1}


async def test_what_fails_is_tried_again_and_harms_no_other() -> None:
    tries: Counter[Key] = Counter()
    recovered = asyncio.Event()

    async def reconcile(key: Key) -> None:
        tries[key] += 1
        if key == BAD and tries[key] < 3:
            raise RuntimeError("not yet")
        if key == BAD:
            recovered.set()

    queue = WorkQueue(reconcile, workers=1)
    queue.start()
    queue.add(BAD)
    queue.add(GOOD)
    async with asyncio.timeout(30):
        await recovered.wait()
    await queue.stop()
    assert tries[GOOD] == 1


async def test_an_earlier_date_wins() -> None:
    done = asyncio.Event()

    async def reconcile(_: Key) -> None:
        done.set()

    queue = WorkQueue(reconcile, workers=1)
    queue.start()
    queue.add_after(A, 60.0)
    queue.add_after(A, 0.01)
    queue.add_after(A, 60.0)
    async with asyncio.timeout(20):
        await done.wait()
    await queue.stop()
