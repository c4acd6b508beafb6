"""One request to an OpenAI-compatible endpoint, and its answer or a typed error. Retries are the openai client's."""

import asyncio
from collections.abc import Mapping
from typing import Any

import openai
from pydantic import ValidationError

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.records import Record
from astra_api.synthesis_run import Teacher as TeacherSpec
from astra_synth.teacher.errors import (
    BadRequest,
    CallFailed,
    ConnectionLost,
    CutShort,
    RateLimited,
    ServerFailed,
    TeacherUnavailable,
    TimedOut,
)

_LONGEST_WAIT = 120.0  # that the openai client heeds of a Retry-After
_OPTIONAL = ("response_format", "seed", "temperature")  # what an endpoint may not know; taken out when it says so


class Answer(Record):
    """What an endpoint said: the text, why it ended, and what it cost."""

    text: str
    finish: str  # stop | length | content_filter | ...
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """One model of one endpoint."""

    def __init__(self, spec: TeacherSpec, key: str | None) -> None:
        self.spec = spec
        self._client = openai.AsyncOpenAI(
            base_url=spec.base_url,
            api_key=key or "none",
            organization="",
            project="",
            max_retries=spec.retries,
            timeout=spec.timeout_seconds,
        )
        self._without: set[str] = set()
        self._length = "max_tokens"

    async def send(self, request: Mapping[str, Any], key: str) -> Answer:
        """The answer to a request {messages, schema, seed}. Raises CallFailed and TeacherUnavailable.

        `key` names the request: endpoints that know Idempotency-Key charge a repetition once.
        """
        while True:
            body = self._body(request)
            try:
                async with asyncio.timeout((self.spec.timeout_seconds + _LONGEST_WAIT) * (self.spec.retries + 1)):
                    headers = {"Idempotency-Key": key}
                    # not chat.completions.create: that walks through the whole body by its types, schema and all
                    text = await self._client.post(
                        "/chat/completions", cast_to=str, body=body, options={"headers": headers}
                    )
                return _answer(text)
            except openai.BadRequestError as error:
                self._adapt(error, body)
            except openai.UnprocessableEntityError as error:
                self._adapt(error, body)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise TeacherUnavailable(f"{self._name}: {_said(error)}") from None
            except openai.APITimeoutError:
                seconds = self.spec.timeout_seconds
                raise TimedOut(f"{self._name}: no answer within {seconds:g} s, {self._tries}") from None
            except TimeoutError:
                raise TimedOut(f"{self._name}: no answer, {self._tries}") from None
            except openai.APIConnectionError as error:
                raise self._connection(error) from None
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise TeacherUnavailable(f"{self._name}: {_said(error)}") from None
                raise RateLimited(f"{self._name}: {_said(error)}, {self._tries}") from None
            except openai.APIStatusError as error:
                failure = ServerFailed if error.status_code >= 500 else BadRequest
                raise failure(f"{self._name}: {_said(error)}, {self._tries}") from None

    async def close(self) -> None:
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self.spec.base_url} ({self.spec.model})"

    @property
    def _tries(self) -> str:
        return f"tried {self.spec.retries + 1} times" if self.spec.retries else "tried once"

    def _body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        form = {"name": "answer", "schema": request["schema"], "strict": False}
        body = {
            "model": self.spec.model,
            "messages": request["messages"],
            "temperature": request["temperature"],
            "seed": request["seed"],
            self._length: request["max_tokens"],
            "response_format": {"type": "json_schema", "json_schema": form},
        }
        return {name: value for name, value in body.items() if name not in self._without}

    def _adapt(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> None:
        """Learns what the endpoint does not take, or raises BadRequest. The prompt alone must then do."""
        said = _said(error)
        named = [name for name in _OPTIONAL if name in body and name in said]
        if "max_completion_tokens" in said and self._length == "max_tokens":
            self._length = "max_completion_tokens"
        elif named:
            self._without.update(named)
        elif "response_format" in body and ("schema" in said or "grammar" in said):
            self._without.add("response_format")
        else:
            raise BadRequest(f"{self._name}: {said}") from None

    def _connection(self, error: openai.APIConnectionError) -> CallFailed | TeacherUnavailable:
        cause = error.__cause__
        said = f"{self._name}: {cause or error}"
        if type(cause).__name__ == "ConnectError":
            return TeacherUnavailable(f"{said}; is the endpoint up, and spec.teacher.baseUrl right?")
        return ConnectionLost(f"{said}, {self._tries}")


def _answer(text: str) -> Answer:
    """Reads a response body, whatever else it holds. Raises CutShort."""
    try:
        body = parse_json(text)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        return Answer(
            text=message.get("content") or "",
            finish=choice.get("finish_reason") or "stop",
            refusal=message.get("refusal") or None,
            prompt_tokens=usage.get("prompt_tokens") or 0,
            completion_tokens=usage.get("completion_tokens") or 0,
        )
    except (NotCanonicalError, KeyError, IndexError, TypeError, AttributeError, ValidationError):
        raise CutShort(f"the endpoint's response is no chat completion: {text[:200]!r}") from None


def _said(error: openai.APIStatusError) -> str:
    return error.message[:500]
