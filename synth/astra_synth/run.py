"""A SynthesisRun on this machine: make, verify in a sandbox, write; and go on where an earlier attempt stopped.

What is written (see astra_synth.output) is a function of the run, its source and, where there is one, its teacher's
answers, whenever and however often it was interrupted.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from astra_api.errors import BadInput
from astra_api.records import Reject
from astra_api.synthesis_run import EnvironmentSynthesis, SynthesisRun, SynthesisRunStatus, TablesSource
from astra_sandbox.interface import Sandbox
from astra_synth.output import Batch, Done, Output
from astra_synth.teacher import CallFailed, TeacherUnavailable

_OUTAGE = 8  # batches in a row that end by the endpoint's fault, after which it is taken to be down
Progress = Callable[[int, int], None]  # environments so far, rejects so far
OnDone = Callable[[Done], None]  # a batch that is complete, now or since an earlier start


class Maker(Protocol):
    """Makes numbered batches of verified environments. Batch n is a function of (run, n), whichever others are made."""

    def ahead(self, room: int) -> int:
        """How many batches may be under way while `room` environments are missing."""
        ...

    async def make(self, number: int) -> Batch:
        """One batch. Raises SandboxError and TeacherError for what is no fault of the batch: of these, CallFailed lets
        the run go on with others."""
        ...

    def accept(self, batch: Batch) -> Batch:
        """The batch as it is kept, after those accepted and recalled before it."""
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
    stays, and what the teacher's endpoint let down is neither complete nor rejected.
    """
    output = Output(out, run, source.identity)
    production = Production(run.spec.count, output, progress, on_done)
    try:
        async with source.open(sandbox, output, concurrency) as maker:
            known = [number for number in output.completed() if production.recall(maker, number)]
            missing = sorted(set(range(source.limit(run.spec.count))).difference(known))
            missed = await production.make(maker, missing)
            missed = await production.make(maker, missed)  # what let them down may have passed
            if missed and not production.complete:
                raise production.let_down(missed)
    finally:
        output.write_rejects(production.rejects)
    return output.finish(production.produced, production.rejects, production.complete)


class Production:
    """What a run has made so far, and how it makes the rest."""

    def __init__(self, count: int, output: Output, progress: Progress, on_done: OnDone) -> None:
        self._count, self._output, self._progress, self._on_done = count, output, progress, on_done
        self.produced, self.rejects = 0, list[Reject]()
        self._exhausted = False
        self._failures: dict[int, CallFailed] = {}  # the latest of each batch that was let down
        self._in_a_row: set[int] = set()  # batches that were let down since one was made

    @property
    def complete(self) -> bool:
        return self.produced >= self._count

    def recall(self, maker: Maker, number: int) -> bool:
        """Counts a batch that an earlier start completed, unless it is to be made again."""
        done = self._output.read(number)
        if done.record.get("transient"):
            return False
        maker.recall(done)
        self._add(maker, done)
        return True

    async def make(self, maker: Maker, numbers: Sequence[int]) -> list[int]:
        """Makes batches, in this order, until nothing is missing; those that the teacher's endpoint let down twice.

        Raises TeacherUnavailable when that is too many in a row.
        """
        missed: list[int] = []
        pending: dict[int, asyncio.Task[Batch]] = {}  # the first of the queue
        queue = deque(numbers)
        try:
            while queue and not self.complete and not self._exhausted:
                for ahead in islice(queue, maker.ahead(self._count - self.produced)):
                    if ahead not in pending:
                        pending[ahead] = asyncio.create_task(maker.make(ahead))
                number = queue.popleft()
                try:
                    batch = await pending.pop(number)
                except CallFailed as failure:
                    if number in self._failures:
                        missed.append(number)
                    else:
                        queue.insert(len(pending), number)  # what it has paid for is not to be lost
                    self._note(number, failure)
                    continue
                self._in_a_row.clear()
                self._output.write(_cut(maker.accept(batch), self._count - self.produced))
                self._add(maker, self._output.read(number))
        finally:
            for task in pending.values():
                task.cancel()
            await asyncio.gather(*pending.values(), return_exceptions=True)
        return missed

    def let_down(self, items: Collection[int], how: str = "") -> TeacherUnavailable:
        """The error of a run that cannot go on now for these items."""
        last = next(failure for number, failure in reversed(self._failures.items()) if number in items)
        return TeacherUnavailable(
            f"{len(items)} {'items' if len(items) > 1 else 'item'}{how} failed by the endpoint's fault, the last with "
            f"{last.reason}: {last}; they are tried again when the run goes on"
        )

    def _note(self, number: int, failure: CallFailed) -> None:
        self._failures.pop(number, None)
        self._failures[number] = failure
        self._in_a_row.add(number)
        if len(self._in_a_row) >= _OUTAGE:
            raise self.let_down(self._in_a_row, " in a row") from None

    def _add(self, maker: Maker, done: Done) -> None:
        self.produced += done.produced
        self.rejects += done.rejects
        self._on_done(done)
        self._progress(self.produced, len(self.rejects))
        if not self.complete and not self._exhausted and (enough := maker.exhausted) is not None:
            self._exhausted = True
            self.rejects.append(enough)


def _environments(run: SynthesisRun) -> EnvironmentSynthesis:
    if run.spec.environments is None:
        raise BadInput("spec.environments: required; say what environments to make")
    return run.spec.environments


def _cut(batch: Batch, room: int) -> Batch:
    return Batch(batch.number, batch.environments[:room], batch.rejects, batch.record)
