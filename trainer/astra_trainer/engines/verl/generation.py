"""verl's rollout servers as a Generator."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import uuid4

from astra_trainer.engines.verl.timeline import Timeline
from astra_trainer.generation import Generation


class EngineDied(RuntimeError):
    """The rollout engine is gone, or gives what no engine may give: no rollout of this run can go on."""


class Server(Protocol):
    """What is needed of `verl.workers.rollout.llm_server.LLMServerClient`."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any: ...


class ServerGenerator:
    """Generates one rollout's turns. Its turns go to the same server, whose prefix cache then holds the turns before.

    `room` is the most tokens that a server holds of one sequence. `versions` are the least and the greatest version of
    the weights that were used, where the server knows them. Raises EngineDied.
    """

    def __init__(self, server: Server, stop_ids: frozenset[int], room: int) -> None:
        self._server = server
        self._stop_ids = stop_ids
        self._room = room
        self._rollout = uuid4().hex
        self.timeline = Timeline()
        self.versions: tuple[int, int] | None = None

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        if len(context) >= self._room:
            return Generation([], [], False)
        asked = {
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": -1,
            "max_tokens": max_tokens,
            "seed": seed % 2**63,
            "stop_token_ids": sorted(self._stop_ids),
            "logprobs": True,
        }
        try:
            with self.timeline.noted(self.timeline.generating):
                output = await self._server.generate(self._rollout, prompt_ids=list(context), sampling_params=asked)
        except Exception as error:  # whatever a remote engine raises, none of it is the rollout's doing
            raise EngineDied(f"{type(error).__name__}: {_last_line(error)}") from error
        tokens = [int(token) for token in output.token_ids]
        if not tokens or output.log_probs is None or len(output.log_probs) != len(tokens):
            raise EngineDied(f"the engine gave {len(tokens)} tokens, {output.stop_reason or 'without a reason'}")
        self._note_versions(output.extra_fields)
        return Generation(tokens, [float(value) for value in output.log_probs], tokens[-1] in self._stop_ids)

    def _note_versions(self, extra: dict[str, Any]) -> None:
        least, greatest = extra.get("min_global_steps"), extra.get("max_global_steps")
        if least is None or greatest is None:
            return
        before = self.versions or (least, greatest)
        self.versions = (min(before[0], least), max(before[1], greatest))


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")
