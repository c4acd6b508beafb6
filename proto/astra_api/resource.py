"""What all three custom resources share: metadata, conditions, strict scalars, selectors, quantities."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from astra_api.canonical import canonical_json

GROUP = "astra.farm"
API_VERSION: Literal["astra.farm/v1alpha1"] = "astra.farm/v1alpha1"


class Resource(BaseModel):
    """Base of everything in a manifest: camelCase, frozen, closed, and as strict about types as the API server."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


def _integral(value: Any) -> Any:
    """JSON has one number type: 5.0 and 5e0 are the integer 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]  # a path, a URL, the name of a model

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T|m)?")
QUANTITY_PATTERN = f"^{_QUANTITY.pattern}$"
_SCALE = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not re.fullmatch(_NAME, prefix)):
            raise ValueError(
                f"label key {key!r} is not a Kubernetes label key ([prefix/]name, name of at most 63 letters)"
            )
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"label {key}: value {value!r} is not a Kubernetes label value (at most 63 of A-Za-z0-9-_.)"
            )
    return labels


Labels = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]],
    Field(max_length=64),
    AfterValidator(_check_labels),
]
Name = Annotated[str, Field(pattern=_NAME, max_length=253)]


def quantity(text: str) -> float:
    """The number a Kubernetes quantity stands for: `256Mi` -> 268435456.0, `500m` -> 0.5. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity such as 256Mi, 2Gi or 500m")
    return float(match[1]) * _SCALE[match[2] or ""]


def _check_quantity(value: Any) -> Any:
    """As the API server takes it: a string or a whole number."""
    value = _integral(value)
    if isinstance(value, float):
        raise ValueError(f"write the quantity {value:g} as a string, or in thousandths: {value * 1000:g}m")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        quantity(value)
    return value


Quantity = Annotated[
    str, Field(max_length=64, json_schema_extra={"x-kubernetes-int-or-string": True}), BeforeValidator(_check_quantity)
]


def _check_positive(value: Any) -> Any:
    value = _check_quantity(value)
    if isinstance(value, str) and quantity(value) <= 0:
        raise ValueError("must be more than 0")
    return value


PositiveQuantity = Annotated[
    str,
    Field(max_length=64, json_schema_extra={"x-kubernetes-int-or-string": True, "x-positive": True}),
    BeforeValidator(_check_positive),
]
Resources = Annotated[dict[Annotated[str, Field(max_length=317)], Quantity], Field(max_length=16)]


def _check_canonical(value: Any) -> Any:
    canonical_json(value)
    return value


Json = Annotated[Any, AfterValidator(_check_canonical)]  # any value with canonical JSON


class ObjectMeta(Resource):
    """The part of Kubernetes' ObjectMeta that a manifest may carry; what a server fills in is accepted and kept."""

    name: Name
    namespace: Name | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[dict[str, Any]] = Field(default_factory=list)
    uid: str | None = None
    resource_version: str | None = None
    generation: Integer | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: Integer | None = None
    managed_fields: list[dict[str, Any]] = Field(default_factory=list)
    generate_name: str | None = None
    self_link: str | None = None


class Condition(Resource):
    """A Kubernetes condition; a list of them is a map by `type`."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, as one word of a fixed set."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for a person."""
    observed_generation: Integer | None = None
    """The generation of the object that this was said of."""
    last_transition_time: Annotated[str, Field(max_length=64)] | None = None
    """When the status last changed (RFC 3339)."""


Conditions = Annotated[list[Condition], Field(max_length=16)]


class ResourceRequirements(TypedDict, total=False):
    """What a container asks for, and what it may not exceed."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    limits: Resources
    """At most, by resource: cpu, memory, nvidia.com/gpu."""
    requests: Resources
    """Set aside for it, by resource; the limits unless given."""


class Selector(Resource):
    """Which Environments: those that carry all these labels. Empty selects all."""

    match_labels: Labels = Field(default_factory=dict)
    """Labels and the values they must have."""

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items())
