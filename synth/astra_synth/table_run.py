"""Runs whose environments come from tables: a batch is a toolset with its environments."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from astra_api.canonical import digest
from astra_api.environment import Environment
from astra_api.records import Reject
from astra_api.synthesis_run import EnvironmentSynthesis, SynthesisRun, TablesSource
from astra_sandbox.interface import Sandbox, SandboxError
from astra_sandbox.verification import verify_all
from astra_synth.output import Batch, Done, Output
from astra_synth.tables import Generator, Recipe, ToolsetShape, open_tables
from astra_synth.tables.toolset import ALL_KINDS
from astra_synth.tables.unasked import unasked

_RETRIES = 3  # times that an environment a verifier rejected is replaced by the next one of its index
_AHEAD = 4  # toolsets under way at once
_SPARE = 20  # toolsets that may come to nothing, besides three for each that is needed
_BARREN = 20  # toolsets in a row without anything new, after which the tables are taken to give no more


class TableRun:
    """The tables of a run, and how its environments are drawn from them."""

    def __init__(self, run: SynthesisRun, wanted: EnvironmentSynthesis, source: TablesSource, folder: Path) -> None:
        """Reads the tables. Raises BadInput."""
        dataset = open_tables(source.pack, folder / source.path if source.path is not None else None)
        shape = ToolsetShape(
            source.toolset.tools.min,
            source.toolset.tools.max,
            source.toolset.rows,
            source.toolset.environments,
            tuple(source.toolset.kinds or ALL_KINDS),
        )
        hops = wanted.hops
        recipe = Recipe(run.spec.seed, hops.min, hops.max, shape, run.metadata.name, dict(wanted.labels))
        self.generator = Generator(dataset, recipe)

    @property
    def identity(self) -> dict[str, Any]:
        return {"tables": self.generator.dataset.fingerprint}

    def limit(self, count: int) -> int:
        return 4 * -(-count // self.generator.recipe.shape.environments) + _SPARE

    @asynccontextmanager
    async def open(self, sandbox: Sandbox, output: Output, concurrency: int) -> AsyncIterator["ToolsetMaker"]:
        pool = ThreadPoolExecutor(max_workers=1)
        maker = ToolsetMaker(self.generator, sandbox, pool, asyncio.Semaphore(concurrency))
        try:
            yield maker
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self._tell_unasked(maker, output)

    def _tell_unasked(self, maker: "ToolsetMaker", output: Output) -> None:
        generator = self.generator
        shape = generator.recipe.shape
        lines = unasked(generator.dataset, generator.plan, shape, maker.tools) if maker.tools else []
        output.write_unasked(lines)


class ToolsetMaker:
    """Makes the environments of toolsets."""

    def __init__(
        self, generator: Generator, sandbox: Sandbox, pool: ThreadPoolExecutor, gate: asyncio.Semaphore
    ) -> None:
        self._generator, self._sandbox, self._pool, self._gate = generator, sandbox, pool, gate
        self._asked: set[str] = set()  # what the run asks so far, by gold calls and answers
        self.tools: set[str] = set()  # that its gold calls use
        self._barren = 0

    @property
    def exhausted(self) -> Reject | None:
        if self._barren < _BARREN:
            return None
        problem = f"{_BARREN} toolsets in a row asked nothing that had not been asked before"
        fix = "lower spec.count, or allow more kinds of tools, more hops or more rows"
        name = self._generator.recipe.prefix or self._generator.dataset.pack.name
        return Reject(name=name, stage="toolset", reason="exhausted", message=f"{problem}; {fix}")

    def ahead(self, room: int) -> int:
        return _AHEAD

    async def make(self, number: int) -> Batch:
        """The verified environments of one toolset. An environment that is rejected is replaced, a few times."""
        loop = asyncio.get_running_loop()
        size = self._generator.recipe.shape.environments
        kept: dict[int, Environment] = {}
        rejects: list[Reject] = []
        missing = list(range(number * size, (number + 1) * size))
        for skip in range(_RETRIES + 1):
            made = [await loop.run_in_executor(self._pool, self._generator.make, index, skip) for index in missing]
            rejects += [reject for item in made for reject in item.rejects]
            found = {item.index: item.environment for item in made if item.environment is not None}
            async with self._gate:
                verdicts = await verify_all(found.values(), self._sandbox, concurrency=size)
            for (index, environment), verdict in zip(found.items(), verdicts, strict=True):
                if verdict.phase == "Pending":
                    raise SandboxError(f"{verdict.name} could not be verified: {verdict.message}")
                if verdict.verified:
                    kept[index] = environment.model_copy(update={"status": verdict.status})
                else:
                    reason = verdict.reason or "Rejected"
                    rejects.append(Reject(name=verdict.name, stage="verify", reason=reason, message=verdict.message))
            missing = [index for index in found if index not in kept]
            if not missing:
                break
        return Batch(number, tuple(kept[index] for index in sorted(kept)), tuple(rejects))

    def accept(self, batch: Batch) -> Batch:
        asks = [_asks(environment) for environment in batch.environments]
        steps = [step for environment in batch.environments for step in environment.spec.steps]
        tools = sorted({step.call.tool for step in steps if step.call is not None})
        self._heed(asks, tools)
        return Batch(batch.number, batch.environments, batch.rejects, {"asks": asks, "tools": tools})

    def recall(self, done: Done) -> None:
        self._heed(done.record.get("asks", []), done.record.get("tools", []))

    def _heed(self, asks: list[str], tools: list[str]) -> None:
        self.tools.update(tools)
        self._barren = self._barren + 1 if self._asked.issuperset(asks) else 0
        self._asked.update(asks)


def _asks(environment: Environment) -> str:
    """What an environment asks, whatever its words: a short digest of its gold calls and answers."""
    calls = [[step.call.model_dump() if step.call else None, step.answer] for step in environment.spec.steps]
    return digest(calls).removeprefix("sha256:")[:16]
