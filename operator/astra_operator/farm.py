"""What holds for everything that one operator makes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from astra_operator.settings import OperatorSettings


@dataclass(frozen=True)
class Farm:
    """Settings, and what was found in the cluster."""

    settings: OperatorSettings
    policy_version: str = "policy/v1"  # of PodDisruptionBudgets
    pod_failure_policy: bool = False  # whether Jobs may have one


def knows_pod_failure_policy(version: Mapping[str, str]) -> bool:
    """Whether a server's Jobs may say which failures count, by what it answers to `/version`.

    Kubernetes 1.26 and newer know it unless told otherwise; what cannot be read is taken for an old server.
    """
    numbers = [re.match(r"[0-9]+", str(version.get(part, ""))) for part in ("major", "minor")]
    found = [int(number[0]) for number in numbers if number]
    return len(found) == 2 and found >= [1, 26]
