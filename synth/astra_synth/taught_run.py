"""Runs whose environments a teacher makes: a batch is one item, from its seed to an environment or a reject."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from astra_api.errors import BadInput
from astra_api.records import Reject
from astra_api.synthesis_run import EnvironmentSynthesis, KnowledgeSource, QuestionsSource, SynthesisRun
from astra_sandbox.interface import Sandbox
from astra_synth.duplicates import KnownEnvironments
from astra_synth.instances.language import require_known
from astra_synth.instances.refinement import wanted_of
from astra_synth.instances.seeds import Seeds, open_seeds
from astra_synth.item import Item, ItemRecord, record_of
from astra_synth.output import Batch, Done, Output
from astra_synth.rejection import Rejected
from astra_synth.stages import DEDUPLICATE, STAGES, Workshop
from astra_synth.teacher import CallFailed, Teacher, open_teacher

_SEEDS_AN_ITEM = 1024  # model seeds that the questions on one item may use


class TaughtRun:
    """The seeds of a run and its teacher."""

    def __init__(
        self,
        run: SynthesisRun,
        wanted: EnvironmentSynthesis,
        source: KnowledgeSource | QuestionsSource,
        folder: Path,
        cache: Path | None,
    ) -> None:
        """Reads the seeds. Raises BadInput."""
        if isinstance(source, KnowledgeSource):
            for index, language in enumerate(source.languages):
                require_known(language, f"spec.environments.source.languages[{index}]")
        self.run, self.wanted, self.cache = run, wanted, cache
        self.seeds: Seeds = open_seeds(source, folder, run.spec.seed)

    @property
    def identity(self) -> dict[str, Any]:
        return {"seeds": self.seeds.fingerprint}

    def limit(self, count: int) -> int:
        return self.seeds.limit(count)

    @asynccontextmanager
    async def open(self, sandbox: Sandbox, output: Output, concurrency: int) -> AsyncIterator["ItemMaker"]:
        spec = self.run.spec
        if spec.teacher is None:
            raise BadInput("spec.teacher: required by this source; say which endpoint and model")
        cache = self.cache or output.path / "teacher"
        async with open_teacher(spec.teacher, spec.judge, cache, reasks=self.wanted.repairs) as teacher:
            yield ItemMaker(self, teacher, sandbox, output)


class ItemMaker:
    """Takes items through the stages."""

    def __init__(self, source: TaughtRun, teacher: Teacher, sandbox: Sandbox, output: Output) -> None:
        self._source, self._teacher, self._sandbox, self._output = source, teacher, sandbox, output
        self._known = KnownEnvironments(source.wanted.duplicate_similarity)

    def ahead(self, room: int) -> int:
        """No more than what is missing: an item that would not be needed is not paid for."""
        return max(1, min(room, self._teacher.author.spec.concurrency))

    async def make(self, number: int) -> Batch:
        """One item. What is wrong with it is a reject; SandboxError, and TeacherError that is not its fault, pass
        through."""
        run, draw = self._source.run, self._source.seeds.draw(number)
        item = Item(f"{run.metadata.name}-{number:05d}", draw, wanted_of(draw, self._source.wanted))
        enquiry = self._teacher.enquiry((run.spec.seed * 1_000_003 + number) * _SEEDS_AN_ITEM % 2**31)
        shop = Workshop(self._source.wanted, enquiry, self._sandbox)
        for name, stage in STAGES:
            enquiry.stage = name
            try:
                await stage(item, shop)
            except (Rejected, CallFailed) as failure:
                if isinstance(failure, CallFailed) and failure.transient:
                    raise
                return _rejected(number, record_of(item, name, enquiry.spent, failure.reason, str(failure)))
        assert item.environment is not None
        record = record_of(item, DEDUPLICATE, enquiry.spent)
        return Batch(number, (item.environment,), (), record.model_dump(mode="json"))

    def accept(self, batch: Batch) -> Batch:
        """Drops an environment that repeats an earlier one."""
        record = ItemRecord.model_validate(batch.record)
        for environment in batch.environments:
            if wrong := self._known.duplicate(environment):
                reason, message = wrong
                return _rejected(batch.number, record.model_copy(update={"reason": reason, "message": message}))
            self._known.add(environment)
        return batch

    def recall(self, done: Done) -> None:
        for environment in self._output.environments(done.number):
            self._known.add(environment)

    @property
    def exhausted(self) -> Reject | None:
        return None  # a teacher is asked as often as there are seeds


def _rejected(number: int, record: ItemRecord) -> Batch:
    reason = record.reason or "Rejected"
    reject = Reject(name=record.name, stage=record.stage, reason=reason, message=record.message)
    return Batch(number, (), (reject,), record.model_dump(mode="json"))
