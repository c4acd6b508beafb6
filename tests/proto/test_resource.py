"""Quantities as Kubernetes writes them, and requests that must stay within limits."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from astra_api.resource import BoundedResources, PositiveQuantity, Quantity, quantity

_QUANTITIES: TypeAdapter[str] = TypeAdapter(Quantity)
_POSITIVE: TypeAdapter[str] = TypeAdapter(PositiveQuantity)
_RESOURCES: TypeAdapter[Any] = TypeAdapter(BoundedResources)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("256Mi", 256 * 2**20),
        ("500m", 0.5),
        ("+2", 2),
        (".5", 0.5),
        ("5.", 5),
        ("1e3", 1000),
        ("1E-3", 0.001),
        ("1E", 1e18),
        ("100Ei", 100 * 2.0**60),
        ("3Pi", 3 * 2.0**50),
        ("2P", 2e15),
        ("7n", 7e-9),
        ("7u", 7e-6),
        (1024, 1024),
    ],
)
def test_what_kubernetes_accepts(text: Any, number: float) -> None:
    assert quantity(_QUANTITIES.validate_python(text)) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["-1", -1, "1 Gi", "1gi", "1mi", "Gi", "", "1e", "1e0.5", "0x10", "1,5", "²", "infinity"]
)
def test_what_is_no_quantity(text: Any) -> None:
    with pytest.raises(ValidationError, match="is not a quantity of at least 0 such as 256Mi"):
        _QUANTITIES.validate_python(text)


@pytest.mark.parametrize("text", ["0", 0, "0Gi", "0.00", "0e3"])
def test_nothing_is_not_positive(text: Any) -> None:
    assert quantity(_QUANTITIES.validate_python(text)) == 0
    with pytest.raises(ValidationError, match="must be more than 0"):
        _POSITIVE.validate_python(text)


@pytest.mark.parametrize(
    ("request_", "limit"), [("1024Mi", "1Gi"), ("2", "2000m"), (1, "1.5"), ("9007199254740992", "9007199254740993")]
)
def test_requests_within_limits(request_: Any, limit: Any) -> None:
    _RESOURCES.validate_python({"requests": {"cpu": request_, "memory": "1Gi"}, "limits": {"cpu": limit}})


@pytest.mark.parametrize(
    ("request_", "limit"), [("1025Mi", "1Gi"), ("2001m", 2), (1, "0"), ("9007199254740993", "9007199254740992")]
)
def test_requests_over_limits_are_named(request_: Any, limit: Any) -> None:
    message = rf"requests\.cpu: {request_} must not be more than limits\.cpu, {limit}"
    with pytest.raises(ValidationError, match=message):
        _RESOURCES.validate_python({"requests": {"cpu": request_}, "limits": {"cpu": limit}})
