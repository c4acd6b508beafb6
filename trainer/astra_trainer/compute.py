"""The one thread in which tensors are computed.

The event loop stays free for the sandboxes while the model runs, and torch keeps a single team of worker threads: a
second one, spinning while it waits, takes half of a small machine.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="compute")


def at_rest(seconds: float) -> bool:
    """Whether that thread is done with all that it was given, within a time. Blocking."""
    try:
        _THREAD.submit(lambda: None).result(seconds)
    except TimeoutError:
        return False
    return True


async def compute(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `work` in that thread. Cancelling the wait does not stop the work; it ends before the process does."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, lambda: work(*args, **kwargs))
