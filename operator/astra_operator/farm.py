"""What holds for everything that one operator makes."""

from dataclasses import dataclass

from astra_operator.settings import OperatorSettings


@dataclass(frozen=True)
class Farm:
    """Settings, and what was found in the cluster."""

    settings: OperatorSettings
    policy_version: str = "policy/v1"  # of PodDisruptionBudgets
