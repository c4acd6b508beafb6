"""What all three custom resources share: metadata, conditions, strict scalars, selectors, quantities."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from astra_api.canonical import canonical_json

GROUP = "astra.farm"
API_VERSION: Literal["astra.farm/v1alpha1"] = "astra.farm/v1alpha1"


class Nullable:
    """Marks a field in which null is a value like any other, as `nullable` does in a CustomResourceDefinition."""


class Resource(BaseModel):
    """Base of everything in a manifest: camelCase, frozen, closed, and as strict about types as the API server. A field
    that is null is absent, as it is there, unless null is one of its values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        return _without_nulls(value, cls)


def _without_nulls(value: Any, *models: type[Resource]) -> Any:
    """An object without those of the models' fields that are null."""
    if not isinstance(value, dict) or None not in value.values():
        return value
    dropped = {
        key
        for model in models
        for name, field in model.model_fields.items()
        if not any(isinstance(mark, Nullable) for mark in field.metadata)
        for key in (name, field.alias)
    }
    return {key: inner for key, inner in value.items() if inner is not None or key not in dropped}


def variants(*models: type[Resource]) -> BeforeValidator:
    """Belongs to a union of models: to the API server it is one object with the fields of all, so that a field of any
    of them that is null is absent."""
    return BeforeValidator(lambda value: _without_nulls(value, *models))


def _integral(value: Any) -> Any:
    """JSON has one number type: 5.0 and 5e0 are the integer 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[Integer, Field(ge=1, le=2147483647)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]  # a path, a URL, the name of a model

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# A number and its suffix as Kubernetes has them; a number that is positive has a digit other than 0.
_NUMBER, _POSITIVE_NUMBER = (
    r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+",
    r"0*[1-9][0-9]*(?:\.[0-9]*)?|[0-9]*\.[0-9]*[1-9][0-9]*",
)
_SUFFIX = r"[KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,2}"
_QUANTITY = re.compile(rf"\+?({_NUMBER})({_SUFFIX})?")
_SCALE = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}  # powers of ten
_BINARY_SCALE = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}  # powers of two


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
    return float(_exact(text))


def _exact(text: str) -> Decimal:
    """The same, exact. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity of at least 0 such as 256Mi, 2Gi or 500m")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY_SCALE:
        return number * (1 << _BINARY_SCALE[suffix])
    return number.scaleb(_SCALE[suffix] if suffix in _SCALE else int(suffix[1:]))


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


def _check_positive(value: Any) -> Any:
    value = _check_quantity(value)
    if isinstance(value, str) and not quantity(value):
        raise ValueError(f"{value} must be more than 0")
    return value


def _quantity_field(number: str, minimum: int) -> Any:
    pattern = rf"^\+?({number})({_SUFFIX})?$"
    extra: JsonDict = {"x-kubernetes-int-or-string": True, "pattern": pattern, "minimum": minimum}
    return Field(max_length=64, json_schema_extra=extra)


Quantity = Annotated[str, _quantity_field(_NUMBER, 0), BeforeValidator(_check_quantity)]
PositiveQuantity = Annotated[str, _quantity_field(_POSITIVE_NUMBER, 1), BeforeValidator(_check_positive)]
Resources = Annotated[dict[Annotated[str, Field(max_length=317)], Quantity], Field(max_length=16)]


def _check_canonical(value: Any) -> Any:
    canonical_json(value)
    return value


Json = Annotated[Any, AfterValidator(_check_canonical), Nullable()]  # any value with canonical JSON


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
    """A condition tells one aspect of the state of the object, as in all Kubernetes APIs."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Name of the aspect that the condition tells of, such as Ready."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition: True while it holds, False while it does not, Unknown while nobody can tell."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Reason for the status in one CamelCase word, which programs may rely on."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Message that explains the status to a person."""
    observed_generation: Integer | None = None
    """Generation of the object's metadata that the condition was set for; an older one means that it is out of date."""
    last_transition_time: Annotated[str, Field(max_length=64)] | None = None
    """Time at which the status last changed (RFC 3339)."""


Conditions = Annotated[list[Condition], Field(max_length=16)]


class ResourceRequirements(TypedDict, total=False):
    """Compute resources that a container asks for, and those that it may not exceed."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    limits: Resources
    """Largest amount of each resource that the container may use, by its name: cpu, memory or nvidia.com/gpu."""
    requests: Resources
    """Amount of each resource that is set aside for the container, by its name. Kubernetes takes the limits where a
    request is not given."""


def _without_null_fields(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, dict) else value


def _check_requests(resources: ResourceRequirements) -> ResourceRequirements:
    limits = resources.get("limits", {})
    for name, request in resources.get("requests", {}).items():
        if name in limits and _exact(request) > _exact(limits[name]):
            raise ValueError(f"requests.{name}: {request} must not be more than limits.{name}, {limits[name]}")
    return resources


BoundedResources = Annotated[
    ResourceRequirements, BeforeValidator(_without_null_fields), AfterValidator(_check_requests)
]


class Selector(Resource):
    """A selector picks the Environments that carry all of its labels; an empty one picks all."""

    match_labels: Labels = Field(default_factory=dict)
    """Labels that an Environment must carry, each with this value."""

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items())
