"""Demonstrations among other irrelevant tools: what every epoch of SFT after the first trains on.

A small model that sees the same prompts again learns them by heart; what the expert does in them depends neither on
the irrelevant tools nor on their order. So each epoch draws new ones, and executes nothing again.
"""

import random
from collections.abc import Sequence

from astra_api.environment import Environment
from astra_api.records import Trajectory
from astra_trainer.chat import ChatFormat
from astra_trainer.mixing import ToolMixer
from astra_trainer.seeds import derive_seed


class Remixer:
    """Gives a demonstration of one of `environments` another prompt; one from elsewhere stays as it is."""

    def __init__(
        self, environments: Sequence[Environment], mixer: ToolMixer, chat: ChatFormat, *, seed: int, max_length: int
    ) -> None:
        self._environments = {environment.digest: environment for environment in environments}
        self._mixer, self._chat, self._seed, self._max_length = mixer, chat, seed, max_length

    def remixed(self, trajectory: Trajectory, epoch: int) -> Trajectory:
        """A demonstration as epoch `epoch` (from 0) sees it: a function of (demonstration, epoch, seed).

        Tools that the expert called stay. What would be longer than `max_length` tokens stays as it is.
        """
        environment = self._environments.get(trajectory.digest)
        if environment is None or epoch == 0:
            return trajectory
        number = trajectory.group
        first, other = (
            self._mixer.episode(environment, seed=self._seed, index=number, step=step) for step in (0, -epoch)
        )
        called = {call.tool for call in trajectory.calls}
        tools = list(
            {tool.name: tool for tool in [*other.tools, *(t for t in first.tools if t.name in called)]}.values()
        )
        random.Random(derive_seed(self._seed, "remixing", number, epoch)).shuffle(tools)
        prompt = self._chat.prompt(other.messages, tools)
        rest = len(self._chat.prompt(first.messages, first.tools))
        if len(prompt) + len(trajectory.tokens) - rest > self._max_length:
            return trajectory
        return trajectory.model_copy(
            update={
                "tools": tuple(tool.name for tool in tools),
                "tokens": (*prompt, *trajectory.tokens[rest:]),
                "mask": (*(0 for _ in prompt), *trajectory.mask[rest:]),
            }
        )
