"""Templates over real zygotes: whose fault it is that one does not come up."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from astra_api.records import Toolset
from astra_sandbox.limits import DEFAULT
from astra_sandbox.server.disks import Changes
from astra_sandbox.server.templates import LoadRejectedError, Templates, WorkerLostError
from astra_sandbox.server.toolsets import StoredToolset
from astra_sandbox.server.zygotes import Nursery, Zygote, ZygoteError

GOOD = "def tool(): return 1"


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery(wanted="process")
    yield nursery
    nursery.close()


def stored(make_toolset: Callable[..., Toolset], source: str) -> StoredToolset:
    return StoredToolset(make_toolset(source, "tool"))


async def opened(templates: Templates, toolset: StoredToolset) -> int:
    processes = await templates.fork(toolset, 0, 2, 0, DEFAULT)
    for process in processes:
        process.end()
    return len(processes)


async def test_a_zygote_that_does_not_start_is_no_fault_of_a_source(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, make_toolset: Callable[..., Toolset]
) -> None:
    """It is killed while it starts, or the machine has no process left: trying again is right."""
    first = nursery.launch(0)
    templates = Templates(nursery, first, Changes())
    first.close()
    launch, refusals = nursery.launch, iter([ZygoteError("it ended at once")])

    def launch_later(variant: int) -> Zygote:
        for refusal in refusals:
            raise refusal
        return launch(variant)

    monkeypatch.setattr(nursery, "launch", launch_later)
    with pytest.raises(WorkerLostError, match="it ended at once"):
        await opened(templates, stored(make_toolset, GOOD))
    assert await opened(templates, stored(make_toolset, GOOD)) == 2
    templates.close()


async def test_a_zygote_that_is_killed_while_sources_load_is_no_fault_of_theirs(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, make_toolset: Callable[..., Toolset]
) -> None:
    """Also where the source is one whose template has died before."""
    templates = Templates(nursery, nursery.launch(0), Changes())
    orders: list[int] = []
    real = Zygote.order

    def order(self: Zygote, *arguments: object) -> object:
        orders.append(self.pid)
        if len(orders) == 2:
            self.close()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Zygote, "order", order)
    dying = stored(make_toolset, "import os\nos._exit(0)\ndef tool(): ...")
    with pytest.raises(WorkerLostError):
        await opened(templates, dying)
    with pytest.raises(LoadRejectedError, match="ends its process while it loads"):
        await opened(templates, dying)
    assert await opened(templates, stored(make_toolset, GOOD)) == 2
    assert len(set(orders)) == 2, "the zygote was replaced once"
    templates.close()


async def test_a_source_that_loads_for_ever_is_ended(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, make_toolset: Callable[..., Toolset]
) -> None:
    monkeypatch.setattr("astra_sandbox.server.templates._LOAD_SECONDS", 1.0)
    zygote = nursery.launch(0)
    templates = Templates(nursery, zygote, Changes())
    with pytest.raises(LoadRejectedError, match="takes more than 1 s to load"):
        await opened(templates, stored(make_toolset, "while True: pass\ndef tool(): ..."))
    async with asyncio.timeout(5):
        while _children(zygote.pid):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await opened(templates, stored(make_toolset, GOOD)) == 2
    templates.close()


async def test_a_standstill_is_no_time_of_a_source_that_loads(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, make_toolset: Callable[..., Toolset]
) -> None:
    monkeypatch.setattr("astra_sandbox.server.templates._LOAD_SECONDS", 1.0)
    templates = Templates(nursery, nursery.launch(0), Changes())
    opening = asyncio.ensure_future(opened(templates, stored(make_toolset, f"import time\ntime.sleep(0.3)\n{GOOD}")))
    await asyncio.sleep(0.1)
    time.sleep(2)  # noqa: ASYNC251 - the server's loop stands still
    assert await opening == 2
    templates.close()


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()
