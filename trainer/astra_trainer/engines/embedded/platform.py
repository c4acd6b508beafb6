"""Readies verl's engine for one process on this machine: its device, and the one-process group that it wants."""

import logging
import os
import warnings

import torch
import torch.distributed
from torch._C._distributed_c10d import HashStore
from verl.plugin.platform import platform_manager as _manager

from astra_trainer.engines.cpu_platform import CpuPlatform, logprobs_from_logits, register


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
