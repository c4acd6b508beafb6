"""An Environment is one verifiable arena: a question, its topology of steps, and the tools that answer them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from astra_api.canonical import digest
from astra_api.matching import Match, matches
from astra_api.records import Toolset, ToolSpec
from astra_api.resource import (
    API_VERSION,
    Conditions,
    Integer,
    Json,
    ObjectMeta,
    Positive,
    PositiveQuantity,
    Resource,
    quantity,
)

Scenario = Literal["single-hop", "parallel-single-hop", "multi-hop", "parallel-multi-hop"]
MAX_SOURCE_BYTES = 128 * 1024
LEAST_MEMORY = "1M"  # of a session; less is a slip, such as 256m

StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?$", max_length=63)]

DECIDED = ("Verified", "Rejected")  # phases with a verdict


class GoldCall(Resource):
    """A gold call is the tool call that answers a step."""

    tool: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the tool that is called, which must be one of tools."""
    arguments: Annotated[dict[str, Json], Field(max_length=64)]
    """Arguments that the tool is called with, as its parameters describe them."""


class Step(Resource):
    """A step is one atomic sub-question. A step without a call is reasoning alone, and no other step may depend on
    it."""

    id: StepId
    """Identifier of the step, which is unique among the steps."""
    question: Annotated[str, Field(min_length=1, max_length=4096)]
    """Question that the step answers."""
    answer: Json
    """Gold answer that a result is compared with; it may be any JSON value."""
    depends_on: Annotated[list[StepId], Field(max_length=64)] = Field(default_factory=list)
    """Identifiers of the steps whose answers this one needs."""
    call: GoldCall | None = None
    """Call of a tool that answers the step. A step of reasoning alone has none."""
    match: Match = "exact"
    """Comparison that a result must pass against the answer: exact compares canonical JSON, numeric compares numbers,
    and text compares folded text."""
    tolerance: Annotated[float, Field(ge=0.0)] = 0.0
    """Absolute difference from the answer that is allowed; it needs match: numeric."""

    @model_validator(mode="after")
    def _tolerance_is_numeric(self) -> Self:
        if self.tolerance and self.match != "numeric":
            raise ValueError("tolerance needs match: numeric")
        return self

    def matches(self, actual: Any) -> bool:
        """Whether a value answers this step."""
        return matches(actual, self.answer, self.match, self.tolerance)


class Tool(Resource):
    """A tool is a function that a model may call, described as an OpenAI function is."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,63}$", max_length=64)]
    """Name of the tool, which is that of a public function of the source."""
    description: Annotated[str, Field(max_length=4096)]
    """Description of what the tool does, in the words that a model reads."""
    parameters: dict[str, Json]
    """JSON Schema that describes the arguments of the tool."""

    def spec(self) -> ToolSpec:
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)


class SourceRef(Resource):
    """A reference names the key of a ConfigMap that holds a source of more than 128 KiB."""

    config_map: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the ConfigMap, which must be in the namespace of the Environment."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key of the ConfigMap's data that holds the source."""


class EnvironmentSandbox(Resource):
    """A sandbox setting tells how sessions of the Environment run."""

    isolation: Literal["session", "pod"] = "session"
    """Isolation that sessions get: session gives each its own processes in a shared pod, and pod gives the Environment
    pods that serve nothing else."""
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = 0
    """Number of pods that are kept warm for this Environment alone. Sessions run in the pool of a run while it is 0."""
    timeout_seconds: Annotated[Positive, Field(le=600)] = 5.0
    """Seconds that one call of a tool may take on the clock."""
    memory: PositiveQuantity = "256Mi"
    """Memory that one session may use: at least 1M."""

    @model_validator(mode="after")
    def _pod_needs_replicas(self) -> Self:
        if self.isolation == "pod" and self.replicas < 1:
            raise ValueError("isolation: pod needs replicas of at least 1")
        return self

    @model_validator(mode="after")
    def _memory_for_a_session(self) -> Self:
        if quantity(self.memory) < quantity(LEAST_MEMORY):
            raise ValueError(f"memory must be at least {LEAST_MEMORY}, not {self.memory}; 256Mi does for most")
        return self


class EnvironmentSpec(Resource):
    """The spec of an Environment is verified, digested and trained in."""

    question: Annotated[str, Field(min_length=1, max_length=16384)]
    """Question that a model is asked."""
    answer: Json
    """Gold answer to the question, which is that of the last step and is compared like it; it may be any JSON value."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$", max_length=35)] = "en"
    """Language that the question is written in, as a BCP 47 tag."""
    domain: Annotated[str, Field(min_length=1, max_length=63)]
    """Domain that the question is about, such as travel."""
    scenario: Scenario
    """Shape that the steps with a call have: one or many, side by side or one after another."""
    steps: Annotated[list[Step], Field(min_length=1, max_length=64)]
    """Steps that lead to the answer; they form a directed acyclic graph of sub-questions."""
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)]
    """Tools that a model may call."""
    source: Annotated[str, Field(json_schema_extra={"maxLength": MAX_SOURCE_BYTES})] | None = None
    """Source of the tools, which is one Python module that needs the standard library alone and has each tool as a
    public function. Exactly one of source and sourceRef is given."""
    source_ref: SourceRef | None = None
    """Reference to the ConfigMap that holds the source when it is over 128 KiB."""
    state: Literal["stateless", "stateful"] = "stateless"
    """State that the tools keep: globals of the module persist across the calls of one session when it is stateful."""
    sandbox: EnvironmentSandbox = Field(default_factory=EnvironmentSandbox)
    """Sandbox that sessions run in."""

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
    """The status of an Environment tells what the operator found."""

    observed_generation: Integer | None = None
    """Generation of the spec that this status was found for."""
    phase: Literal["Pending", "Verifying", "Verified", "Rejected"] = "Pending"
    """Phase that the Environment is in; only a verified one is trained in."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Digest of the canonical spec that was verified."""
    toolset: Annotated[str, Field(max_length=128)] | None = None
    """Digest of tools, source and state alone, which several Environments may share."""
    conditions: Conditions = Field(default_factory=list)
    """Conditions of the Environment: Verified tells the verdict, and Ready that it is verified and its own pods serve,
    if it has any."""
    checks: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=1024)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """Findings of the verification, by the name of the check that made them."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """Host and port, as HOST:PORT, at which the Environment's own pods serve."""
    replicas: Integer = 0
    """Number of the Environment's own pods that are ready."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector that finds the Environment's own pods, for an autoscaler."""


class Environment(Resource):
    """An Environment is a custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["Environment"] = "Environment"
    metadata: ObjectMeta
    spec: EnvironmentSpec
    """Specification of the Environment: its question, its steps, and its tools. It is verified anew when it changes."""
    status: EnvironmentStatus | None = None
    """Status that the operator found the Environment in; users do not write it."""
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
