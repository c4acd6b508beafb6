"""What verl loads of astra-farm: the entry point `verl.plugins`. It is imported at the end of `import verl`, anywhere.

It makes the platform `cpu` known. In a process of a stage (`job.JOB` is set) it also registers the agent loop, and on
a CPU (`VERL_PLATFORM=cpu`) it mends what verl assumes of an accelerator.
"""

import os
from typing import Any

import torch.distributed

from astra_trainer.engines import cpu_platform

cpu_platform.register()


def _adapt_to_cpu() -> None:
    from verl.utils import torch_functional

    torch_functional.logprobs_from_logits = cpu_platform.logprobs_from_logits
    begin = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *arguments: Any, **settings: Any) -> None:
        # verl names a backend for the CPU and one for its device: here they are one device
        begin("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *arguments, **settings)

    torch.distributed.init_process_group = init_process_group


if os.environ.get("VERL_PLATFORM") == "cpu":
    _adapt_to_cpu()
if "ASTRA_VERL_JOB" in os.environ:
    import astra_trainer.engines.verl.agent_loop
    import astra_trainer.engines.verl.policy_loss  # noqa: F401
