"""The resources of a sandbox pod follow from how many sessions it holds."""

from hypothesis import given
from hypothesis import strategies as st

from astra_api.pod_costs import COSTS, containment_of, pod_memory, pod_resources
from astra_api.resource import quantity

containments = st.sampled_from(sorted(COSTS))


def test_what_a_runtime_class_promises() -> None:
    assert [containment_of(name) for name in ("gvisor", "my-gvisor", "runc", "", None)] == [
        *["gvisor"] * 2,
        *["process"] * 3,
    ]


@given(containments, st.integers(1, 4096))
def test_a_pod_may_take_more_than_its_sessions_hold(containment: str, sessions: int) -> None:
    found = pod_resources(containment, sessions)
    asked, most = (quantity(found[kind]["memory"]) for kind in ("requests", "limits"))
    assert asked == pod_memory(containment, sessions)
    assert asked < 0.6 * most  # a full pod keeps its toolsets
    assert 0.9 * most > asked + (256 << 20)  # and one of its sessions may take all that is allowed
    assert quantity(found["requests"]["cpu"]) >= 0.1


@given(containments, st.integers(1, 4095))
def test_more_sessions_never_take_less(containment: str, sessions: int) -> None:
    assert pod_memory(containment, sessions) <= pod_memory(containment, sessions + 1)
    assert COSTS["gvisor"].sessions_per_gib < COSTS["process"].sessions_per_gib
