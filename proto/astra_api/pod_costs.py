"""What a sandbox pod costs, by containment: the resources that pods ask for, and what `astra plan` expects of one.

Measured by `bench/sandbox.py`, which prints the same figures for another machine; docs/sandbox.md, "Measured". Memory
under gVisor is that of its systrap platform, which a cluster's newer versions use; ptrace takes a quarter less.
"""

import math
from typing import Final, Literal, NamedTuple

from astra_api.resource import ResourceRequirements

_MIB = 1 << 20
Containment = Literal["process", "namespaces", "gvisor"]


class PodCost(NamedTuple):
    """Memory in MiB, where tools keep nothing; calls that a core answers in a second, where they compute nothing."""

    base: float
    """A server without sessions."""
    toolset: float
    """Each loaded toolset."""
    session: float
    """Each session."""
    calls: int
    """Also what a pod answers: its server is one event loop."""

    @property
    def sessions_per_gib(self) -> int:
        """Beyond the server itself, in groups that share a toolset."""
        return int(1024 / (self.session + self.toolset / GROUP))


GROUP: Final = 8  # sessions of one toolset, as rollouts open them
COSTS: Final[dict[str, PodCost]] = {
    "process": PodCost(base=55, toolset=1.9, session=0.9, calls=20_000),
    "namespaces": PodCost(base=57, toolset=3.0, session=0.9, calls=20_000),
    "gvisor": PodCost(base=231, toolset=18.0, session=10.5, calls=3_800),
}
_CORES = 2  # a server and its sessions
_CALLS_PER_SESSION = 0.5  # a second, between which a model generates
_SHED = 0.6  # of the memory: above it a server ends what it only keeps warm
HUNGRY: Final = 2 << 28  # bytes: two sessions that take all that they may (256 MiB)
_STEP = 64 * _MIB


def containment_of(runtime_class: str | None) -> Containment:
    """What a pod of a RuntimeClass is expected to have; it says what it has once it runs."""
    return "gvisor" if runtime_class and "gvisor" in runtime_class else "process"


def pod_memory(containment: str, sessions: int) -> int:
    """Bytes that a pod with so many sessions holds, rounded up to 64 MiB."""
    cost = COSTS[containment]
    held = cost.base + math.ceil(sessions / GROUP) * cost.toolset + sessions * cost.session
    return _rounded(held * _MIB)


def pod_resources(containment: str, sessions: int) -> ResourceRequirements:
    """Of a pod for so many sessions: it asks for what they hold, and may take what two hungry ones want besides.

    The limit is so high that toolsets are kept warm: a server lets go of them above six tenths of its memory.
    """
    held = pod_memory(containment, sessions)
    cpu = max(0.1, sessions * _CALLS_PER_SESSION / COSTS[containment].calls)
    return {
        "requests": {"cpu": f"{math.ceil(cpu * 1000)}m", "memory": _quantity(held)},
        "limits": {"cpu": str(_CORES), "memory": _quantity(_rounded(held / _SHED + HUNGRY))},
    }


def _rounded(number: float) -> int:
    return math.ceil(number / _STEP) * _STEP


def _quantity(number: int) -> str:
    return f"{number // _MIB}Mi"
