"""The CPU as a platform of verl, which ships platforms for accelerators only.

Light, and free of everything of verl but its registry of platforms: it is loaded while verl itself is imported.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

_MEMORY = 1 << 34  # bytes; what `mem_get_info` answers where there is no device memory to ask about


class _CpuModule(types.ModuleType):
    """What verl expects of `torch.cuda`, answered for a CPU: memory is not tracked, random state is torch's own."""

    OutOfMemoryError = MemoryError
    get_rng_state = staticmethod(torch.get_rng_state)
    set_rng_state = staticmethod(torch.set_rng_state)

    def __getattr__(self, name: str) -> Any:
        if hasattr(torch.cpu, name):
            return getattr(torch.cpu, name)
        answer = _ANSWERS.get(name)
        if answer is None:
            raise AttributeError(f"the cpu platform has no {name}")
        return answer


def _nothing(*_: object, **__: object) -> None:
    return None


_ANSWERS: dict[str, Callable[..., object]] = {
    "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
    "get_device_name": lambda *_: "CPU",
    "is_bf16_supported": lambda *_: True,
    **dict.fromkeys(
        ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), lambda *_: 0
    ),
    **dict.fromkeys(
        ("empty_cache", "reset_peak_memory_stats", "ipc_collect", "set_device", "manual_seed", "manual_seed_all"),
        _nothing,
    ),
}


class CpuPlatform(PlatformBase):  # type: ignore[misc]
    """A CPU with gloo, as one device called `cpu`."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule("astra_cpu_device")

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never taken unasked: a process without a GPU may belong to a run that has many."""
        return False

    def current_device(self) -> Any:
        return torch.device("cpu")  # verl hands this to `.to(...)`, where an index would mean an accelerator

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"  # Ray is told of one that is not there: verl places its workers by it

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None: ...


def register() -> None:
    """Makes the platform `cpu` known to verl."""
    if PlatformRegistry.get("cpu") is None:
        PlatformRegistry.register(platform="cpu")(CpuPlatform)


def logprobs_from_logits(logits: torch.Tensor, labels: torch.Tensor, inplace_backward: bool = True) -> torch.Tensor:
    """Log-probability of each label: (n, vocabulary), (n,) -> (n,). What verl's function of this name gives.

    verl's CPU path loops over the rows in Python, one row a token: most of the step time of a small model.
    """
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)
