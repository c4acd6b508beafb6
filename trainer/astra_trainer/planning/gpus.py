"""What a GPU can do, by the vendor's data sheets, and what stands in for one on a CPU."""

from typing import Annotated

from pydantic import Field

from astra_api.errors import BadInput
from astra_api.records import Record


class Device(Record):
    """One GPU, or the cores of one trainer pod that has none."""

    name: str
    memory: Annotated[int, Field(gt=0)] | None
    """Bytes; of a CPU, None where nothing limits them."""
    flops: Annotated[float, Field(gt=0)]
    """A second, of dense matrix products: in bfloat16, on a CPU in float32."""
    bandwidth: Annotated[float, Field(gt=0)]
    """Bytes a second between memory and cores."""
    is_gpu: bool = True

    @property
    def value_bytes(self) -> int:
        """Of a value in matrix products and in a KV cache: bfloat16 on a GPU, float32 on a CPU."""
        return 2 if self.is_gpu else 4


# NVIDIA's data sheets: memory in units of 10^9 bytes (drivers show a little more), bfloat16 without sparsity, memory
# bandwidth. H100, H200, B200 and A100 in their SXM form.
GPUS = {
    name: Device(name=name, memory=memory * 10**9, flops=teraflops * 1e12, bandwidth=gigabytes * 1e9)
    for name, memory, teraflops, gigabytes in (
        ("a100-40gb", 40, 312, 1555),
        ("a100-80gb", 80, 312, 2039),
        ("h100-80gb", 80, 989, 3350),
        ("h200", 141, 989, 4800),
        ("b200", 180, 2250, 8000),
        ("l4", 24, 121, 300),
        ("l40s", 48, 362, 864),
    )
}
DEFAULT = "h100-80gb"
_CORE_FLOPS = 100e9  # float32 of a server core with wide vectors
_CPU_BANDWIDTH = 20e9  # of a pod's share of the memory channels


def gpu(name: str) -> Device:
    """The GPU of that name. Raises BadInput."""
    if name not in GPUS:
        raise BadInput(f"--gpu {name}: not in the table; one of {', '.join(GPUS)}")
    return GPUS[name]


def cpu(cores: float, memory: int | None) -> Device:
    """A trainer pod without a GPU."""
    name = f"{cores:g} CPU core{'' if cores == 1 else 's'}"
    return Device(name=name, memory=memory, flops=cores * _CORE_FLOPS, bandwidth=_CPU_BANDWIDTH, is_gpu=False)
