"""SynthesisRun: creates Environments (or, once it is built, a trajectory data set)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from astra_api.resource import API_VERSION, Condition, Fraction, Integer, Labels, ObjectMeta, Resource

HOP_LIMIT = 20  # the longest published chain of sub-questions


class SecretKey(Resource):
    """A key of a Secret. Outside a cluster the environment variable ASTRA_TEACHER_API_KEY stands for it."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    key: Annotated[str, Field(min_length=1, max_length=253)]


class Teacher(Resource):
    """An OpenAI-compatible endpoint. Sources of type `tables` need none."""

    type: Literal["openai"] = "openai"
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    model: Annotated[str, Field(min_length=1)]
    api_key_secret: SecretKey | None = None


ToolKind = Literal[
    "lookup", "reverse", "members", "count", "aggregate", "summary",
    "extreme", "rank", "top", "next", "filter", "arithmetic", "convert",
]  # fmt: skip


class ToolCount(Resource):
    """How many tools a toolset has."""

    min: Annotated[Integer, Field(ge=1, le=32)] = 3
    max: Annotated[Integer, Field(ge=1, le=32)] = 7

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class TableToolsets(Resource):
    """The toolsets that serve tables: each knows its own rows, and serves several environments."""

    tools: ToolCount = Field(default_factory=ToolCount)
    kinds: Annotated[list[ToolKind], Field(min_length=1)] | None = None  # all, unless given
    rows: Annotated[Integer, Field(ge=4, le=2000)] = 60  # of a toolset, at most
    environments: Annotated[Integer, Field(ge=1, le=100)] = 6  # that share a toolset


class TablesSource(Resource):
    """Tables and what they mean: a shipped pack by name, or a YAML by path (relative to the run's file)."""

    type: Literal["tables"]
    pack: Annotated[str, Field(min_length=1)] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    toolset: TableToolsets = Field(default_factory=TableToolsets)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pack is None) == (self.path is None):
            raise ValueError("give exactly one of pack and path")
        return self


class KnowledgeSource(Resource):
    """Knowledge texts, or names of domains, that a teacher turns into questions."""

    type: Literal["knowledge"]
    path: Annotated[str, Field(min_length=1)] | None = None
    domains: list[Annotated[str, Field(min_length=1)]] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.domains is None):
            raise ValueError("give exactly one of path and domains")
        return self


class QuestionsSource(Resource):
    """Given questions that a teacher decomposes."""

    type: Literal["questions"]
    path: Annotated[str, Field(min_length=1)]


class HopRange(Resource):
    """How many tool calls a question takes, at least and at most."""

    min: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 1
    max: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 6

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class EnvironmentSynthesis(Resource):
    """What environments to make."""

    source: Annotated[TablesSource | KnowledgeSource | QuestionsSource, Field(discriminator="type")]
    hops: HopRange = Field(default_factory=HopRange)
    quality_threshold: Fraction = 0.9  # for teachers' judgements; tables are checked by query instead
    labels: Labels = Field(default_factory=dict)  # put on every Environment


class SynthesisRunSpec(Resource):
    """Item i of a run is a function of (seed, i)."""

    kind: Literal["environments", "trajectories"] = "environments"
    teacher: Teacher | None = None
    count: Annotated[Integer, Field(ge=1, le=1_000_000)]
    seed: Annotated[Integer, Field(ge=0)] = 0
    environments: EnvironmentSynthesis | None = None
    trajectories: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _built(self) -> Self:
        if self.kind == "trajectories":
            raise ValueError("kind: trajectories is not built yet; use kind: environments")
        if self.environments is None or self.trajectories is not None:
            raise ValueError("kind: environments needs the field environments, and no field trajectories")
        if self.teacher is None and self.environments.source.type != "tables":
            raise ValueError(f"a source of type {self.environments.source.type} needs a teacher")
        return self


class SynthesisRunStatus(Resource):
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    produced: Integer = 0
    rejected: Integer = 0
    rejected_by: dict[str, Integer] = Field(default_factory=dict)
    conditions: list[Condition] = Field(default_factory=list)


class SynthesisRun(Resource):
    """The custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["SynthesisRun"] = "SynthesisRun"
    metadata: ObjectMeta
    spec: SynthesisRunSpec
    status: SynthesisRunStatus | None = None
