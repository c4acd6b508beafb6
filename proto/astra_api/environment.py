"""Environment: one verifiable arena. A question, its topology of steps, and the tools that answer them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from astra_api.canonical import digest
from astra_api.matching import Match, matches
from astra_api.records import Toolset, ToolSpec
from astra_api.resource import API_VERSION, Conditions, Integer, Json, ObjectMeta, Positive, Quantity, Resource

Scenario = Literal["single-hop", "parallel-single-hop", "multi-hop", "parallel-multi-hop"]
MAX_SOURCE_BYTES = 128 * 1024

StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?$", max_length=63)]

DECIDED = ("Verified", "Rejected")  # phases with a verdict


class GoldCall(Resource):
    """The call that answers a step."""

    tool: Annotated[str, Field(min_length=1, max_length=64)]
    """The name of one of the tools."""
    arguments: Annotated[dict[str, Json], Field(max_length=64)]
    """The arguments object, as the tool's parameters describe it."""


class Step(Resource):
    """One atomic sub-question. Without a call it is reasoning only, and a leaf: nothing may depend on it."""

    id: StepId
    """Unique among the steps."""
    question: Annotated[str, Field(min_length=1, max_length=4096)]
    """The sub-question."""
    answer: Json
    """The gold answer: any JSON value."""
    depends_on: Annotated[list[StepId], Field(max_length=64)] = Field(default_factory=list)
    """Ids of the steps whose answers this one needs."""
    call: GoldCall | None = None
    """The call that answers it; none for a step of reasoning alone."""
    match: Match = "exact"
    """How a result is compared with the answer: as canonical JSON, as a number, or as folded text."""
    tolerance: Annotated[float, Field(ge=0.0)] = 0.0
    """The absolute difference allowed; only with match: numeric."""

    @model_validator(mode="after")
    def _tolerance_is_numeric(self) -> Self:
        if self.tolerance and self.match != "numeric":
            raise ValueError("tolerance needs match: numeric")
        return self

    def matches(self, actual: Any) -> bool:
        """Whether a value answers this step."""
        return matches(actual, self.answer, self.match, self.tolerance)


class Tool(Resource):
    """A tool as a model sees it: an OpenAI function."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,63}$", max_length=64)]
    """A public function of the source."""
    description: Annotated[str, Field(max_length=4096)]
    """What it does, in the words that a model reads."""
    parameters: dict[str, Json]
    """JSON Schema of the arguments object."""

    def spec(self) -> ToolSpec:
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)


class SourceRef(Resource):
    """Source over 128 KiB, in a ConfigMap."""

    config_map: Annotated[str, Field(min_length=1, max_length=253)]
    """The name of a ConfigMap in the namespace of the Environment."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """The key of its data that holds the source."""


class EnvironmentSandbox(Resource):
    """How sessions of this environment run."""

    isolation: Literal["session", "pod"] = "session"
    """Whether sessions share a pod, each in processes of its own, or have pods that serve nothing else."""
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = 0
    """Dedicated warm pods; 0 has sessions run in the pool of a run."""
    timeout_seconds: Annotated[Positive, Field(le=600)] = 5.0
    """Wall-clock time of one call."""
    memory: Quantity = "256Mi"
    """Memory of one session."""

    @model_validator(mode="after")
    def _pod_needs_replicas(self) -> Self:
        if self.isolation == "pod" and self.replicas < 1:
            raise ValueError("isolation: pod needs replicas of at least 1")
        return self


class EnvironmentSpec(Resource):
    """What is verified, digested and trained in."""

    question: Annotated[str, Field(min_length=1, max_length=16384)]
    """What a model is asked."""
    answer: Json
    """The gold answer, any JSON value: that of the last step, and matched like it."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$", max_length=35)] = "en"
    """The language of the question (BCP 47)."""
    domain: Annotated[str, Field(min_length=1, max_length=63)]
    """What it is about."""
    scenario: Scenario
    """The shape of the steps that need a tool: one or many, side by side or one after another."""
    steps: Annotated[list[Step], Field(min_length=1, max_length=64)]
    """The semantic topology: a directed acyclic graph of sub-questions."""
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)]
    """What a model may call."""
    source: Annotated[str, Field(json_schema_extra={"maxLength": MAX_SOURCE_BYTES})] | None = None
    """One Python module, standard library only; every tool is a public function of it."""
    source_ref: SourceRef | None = None
    """Where the source is, when it is over 128 KiB."""
    state: Literal["stateless", "stateful"] = "stateless"
    """Whether module globals persist across the calls of one session."""
    sandbox: EnvironmentSandbox = Field(default_factory=EnvironmentSandbox)
    """How sessions run."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.source_ref is None):
            raise ValueError("give exactly one of source and sourceRef")
        if self.source is not None and len(self.source.encode(errors="replace")) > MAX_SOURCE_BYTES:
            raise ValueError("source is over 128 KiB: put it in a ConfigMap and name it in sourceRef")
        return self

    @cached_property
    def tool_steps(self) -> tuple[Step, ...]:
        """The steps that need a tool, in `steps` order."""
        return tuple(step for step in self.steps if step.call is not None)


class EnvironmentStatus(Resource):
    """What the operator found."""

    observed_generation: Integer | None = None
    """The generation of the spec that this status was found of."""
    phase: Literal["Pending", "Verifying", "Verified", "Rejected"] = "Pending"
    """Where it stands."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Of the canonical spec that was verified."""
    toolset: Annotated[str, Field(max_length=128)] | None = None
    """Digest of tools, source and state alone, which environments may share."""
    conditions: Conditions = Field(default_factory=list)
    """Verified, and Ready: dedicated replicas serve, or none were asked for."""
    checks: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=1024)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """What each check found."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """HOST:PORT of the dedicated replicas."""
    replicas: Integer = 0
    """Dedicated replicas that are ready."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the dedicated replicas, for an autoscaler."""


class Environment(Resource):
    """The custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["Environment"] = "Environment"
    metadata: ObjectMeta
    spec: EnvironmentSpec
    status: EnvironmentStatus | None = None
    _source: str | None = PrivateAttr(default=None)  # what sourceRef resolved to

    @property
    def name(self) -> str:
        return self.metadata.name

    @cached_property
    def digest(self) -> str:
        """`sha256:...` of the canonical spec without `sandbox.replicas` (how many pods serve it is not what it is)."""
        spec = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        del spec["sandbox"]["replicas"]
        return digest(spec)

    def with_source(self, source: str) -> Self:
        """A copy whose `sourceRef` is resolved; what it says of itself (and its digest) stays as written."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @cached_property
    def toolset(self) -> Toolset:
        """What the data plane addresses. Raises ValueError while `sourceRef` is unresolved."""
        source = self.spec.source if self.spec.source is not None else self._source
        if source is None:
            raise ValueError(f"{self.name}: spec.sourceRef is not resolved")
        tools = tuple(tool.spec() for tool in self.spec.tools)
        return Toolset(tools=tools, source=source, state=self.spec.state)


def settled_phase(body: Mapping[str, Any]) -> str:
    """Verified or Rejected, where that verdict is of this generation of an Environment as an API server gives it."""
    status = body.get("status") or {}
    phase, conditions = status.get("phase"), status.get("conditions") or []
    of = next((one.get("observedGeneration") for one in conditions if one["type"] == "Verified"), None)
    return phase if phase in DECIDED and of == body["metadata"].get("generation") else "Pending"
