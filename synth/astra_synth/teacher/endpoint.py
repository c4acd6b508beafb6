"""One request to an OpenAI-compatible endpoint, and its answer or a typed error; what may pass is tried again."""

import asyncio
import email.utils
import itertools
import json
import logging
import math
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx2

from astra_api.records import Record
from astra_api.synthesis_run import Teacher as TeacherSpec
from astra_synth.teacher.completion import Completion, Failure, read
from astra_synth.teacher.errors import (
    BadRequest,
    ConnectionLost,
    Misconfigured,
    NothingTaken,
    RateLimited,
    Refused,
    ServerFailed,
    TeacherError,
    TeacherUnavailable,
    TimedOut,
)
from astra_synth.teacher.keys import Censor, secrets_of_url, shown_url
from astra_synth.teacher.surroundings import certificates_of, proxy_of

_FIRST_WAIT, _LAST_WAIT = 0.5, 8.0  # seconds before a repetition, doubled each time
_LONGEST_WAIT = 120.0  # seconds of a Retry-After that are waited; one that asks for more is not tried again
_PASSING = {408, 409, 425, 429}  # besides 500 and more, and what is no answer for chats
_UNUSABLE = {401, 402, 403, 404, 405, 407, 410}  # statuses that every request would get
_REDIRECTS = 5
_OPTIONAL = ("response_format", "seed", "temperature")  # what an endpoint may not know; taken out when it says so
_STRUCTURED = re.compile(r"response_format|schema|grammar|structured.?output|guided", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"un(?:known|supported|recogni[sz]ed|expected)|not (?:supported|permitted|allowed)|extra|instead", re.I
)

for _name in ("httpx2", "httpcore2"):  # they tell of every request with its URL, which may hold a key
    logging.getLogger(_name).setLevel(logging.WARNING)


class Answer(Record):
    """What an endpoint said: the text, why it ended, and what it cost."""

    text: str
    finish: str  # stop | length | content_filter | ...
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def most_tokens(request: Mapping[str, Any]) -> tuple[int, int]:
    """What a request can use at most: of its prompt, for a token has at least a byte, and of an answer to it."""
    return len(json.dumps(request)), request["max_tokens"]


@dataclass(frozen=True)
class Trouble:
    """A request that brought no answer, what that means, and whether it may pass."""

    kind: type[TeacherError]
    said: str
    hint: str = ""
    passing: bool = False
    wait: float | None = None  # seconds that the endpoint asks for
    status: int = 0
    words: str = ""


class Endpoint:
    """One model of one endpoint. `field` is where a run names it."""

    def __init__(
        self,
        spec: TeacherSpec,
        key: str | None,
        field: str = "spec.teacher",
        environ: Mapping[str, str] = os.environ,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises Misconfigured for an address, a proxy or certificates that cannot be used."""
        self.spec, self._field, self._sleep = spec, field, sleep
        address = _address(spec.base_url, field)
        self._url = address.copy_with(path=f"{address.path.rstrip('/')}/chat/completions")
        proxy = proxy_of(address, environ)
        secrets = [key or "", *secrets_of_url(address), *(secrets_of_url(proxy.url) if proxy else ())]
        self._hide = Censor(secrets)
        self._name = f"{shown_url(address)} ({spec.model}{f', by the proxy of {proxy.variable}' if proxy else ''})"
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(
                verify=certificates_of(address, environ),
                proxy=httpx2.Proxy(proxy.url) if proxy else None,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=spec.concurrency),
            ),
            headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=None,  # that is of a whole call
        )
        self._without: set[str] = set()
        self._length = "max_tokens"
        self._answered = False  # once: then it is an endpoint for chats, and the request may be to blame

    async def send(self, request: Mapping[str, Any], key: str) -> Answer:
        """The answer to a request {messages, schema, seed, ...}. Raises CallFailed and TeacherUnavailable.

        `key` names the request: endpoints that know Idempotency-Key charge a repetition once.
        """
        while True:
            body = self._body(request)
            outcome = await self._ask(body, key)
            if isinstance(outcome, Completion):
                self._answered = True
                return _answer(outcome, request)
            if not self._adapted(outcome, body):
                raise outcome.kind(f"{self._name}: {outcome.said}{outcome.hint and '; '}{outcome.hint}")

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, body: Mapping[str, Any], key: str) -> Completion | Trouble:
        """The outcome of a request, repeated while it may pass."""
        for attempt in itertools.count(1):
            outcome = await self._once(body, key)
            if isinstance(outcome, Completion) or not outcome.passing:
                return outcome
            if attempt > self.spec.retries:
                tries = f"tried {attempt} times" if attempt > 1 else "tried once"
                return replace(outcome, said=f"{outcome.said}, {tries}")
            wait = min(_FIRST_WAIT * 2 ** (attempt - 1), _LAST_WAIT) * random.uniform(0.75, 1.0)
            await self._sleep(wait if outcome.wait is None else outcome.wait)
        raise AssertionError("unreachable")

    async def _once(self, body: Mapping[str, Any], key: str) -> Completion | Trouble:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        request = self._client.build_request("POST", self._url, content=json.dumps(body), headers=headers)
        try:
            async with asyncio.timeout(self.spec.timeout_seconds):
                response = await self._client.send(request)
                for _ in range(_REDIRECTS):
                    if response.status_code not in (307, 308) or response.next_request is None:
                        break
                    response = await self._client.send(response.next_request)
        except TimeoutError:
            return Trouble(TimedOut, f"no answer within {self.spec.timeout_seconds:g} s", passing=True)
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            said = self._hide.strictly(str(error)) or type(error).__name__
            return Trouble(TeacherUnavailable, said, self._reachable(said), passing=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, anyio.EndOfStream) as error:
            said = self._hide.strictly(str(error)) or type(error).__name__
            return Trouble(ConnectionLost, said, passing=True)
        if response.has_redirect_location:
            place = shown_url(response.next_request.url) if response.next_request is not None else "nowhere"
            said = f"HTTP {response.status_code} - a redirect to {self._hide.strictly(place)}"
            return Trouble(TeacherUnavailable, said, self._right)
        outcome = read(response.status_code, response.content, response.charset_encoding, self._hide)
        return outcome if isinstance(outcome, Completion) else self._trouble(outcome, _wait(response.headers))

    def _trouble(self, failure: Failure, wait: float | None) -> Trouble:
        """What a failure means."""
        status, said, hint = failure.status, self._hide.strictly(failure.said), ""
        kind: type[TeacherError] = BadRequest if self._answered else NothingTaken
        passing = status in _PASSING or status >= 500 or failure.foreign
        if failure.declined:
            kind = Refused
        elif status in _UNUSABLE or (status == 429 and "insufficient_quota" in failure.words):
            kind, passing, hint = TeacherUnavailable, False, self._right if status in (404, 405) else ""
        elif failure.foreign and not self._answered:
            kind, hint = TeacherUnavailable, self._right
        elif passing:
            kind = RateLimited if status == 429 else ServerFailed
        if passing and wait is not None and wait > _LONGEST_WAIT:
            passing, hint = False, f"the endpoint asks to wait {wait:.0f} s"
        return Trouble(kind, said, hint, passing, wait, status, failure.words)

    @property
    def _right(self) -> str:
        wrong = self._url.path.endswith("/chat/completions/chat/completions")
        return f"is {self._field}.baseUrl right?{' It goes without /chat/completions.' if wrong else ''}"

    def _reachable(self, problem: str) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in problem:
            return "name the certificates of its authority in SSL_CERT_FILE"
        return f"is the endpoint up, and {self._field}.baseUrl right?"

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

    def _adapted(self, trouble: Trouble, body: Mapping[str, Any]) -> bool:
        """Learns what the endpoint does not take, where it says so. The prompt alone must then do."""
        status, words = trouble.status, trouble.words
        named: set[str] = set()
        if status in (400, 404, 422):
            named = {name for name in _OPTIONAL if name in body and re.search(rf"\b{name}\b", words)}
            renamed = "max_completion_tokens" in words or ("max_tokens" in words and _UNKNOWN.search(words))
            if not named and renamed and "max_tokens" in body:
                self._length = "max_completion_tokens"
                return True
        if not named and "response_format" in body and (status >= 500 or status in (400, 404, 422)):
            named = {"response_format"} if _STRUCTURED.search(words) else named
        self._without |= named
        return bool(named)


def _address(text: str, field: str) -> httpx2.URL:
    try:
        address = httpx2.URL(text.strip())
    except httpx2.InvalidURL:
        address = httpx2.URL()
    if not address.host or not 0 < (address.port or 80) < 65536:
        raise Misconfigured(f"{field}.baseUrl: is no URL that can be called; give one such as http://vllm:8000/v1")
    return address


def _answer(completion: Completion, request: Mapping[str, Any]) -> Answer:
    """The answer, with tokens as the endpoint counts them, or else as many as there can be."""
    prompt, answer = most_tokens(request)
    return Answer(
        text=completion.text,
        finish=completion.finish,
        refusal=completion.refusal,
        prompt_tokens=prompt if completion.prompt_tokens is None else completion.prompt_tokens,
        completion_tokens=answer if completion.completion_tokens is None else completion.completion_tokens,
    )


def _wait(headers: httpx2.Headers) -> float | None:
    """Seconds that a response asks to wait before the next request, in one of the ways of Retry-After."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return seconds if 0 < seconds < math.inf else None
    try:
        seconds = email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None
