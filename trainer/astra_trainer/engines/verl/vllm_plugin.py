"""What vLLM loads of astra-farm: the entry point `vllm.general_plugins`, called in each of its processes."""

import os


def register() -> None:
    """On a CPU, keeps weights where verl can load new ones into them.

    vLLM's CPU kernels repack a linear layer's weights when the model is loaded, and drop the parameters: the next
    update of the weights would find none.
    """
    if os.environ.get("VERL_PLATFORM") != "cpu" or "ASTRA_VERL_JOB" not in os.environ:
        return
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer: torch.nn.Module, remove_weight: bool = False) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    utils.dispatch_cpu_unquantized_gemm = plain
