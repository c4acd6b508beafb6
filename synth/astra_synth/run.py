"""A SynthesisRun on this machine: make, verify in a sandbox, write; and go on where an earlier attempt stopped.

What is written (see astra_synth.output) is a function of the run, its source and, where there is one, its teacher's
answers, whenever and however often it was interrupted.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from astra_api.errors import BadInput
from astra_api.records import Reject
from astra_api.synthesis_run import EnvironmentSynthesis, SynthesisRun, SynthesisRunStatus, TablesSource
from astra_sandbox.interface import Sandbox
from astra_synth.output import Batch, Done, Output

Progress = Callable[[int, int], None]  # environments so far, rejects so far
OnDone = Callable[[Done], None]  # a batch that is complete, now or since an earlier start


class Maker(Protocol):
    """Makes numbered batches of verified environments. Batch n is a function of (run, n), whichever others are made."""

    def ahead(self, room: int) -> int:
        """How many batches may be under way while `room` environments are missing."""
        ...

    async def make(self, number: int) -> Batch:
        """One batch. Raises SandboxError and TeacherError for what is no fault of the batch."""
        ...

    def accept(self, batch: Batch) -> Batch:
        """The batch as it is kept, after those before it: called in the order of numbers. May raise like `make`."""
        ...

    def recall(self, done: Done) -> None:
        """Takes note of a batch that an earlier start completed, in place of `accept`."""
        ...

    @property
    def exhausted(self) -> Reject | None:
        """Why further batches would bring nothing new, once that is so."""
        ...


class Source(Protocol):
    """What a run draws from."""

    @property
    def identity(self) -> dict[str, Any]:
        """What an output directory is told apart by, besides the run's own spec."""
        ...

    def limit(self, count: int) -> int:
        """How many batches may be tried for `count` environments."""
        ...

    def open(self, sandbox: Sandbox, output: Output, concurrency: int) -> AbstractAsyncContextManager[Maker]: ...


def open_run(run: SynthesisRun, folder: Path, cache: Path | None = None) -> Source:
    """The source that a run asks for; paths are relative to `folder`. Raises BadInput.

    `cache` is where a teacher's answers are kept; the folder `teacher` of the output unless given.
    """
    wanted = _environments(run)
    if isinstance(wanted.source, TablesSource):
        from astra_synth.table_run import TableRun

        return TableRun(run, wanted, wanted.source, folder)
    from astra_synth.taught_run import TaughtRun

    return TaughtRun(run, wanted, wanted.source, folder, cache)


async def synthesize(
    run: SynthesisRun,
    source: Source,
    sandbox: Sandbox,
    out: Path,
    progress: Progress,
    *,
    concurrency: int = 16,
    on_done: OnDone = lambda _: None,
) -> SynthesisRunStatus:
    """Makes, verifies and writes what is missing of a run; the status it ends with.

    Raises BadInput when `out` belongs to another run, SandboxError or TeacherError when these fail: what was complete
    stays.
    """
    output = Output(out, run, source.identity)
    count, last = run.spec.count, source.limit(run.spec.count)
    produced, rejects = 0, list[Reject]()
    pending: dict[int, asyncio.Task[Batch]] = {}
    try:
        async with source.open(sandbox, output, concurrency) as maker:
            try:
                for number in range(last):
                    for ahead in range(number, min(number + maker.ahead(count - produced), last)):
                        if ahead not in pending and not output.is_done(ahead):
                            pending[ahead] = asyncio.create_task(maker.make(ahead))
                    if number in pending:
                        batch = maker.accept(await pending.pop(number))
                        output.write(_cut(batch, count - produced))
                        done = output.read(number)
                    else:
                        done = output.read(number)
                        maker.recall(done)
                    produced += done.produced
                    rejects += done.rejects
                    on_done(done)
                    progress(produced, len(rejects))
                    if produced >= count:
                        break
                    if (enough := maker.exhausted) is not None:
                        rejects.append(enough)
                        break
            finally:
                for task in pending.values():
                    task.cancel()
                await asyncio.gather(*pending.values(), return_exceptions=True)
    finally:
        output.write_rejects(rejects)
    return output.finish(produced, rejects, produced >= count)


def _environments(run: SynthesisRun) -> EnvironmentSynthesis:
    if run.spec.environments is None:
        raise BadInput("spec.environments: required; say what environments to make")
    return run.spec.environments


def _cut(batch: Batch, room: int) -> Batch:
    return Batch(batch.number, batch.environments[:room], batch.rejects, batch.record)
