"""Turns by a rollout server."""

from types import SimpleNamespace
from typing import Any

import pytest

from astra_trainer.engines.verl.generation import EngineDied, ServerGenerator

STOP = frozenset({7})


class Server:
    """Answers as verl's client does."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        self.asked.append((request_id, prompt_ids, sampling_params))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(tokens: list[int], logprobs: list[float] | None = None, version: int | None = None) -> Any:
    extra = {} if version is None else {"min_global_steps": version, "max_global_steps": version}
    found = [-0.5] * len(tokens) if logprobs is None else logprobs
    return SimpleNamespace(token_ids=tokens, log_probs=found, stop_reason="completed", extra_fields=extra)


async def turn(generator: ServerGenerator, context: list[int]) -> Any:
    return await generator.generate(context, max_tokens=9, temperature=0.8, seed=2**64 + 5)


async def test_a_turn_is_asked_for_and_read_token_by_token() -> None:
    server = Server(answer([3, 7], [-1.0, -0.25], version=4), answer([3, 3], version=5))
    generator = ServerGenerator(server, STOP, room=100)
    first, second = await turn(generator, [1, 2]), await turn(generator, [1, 2, 3, 7, 9])
    assert (first.tokens, first.logprobs, first.ended) == ([3, 7], [-1.0, -0.25], True)
    assert not second.ended, "no stop token"
    ids, prompts, settings = zip(*server.asked, strict=True)
    assert len(set(ids)) == 1, "the turns of a rollout go to one server"
    assert prompts == ([1, 2], [1, 2, 3, 7, 9])
    assert settings[0]["temperature"] == 0.8
    assert settings[0]["max_tokens"] == 9
    assert settings[0]["stop_token_ids"] == [7]
    assert 0 <= settings[0]["seed"] < 2**63
    assert generator.versions == (4, 5)
    assert len(generator.timeline.generating) == 2


async def test_a_full_context_ends_the_rollout_unasked() -> None:
    server = Server()
    found = await turn(ServerGenerator(server, STOP, room=2), [1, 2])
    assert (found.tokens, found.ended) == ([], False)
    assert not server.asked


@pytest.mark.parametrize(
    "bad",
    [
        ConnectionError("worker\ndied"),
        answer([]),
        answer([3, 7], [-1.0]),
        answer([3]).__class__(**vars(answer([3])) | {"log_probs": None}),
    ],
)
async def test_what_an_engine_may_not_give_is_no_rollout(bad: Any) -> None:
    with pytest.raises(EngineDied):
        await turn(ServerGenerator(Server(bad), STOP, room=100), [1])
