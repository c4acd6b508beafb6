"""What a TrainingRun needs and costs, before anything of it runs: pure functions, without torch. docs/planning.md."""

from astra_trainer.planning.assumptions import Assumptions, assume
from astra_trainer.planning.gpus import DEFAULT, GPUS, Device, cpu, gpu
from astra_trainer.planning.plan import Plan, make_plan
from astra_trainer.planning.shapes import KNOWN, ModelShape, shape_of

__all__ = [
    "DEFAULT",
    "GPUS",
    "KNOWN",
    "Assumptions",
    "Device",
    "ModelShape",
    "Plan",
    "assume",
    "cpu",
    "gpu",
    "make_plan",
    "shape_of",
]
