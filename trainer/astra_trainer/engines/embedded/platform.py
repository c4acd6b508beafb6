"""The CPU as a platform of verl, and the one-process group that its engine wants.

verl 0.9 ships platforms for accelerators only. `activate()` picks verl's own when a CUDA device is there, and this one
otherwise; call it before any other module of verl is imported. The entry point `verl.plugins` may name `register`, so
that verl's own programs find the platform too (`VERL_PLATFORM=cpu`).
"""

import contextlib
import logging
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed
from torch._C._distributed_c10d import HashStore
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.plugin.platform import platform_manager as _manager

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


class CpuPlatform(PlatformBase):
    """A CPU with gloo, as one device called `cpu`."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule("astra_cpu_device")

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return not torch.cuda.is_available()

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
        return "CPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_cpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None: ...


def register() -> None:
    """Makes the platform `cpu` known to verl."""
    if PlatformRegistry.get("cpu") is None:
        PlatformRegistry.register(platform="cpu")(CpuPlatform)


def activate() -> str:
    """Readies verl for one process on this machine; returns the device name, `cuda` or `cpu`. Idempotent."""
    register()
    if not torch.cuda.is_available() and not isinstance(_manager._current_platform, CpuPlatform):
        _manager.set_platform(CpuPlatform())
    _join_group_of_one()
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # a notice to torch's own callers
    _adapt_engine()
    return str(_manager.get_platform().device_name)


def _join_group_of_one() -> None:
    """A process group of this process alone, over an in-process store: no port, so that runs cannot collide."""
    if torch.distributed.is_initialized():
        return
    # verl's Worker reads its place in the world from the environment.
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in place.items():
        os.environ.setdefault(name, value)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _adapt_engine() -> None:
    with warnings.catch_warnings():  # about each engine that is not installed, and about what verl itself imports
        warnings.simplefilter("ignore")
        import verl.workers.engine_workers  # noqa: F401
        from verl.workers.engine import EngineRegistry
        from verl.workers.engine.fsdp import transformer_impl

    if "cpu" not in EngineRegistry._engines["language_model"]["fsdp2"]:
        EngineRegistry.register("language_model", "fsdp2", "cpu")(transformer_impl.FSDPEngineWithLMHead)
        setattr(transformer_impl, "logprobs_from_logits", logprobs_from_logits)  # noqa: B010  # re-exported there


def logprobs_from_logits(logits: torch.Tensor, labels: torch.Tensor, inplace_backward: bool = True) -> torch.Tensor:
    """Log-probability of each label: (n, vocabulary), (n,) -> (n,). What verl's function of this name gives.

    verl's CPU path loops over the rows in Python, one row a token: most of the step time of a small model.
    """
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)
