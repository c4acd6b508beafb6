"""Irrelevant-tool mixing (METHOD section 3): other domains' tools beside a prompt's own, in three bands of similarity.

A policy that sees its own tools alone never learns to choose. The bands decide how hard the choice is.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from astra_api.canonical import digest
from astra_api.environment import Environment
from astra_api.records import Toolset, ToolSpec
from astra_trainer.embedding import Embedder, NgramEmbedder, Vectors, tool_document
from astra_trainer.rollout import Episode
from astra_trainer.seeds import derive_seed

BANDS = ("low", "medium", "high")


@dataclass(frozen=True)
class MixingSettings:
    """Up to `per_band` tools a band; low < `medium` <= medium <= `high` < high, on normalised similarities."""

    per_band: int = 3
    medium: float = 0.4
    high: float = 0.85


@dataclass(frozen=True)
class PooledTool:
    """A tool that may be mixed in, and where its calls run."""

    spec: ToolSpec
    toolset: Toolset
    domain: str

    @cached_property
    def document(self) -> str:
        """Digest of what a model sees of it."""
        return digest(self.spec.model_dump(mode="json"))


class ToolMixer:
    """Makes episodes: an environment's own tools and a seeded sample of irrelevant ones, shuffled together.

    Episodes can be made of any of `environments`; candidates are the tools of `pool` (all of them by default; leave
    held-out ones out of a training pool) but those of the environment's own domain. For each own tool, the cosine
    similarities to its candidates are min-max normalised; a candidate's similarity to the environment is the highest
    over the own tools, so that a tool close to any of them counts as close. Normalising over the candidates alone (the
    same domain already excluded) gives every own tool a nearest and a farthest one.

    All documents are embedded once, in one call, and bands are computed once a toolset.
    """

    def __init__(
        self,
        environments: Sequence[Environment],
        settings: MixingSettings,
        *,
        pool: Sequence[Environment] | None = None,
        embedder: Embedder | None = None,
    ):
        self._settings = settings
        self._pool = _distinct_tools(environments if pool is None else pool) if settings.per_band else []
        own = _distinct_tools(environments) if self._pool else []
        texts = {tool.document: tool_document(tool.spec) for tool in [*self._pool, *own]}
        self._row = {document: row for row, document in enumerate(sorted(texts))}
        self._vectors: Vectors = (embedder or NgramEmbedder()).embed([texts[document] for document in self._row])
        self._pool_vectors = self._vectors[np.array([self._row[tool.document] for tool in self._pool], dtype=np.intp)]
        self._bands: dict[tuple[str, str], dict[str, list[PooledTool]]] = {}

    def episode(self, environment: Environment, *, seed: int, index: int, step: int) -> Episode:
        """The episode of prompt `index` at `step`: a function of (seed, index, step, environment, pool)."""
        rng = random.Random(derive_seed(seed, "mixing", index, step))
        own = environment.toolset.tools
        taken = {tool.name for tool in own}
        mixed: list[PooledTool] = []
        for candidates in self.bands(environment).values():
            chosen = _sample(candidates, self._settings.per_band, taken, rng)
            taken |= {tool.spec.name for tool in chosen}
            mixed += chosen
        tools = [*own, *(tool.spec for tool in mixed)]
        rng.shuffle(tools)
        foreign = {tool.spec.name: tool.toolset for tool in mixed}
        return Episode(environment=environment, tools=tuple(tools), foreign=foreign)

    def bands(self, environment: Environment) -> dict[str, list[PooledTool]]:
        """The candidates of an environment by band, in the order low, medium, high; names are not yet deduplicated."""
        key = (environment.toolset.digest, environment.spec.domain)
        if key not in self._bands:
            self._bands[key] = self._computed_bands(environment)
        return self._bands[key]

    def _computed_bands(self, environment: Environment) -> dict[str, list[PooledTool]]:
        domain = environment.spec.domain
        candidates = [position for position, tool in enumerate(self._pool) if tool.domain != domain]
        if not candidates:
            return {band: [] for band in BANDS}
        own = [PooledTool(tool, environment.toolset, domain).document for tool in environment.toolset.tools]
        if missing := [document for document in own if document not in self._row]:
            raise ValueError(f"{environment.name}: {len(missing)} of its tools were not given to the mixer")
        cosine = self._vectors[[self._row[document] for document in own]] @ self._pool_vectors.T
        similarity = normalised(cosine[:, candidates]).max(axis=0)
        low = similarity < self._settings.medium
        high = similarity > self._settings.high
        masks = dict(zip(BANDS, (low, ~low & ~high, high), strict=True))
        return {band: [self._pool[candidates[at]] for at in np.flatnonzero(mask)] for band, mask in masks.items()}


def normalised(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Min-max normalises each row of (own tools, candidates) to [0, 1]; a row of equal values becomes 0."""
    low = similarities.min(axis=1, keepdims=True)
    spread = similarities.max(axis=1, keepdims=True) - low
    result: Vectors = np.divide(similarities - low, spread, out=np.zeros_like(similarities), where=spread > 1e-6)
    return result


def _distinct_tools(pool: Sequence[Environment]) -> list[PooledTool]:
    """One entry a (domain, tool document), whichever toolset comes first by digest, so that order does not matter."""
    found: dict[tuple[str, str], PooledTool] = {}
    toolsets = {(env.spec.domain, env.toolset.digest): env.toolset for env in pool}
    for (domain, _), toolset in sorted(toolsets.items(), key=lambda item: item[0]):
        for spec in toolset.tools:
            tool = PooledTool(spec, toolset, domain)
            found.setdefault((domain, tool.document), tool)
    return list(found.values())


def _sample(candidates: Sequence[PooledTool], count: int, taken: set[str], rng: random.Random) -> list[PooledTool]:
    """Up to `count` candidates, uniformly, with names that are neither taken nor repeated."""
    chosen: dict[str, PooledTool] = {}
    for tool in rng.sample(candidates, len(candidates)):
        if len(chosen) == count:
            break
        if tool.spec.name not in taken:
            chosen.setdefault(tool.spec.name, tool)
    return list(chosen.values())
