"""Quantities as an API server stores them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from astra_api.resource import Quantity
from astra_operator.manifests.quantities import canonical_quantity, canonical_resources, is_quantity

# What a kube-apiserver answered to each, as the sizeLimit of an emptyDir.
STORED = {
    "1024Mi": "1Gi", "1Gi": "1Gi", "1024Gi": "1Ti", "1536Mi": "1536Mi", "0.5Gi": "512Mi", "1.5Gi": "1536Mi",
    "0.5": "500m", "500m": "500m", "1000m": "1", "1": "1", "2.0": "2", "1.5": "1500m", "0.1": "100m", "100u": "100u",
    "0.0001": "100u", "1n": "1n", "0.5n": "1n", "1024": "1024", "1000": "1k", "1000000": "1M", "1048576": "1048576",
    "1024k": "1024k", "1000k": "1M", "1000Ki": "1000Ki", "1000M": "1G", "1024M": "1024M", "512Mi": "512Mi", "0Mi": "0",
    "0": "0", "0.0": "0", "1023Ki": "1023Ki", "1024Ki": "1Mi", "3072Mi": "3Gi", "0.001Ki": "1024m", "1.5Ki": "1536",
    "0.7Ki": "716800m", "1e3": "1e3", "1e-3": "1e-3", "15e2": "1500", "1e4": "10e3", "1.5e3": "1500", "12E": "12E",
    "1024Ti": "1Pi", "1024Pi": "1Ei", "1000T": "1P", "1000G": "1T", "285212672": "285212672", "65536Mi": "64Gi",
    ".5": "500m", "1100m": "1100m", "2000m": "2", "123456789": "123456789", "1500M": "1500M", "1000000k": "1G",
    "999m": "999m", "1000u": "1m", "1000000n": "1m", "0.5Mi": "512Ki", "0.0005Ki": "512m",
}  # fmt: skip
suffixes = st.sampled_from(
    ["", "e12", "E-12", "e30", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "e3", "e-3", "E2"]
)
written = st.builds(
    lambda whole, part, suffix: f"{whole}{f'.{part}' if part else ''}{suffix}",
    st.integers(0, 10**6),
    st.sampled_from(["", "0", "5", "25", "125", "001"]),
    suffixes,
)


@pytest.mark.parametrize("text", STORED)
def test_as_the_server_stores_it(text: str) -> None:
    assert canonical_quantity(text) == STORED[text]


@given(written)
def test_the_number_stays_and_the_form_is_final(text: str) -> None:
    made = canonical_quantity(text)
    assert canonical_quantity(made) == made
    exact, kept = (Fraction(parse_quantity(each)) for each in (text, made))
    assert exact <= kept < exact + Fraction(1, 10**9), "nothing smaller than a billionth is kept"


@given(st.from_regex(Quantity.__metadata__[0].json_schema_extra["pattern"], fullmatch=True))
def test_whatever_a_manifest_may_say_has_a_form(text: str) -> None:
    canonical_quantity(text)


@pytest.mark.parametrize("text", ["", "Mi", "1 Gi", "1gi", "1KiB", "1e", "--1", "1,5", "0x10", "٣", "1Gi\n"])
def test_what_is_none_is_refused(text: str) -> None:
    assert not is_quantity(text)
    with pytest.raises(ValueError, match="is not a quantity"):
        canonical_quantity(text)


def test_resources() -> None:
    given = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"nvidia.com/gpu": "8"}}
    made = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": "8"}}
    assert canonical_resources(given) == made
