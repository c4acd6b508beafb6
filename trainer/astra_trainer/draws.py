"""Which environment RL rolls out next: an endless stream in which every pass has its own order."""

import random
from collections.abc import Sequence

from astra_api.environment import Environment
from astra_trainer.seeds import derive_seed


def drawn(environments: Sequence[Environment], seed: int, number: int) -> Environment:
    """Draw `number` (from 0) of the stream: a function of its arguments."""
    times, place = divmod(number, len(environments))
    order = random.Random(derive_seed(seed, "rl", times)).sample(range(len(environments)), len(environments))
    return environments[order[place]]
