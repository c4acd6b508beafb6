"""One endpoint over real HTTP: it is learnt what it does not take, what may pass is tried again, no secret shows."""

import asyncio
import datetime
import email.utils
import gzip
import ipaddress
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from astra_api.errors import BadInput
from astra_api.synthesis_run import Teacher as TeacherSpec
from astra_synth.teacher import BudgetExhausted, CallFailed, TeacherError, TeacherUnavailable, open_teacher
from astra_synth.teacher.endpoint import Answer, Endpoint
from astra_synth.teacher.errors import (
    BadRequest,
    ConnectionLost,
    CutShort,
    Malformed,
    NothingTaken,
    RateLimited,
    Refused,
    ServerFailed,
    TimedOut,
)

from .answering import ASK, TEXT, Say, answering, completion

REQUEST = {
    "messages": [{"role": "user", "content": "Ask."}],
    "schema": {},
    "temperature": 0.7,
    "max_tokens": 90,
    "seed": 5,
}
KEY = "sk-canary-0123456789abcdef"


async def send(
    url: str,
    retries: int = 1,
    key: str | None = None,
    waits: list[float] | None = None,
    environ: dict[str, str] | None = None,
    **spec: Any,
) -> Answer:
    """An answer; `waits` takes what was waited, in no time."""

    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    given = TeacherSpec.model_validate({"base_url": url, "model": "m", "retries": retries, **spec})
    endpoint = Endpoint(given, key, environ=environ or {}, sleep=sleep)
    try:
        return await endpoint.send(REQUEST, "name-of-the-request")
    finally:
        await endpoint.close()


def refusing(field: str, said: Callable[[str], Say]) -> Callable[[dict[str, Any], int], Say]:
    return lambda body, number: said(field) if field in body else Say(completion())


SHAPES: dict[str, Callable[[str], Say]] = {
    "openai": lambda name: Say({"error": {"message": f"Unrecognized argument: {name}", "param": name}}, 400),
    "mistral": lambda name: Say(
        {"object": "error", "message": {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"}]}},
        422,
    ),
    "lm studio": lambda name: Say({"error": f"'{name}' is not supported"}, 400),
    "fastapi": lambda name: Say({"detail": [{"loc": ["body", name], "msg": "extra fields not permitted"}]}, 422),
    "param alone": lambda name: Say({"error": {"message": "Unsupported parameter", "param": name}}, 400),
    "azure": lambda name: Say({"error": {"code": "BadRequest", "message": f"Unsupported parameter: '{name}'"}}, 400),
    "plain text": lambda name: Say(f"unknown field {name}", 400, "text/plain"),
    "in a 200": lambda name: Say({"error": {"message": f"unknown field {name}", "code": 400}}),
    "a text in a 200": lambda name: Say({"error": f"unknown field {name}"}),
    "with the request": lambda name: Say(
        {"detail": [{"loc": ["body", name], "msg": "unexpected", "input": {"seed": 1, "temperature": 1}}]}, 422
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("field", ["response_format", "seed", "temperature", "max_tokens"])
async def test_a_field_that_is_not_taken_is_left_out(shape: str, field: str) -> None:
    with answering(refusing(field, SHAPES[shape])) as asked:
        assert (await send(asked.url)).text == TEXT
    first, second = asked.bodies
    assert set(first) - set(second) == {field}
    assert second.get("max_completion_tokens") == (90 if field == "max_tokens" else None)


@pytest.mark.parametrize(
    "said",
    [
        Say({"error": "structured outputs are not available for this model"}, 400),
        Say({"error": {"message": "failed to parse grammar", "code": 500}}, 500),
        Say({"error": {"message": "guided decoding is off"}}, 422),
    ],
)
async def test_a_schema_that_is_not_taken_is_left_out(said: Say) -> None:
    with answering(refusing("response_format", lambda _: said)) as asked:
        assert (await send(asked.url, retries=0)).text == TEXT


async def test_what_one_call_learns_serves_those_that_are_under_way() -> None:
    with answering(refusing("max_tokens", SHAPES["openai"])) as asked:
        endpoint = Endpoint(TeacherSpec(base_url=asked.url, model="m"), None, environ={})
        answers = await asyncio.gather(*(endpoint.send(REQUEST, str(number)) for number in range(6)))
        await endpoint.close()
    assert [answer.text for answer in answers] == [TEXT] * 6


PASSING: dict[str, tuple[Say, type[CallFailed]]] = {
    "429": (Say({"error": {"message": "slow down"}}, 429), RateLimited),
    "500": (Say("oops", 500), ServerFailed),
    "503 html": (Say("<html><title>Busy</title>", 503, "text/html"), ServerFailed),
    "408": (Say("", 408), ServerFailed),
    "529": (Say({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, 529), ServerFailed),
    "200 with 502": (Say({"error": {"message": "Provider returned error", "code": 502}}), ServerFailed),
    "200 with 429": (Say({"error": {"message": "slow down", "code": "429"}}), RateLimited),
    "200 in a choice": (Say(completion("", "error")), ServerFailed),
    "no gzip": (Say(b"no gzip at all", headers={"Content-Encoding": "gzip"}), ConnectionLost),
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_may_pass_is_tried_again(name: str) -> None:
    said, kind = PASSING[name]
    waits: list[float] = []
    with answering(lambda body, number: said if number < 2 else Say(completion())) as asked:
        assert (await send(asked.url, retries=2, waits=waits)).text == TEXT
    assert len({json.dumps(body) for body in asked.bodies}) == 1
    assert {headers["Idempotency-Key"] for headers in asked.headers} == {"name-of-the-request"}
    assert 0.3 < waits[0] <= 0.5 < waits[1] <= 1.0
    with answering(said) as asked, pytest.raises(kind, match=r"tried 3 times") as caught:
        await send(asked.url, retries=2)
    assert caught.value.transient
    assert len(asked.bodies) == 3


async def test_a_page_in_between_is_the_endpoint_s_fault() -> None:
    """Once it has answered, it is an endpoint for chats: a page that a gateway puts in its place passes."""
    page = Say("<html><title>Sign in</title>", kind="text/html")
    with answering(lambda body, number: Say(completion()) if number == 0 else page) as asked:
        endpoint = Endpoint(TeacherSpec(base_url=asked.url, model="m", retries=0), None, environ={})
        await endpoint.send(REQUEST, "1")
        with pytest.raises(ServerFailed, match=r"no chat completion, but an HTML page \(Sign in\)"):
            await endpoint.send(REQUEST, "2")
        await endpoint.close()


async def test_a_refused_request_is_to_blame_once_another_was_taken() -> None:
    long = Say({"error": {"message": "the prompt is too long"}}, 400)
    with answering(lambda body, number: long if number in (0, 2) else Say(completion())) as asked:
        endpoint = Endpoint(TeacherSpec(base_url=asked.url, model="m", retries=0), None, environ={})
        with pytest.raises(NothingTaken, match="the prompt is too long") as caught:
            await endpoint.send(REQUEST, "1")
        assert (caught.value.transient, caught.value.reason) == (True, "TeacherBadRequest")
        await endpoint.send(REQUEST, "2")
        with pytest.raises(BadRequest, match="the prompt is too long") as again:
            await endpoint.send(REQUEST, "3")
        assert not again.value.transient
        await endpoint.close()


UNUSABLE: dict[str, tuple[Say, str]] = {
    "401": (Say({"error": {"message": "a wrong key"}}, 401), "HTTP 401 - a wrong key"),
    "402": (Say({"error": {"message": "no credit"}}, 402), "no credit"),
    "404": (Say("404 page not found", 404, "text/plain"), "404 page not found; is spec.teacher.baseUrl right?"),
    "405": (Say({"detail": "Method Not Allowed"}, 405), "Method Not Allowed; is spec.teacher.baseUrl right?"),
    "407": (Say("", 407), "HTTP 407"),
    "quota": (Say({"error": {"message": "pay", "code": "insufficient_quota"}}, 429), "pay"),
    "model": (Say({"error": {"message": "no model x", "code": "model_not_found"}}), "no model x"),
    "path": (Say({"error": "Unexpected endpoint or method."}), "Unexpected .*; is spec.teacher.baseUrl right?"),
    "redirect": (Say("", 301, headers={"Location": "https://other/v1"}), r"301 - a redirect to https://other/v1; is"),
    "html": (Say("<html><title>Open WebUI</title>", kind="text/html"), r"page \(Open WebUI\), tried 2 times; is"),
    "empty": (Say("", 204), r"an empty answer, tried 2 times; is spec.teacher.baseUrl right\?"),
    "JSON": (Say({"object": "list", "data": []}), "no chat completion, but .*list"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
async def test_an_endpoint_that_cannot_be_used(name: str) -> None:
    said, message = UNUSABLE[name]
    with answering(said) as asked, pytest.raises(TeacherUnavailable, match=message):
        await send(asked.url)


async def test_the_whole_address_of_a_call_is_no_base() -> None:
    with (
        answering(Say("Not Found", 404)) as asked,
        pytest.raises(TeacherUnavailable, match="It goes without /chat/completions"),
    ):
        await send(f"{asked.url}/chat/completions/")


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_that_keeps_the_request_is_followed(status: int) -> None:
    def answer(body: dict[str, Any], number: int) -> Say:
        return Say("", status, headers={"Location": "/v1/chat/completions/"}) if number == 0 else Say(completion())

    with answering(answer) as asked:
        assert (await send(asked.url, key=KEY)).text == TEXT
    assert asked.paths == ["/v1/chat/completions", "/v1/chat/completions/"]
    assert asked.headers[1]["Authorization"] == f"Bearer {KEY}"
    with answering(Say("", status, headers={"Location": "/v1/chat/completions"})) as asked:
        with pytest.raises(TeacherUnavailable, match=f"{status} - a redirect"):
            await send(asked.url)
        assert len(asked.bodies) == 6


@pytest.mark.parametrize(
    "kind", ["content_filter", "ResponsibleAIPolicyViolation", "Your input was flagged: moderation"]
)
async def test_a_prompt_that_a_filter_declines(kind: str) -> None:
    for status in (400, 403):
        with answering(Say({"error": {"message": kind, "code": "content_filter"}}, status)) as asked:
            with pytest.raises(Refused):
                await send(asked.url)
            assert len(asked.bodies) == 1


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "1.5"}, 1.5, 1.5),
        ({"Retry-After-Ms": "20"}, 0.02, 0.02),
        ({"Retry-After": "in 60 s"}, 50, 60),
        ({"Retry-After": "in -60 s"}, 0.3, 0.5),
        ({"Retry-After": "soon"}, 0.3, 0.5),
        ({"Retry-After": "-5"}, 0.3, 0.5),
        ({"Retry-After": "inf"}, 0.3, 0.5),
        ({}, 0.3, 0.5),
    ],
)
async def test_it_waits_as_long_as_it_is_asked_to(headers: dict[str, str], least: float, most: float) -> None:
    waits: list[float] = []
    given = headers.get("Retry-After", "")
    if given.startswith("in "):  # as a date
        headers = {"Retry-After": email.utils.formatdate(time.time() + float(given.split()[1]), usegmt=True)}
    busy = Say({"error": {"message": "slow down"}}, 429, headers=headers)
    with answering(lambda body, number: busy if number == 0 else Say(completion())) as asked:
        await send(asked.url, waits=waits)
    (wait,) = waits
    assert least <= wait <= most


async def test_waits_grow_and_have_an_end() -> None:
    waits: list[float] = []
    with answering(Say("", 503)) as asked, pytest.raises(ServerFailed, match="tried 9 times"):
        await send(asked.url, retries=8, waits=waits)
    assert waits == sorted(waits)[: len(waits)] or max(waits) <= 8
    assert 6 <= waits[-1] <= 8
    waits.clear()
    with answering(Say("", 429, headers={"Retry-After": "3600"})) as asked:
        with pytest.raises(RateLimited, match="the endpoint asks to wait 3600 s"):
            await send(asked.url, retries=8, waits=waits)
        assert (len(asked.bodies), waits) == (1, [])


async def test_an_answer_in_any_packing() -> None:
    text = json.dumps(completion("Liegeplätze"), ensure_ascii=False)
    packed = gzip.compress(text.encode())
    for said in (
        Say(packed, headers={"Content-Encoding": "gzip"}),
        Say(text, kind="application/json; charset=iso-8859-1"),
        Say(text, kind="text/plain"),
        Say(text.encode("latin-1"), kind="application/json; charset=ISO-8859-1"),
        Say("\ufeff" + text, kind="text/event-stream"),
    ):
        with answering(said) as asked:
            assert (await send(asked.url)).text == "Liegeplätze"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": -5}])
async def test_tokens_that_are_not_told_are_as_many_as_there_can_be(usage: Any, tmp_path: Path) -> None:
    with answering(Say(completion(usage=usage))) as asked:
        answer = await send(asked.url)
        assert answer.prompt_tokens >= len(json.dumps(REQUEST["messages"]))
        assert answer.completion_tokens == 90
        asked.bodies.clear()
        given = {"base_url": asked.url, "model": "m", "max_tokens": 500, "budget": {"tokens": 10_000}}
        async with open_teacher(TeacherSpec.model_validate(given), None, tmp_path, environ={}) as teacher:
            with pytest.raises(BudgetExhausted):
                await asyncio.gather(*(teacher.enquiry(item * 10).ask(ASK) for item in range(100)))
    sizes = [len(json.dumps(body["messages"])) + 500 for body in asked.bodies]
    assert 1 < len(sizes) < 20
    assert sum(sizes) <= 10_000


FINISHES = {
    "stop": None, "eos": None, "eos_token": None, "STOP": None, "stop_sequence": None, "end_turn": None,
    "COMPLETE": None, "tool_calls": None, "": None, None: None,
    "length": CutShort, "max_tokens": CutShort, "MAX_TOKENS": CutShort, "model_length": CutShort,
    "content_filter": Refused, "SAFETY": Refused, "RECITATION": Refused, "guardrail_intervened": Refused,
    "error": ServerFailed, "insufficient_system_resource": ServerFailed,
}  # fmt: skip


@pytest.mark.parametrize("finish", FINISHES)
async def test_only_some_ends_are_no_answers(finish: str | None, tmp_path: Path) -> None:
    kind = FINISHES[finish]
    with answering(Say(completion(finish=finish))) as asked:
        spec = TeacherSpec(base_url=asked.url, model="m", retries=0)
        async with open_teacher(spec, None, tmp_path, reasks=0, environ={}) as teacher:
            if kind is None:
                assert (await teacher.enquiry(1).ask(ASK)).question == "How many berths?"
                return
            with pytest.raises(kind):
                await teacher.enquiry(1).ask(ASK)


@pytest.mark.parametrize("text", ['{"question": "\\ud83d"}', '{"question": "a\ufffdb"}'])
async def test_half_a_character_is_no_answer(text: str, tmp_path: Path) -> None:
    with answering(Say(completion(text))) as asked:
        async with open_teacher(TeacherSpec(base_url=asked.url, model="m"), None, tmp_path, environ={}) as teacher:
            with pytest.raises(Malformed, match="could not be decoded"):
                await teacher.enquiry(1).ask(ASK)


@pytest.mark.parametrize("url", ["http://", "http:///v1", "http://h:99999/v1", "http://ex\u2100mple/v1"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(BadInput, match=r"^spec\.teacher\.baseUrl: is no URL that can be called") as caught:
        await send(url.replace("://", f"://user:{KEY}@"))
    assert "canary" not in str(caught.value)


async def test_judge_and_teacher_are_told_apart(tmp_path: Path) -> None:
    author, judge = (TeacherSpec(base_url=url, model="m") for url in ("http://h/v1", "http://"))
    with pytest.raises(BadInput, match=r"^spec\.judge\.baseUrl"):
        async with open_teacher(author, judge, tmp_path, environ={}):
            pass
    environ = {"ASTRA_TEACHER_API_KEY": KEY, "ASTRA_JUDGE_API_KEY": f"Bearer {KEY}"}
    with pytest.raises(BadInput, match=r"^ASTRA_JUDGE_API_KEY: the key holds white space"):
        async with open_teacher(author, author, tmp_path, environ=environ):
            pass


async def test_a_key_is_sent_as_it_is_meant(tmp_path: Path) -> None:
    with answering(Say(completion())) as asked:
        for given in (f"{KEY}\n", "", None):
            environ = {} if given is None else {"ASTRA_TEACHER_API_KEY": given}
            folder = tmp_path / str(len(asked.bodies))
            async with open_teacher(
                TeacherSpec(base_url=asked.url, model="m"), None, folder, environ=environ
            ) as teacher:
                await teacher.enquiry(1).ask(ASK)
        await send(asked.url.replace("//", "//user:word@"))
        await send(f"{asked.url}?api-version=1")
    assert [headers.get("Authorization") for headers in asked.headers] == [
        f"Bearer {KEY}", None, None, "Basic dXNlcjp3b3Jk", None,
    ]  # fmt: skip
    assert asked.paths[-1] == "/v1/chat/completions?api-version=1"


@contextmanager
def dead() -> Iterator[str]:
    """An address that takes connections and never says anything but goodbye."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


async def test_no_answer_and_no_connection() -> None:
    with dead() as url:
        with pytest.raises(TimedOut, match=r"no answer within 0\.1 s, tried 2 times"):
            await send(url, timeout_seconds=0.1)
        with pytest.raises(TeacherUnavailable, match="is the endpoint up"):
            await send(url.replace("http:", "https:"), timeout_seconds=5.0) if False else await send(
                "http://127.0.0.1:1/v1"
            )


async def test_through_a_proxy() -> None:
    with answering(Say(completion())) as proxy:
        by = {"HTTP_PROXY": proxy.url.replace("//", f"//user:{KEY}@"), "NO_PROXY": "localhost"}
        assert (await send("http://teacher.invalid/v1", environ=by)).text == TEXT
        assert proxy.paths == ["http://teacher.invalid/v1/chat/completions"]
        assert "Proxy-Authorization" in proxy.headers[0]
    with answering(Say(f"who is {KEY}?", 407)) as proxy:
        by = {"http_proxy": proxy.url.replace("//", f"//user:{KEY}@")}
        with pytest.raises(TeacherUnavailable, match=r"by the proxy of http_proxy\): HTTP 407 - who is \*\*\*\?"):
            await send("http://teacher.invalid/v1", environ=by)
    with pytest.raises(TeacherUnavailable, match=r"by the proxy of ALL_PROXY\): .*is the endpoint up"):
        await send("http://teacher.invalid/v1", environ={"ALL_PROXY": "http://127.0.0.1:1"})


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for 127.0.0.1, and the file of its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    file, secret = folder / "cert.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, secret)
    return context, file


async def test_certificates_of_one_s_own(tmp_path: Path) -> None:
    context, file = certificate(tmp_path)
    with answering(Say(completion()), context) as asked:
        assert (await send(asked.url, environ={"SSL_CERT_FILE": str(file)})).text == TEXT
        with pytest.raises(TeacherUnavailable, match=r"name the certificates of its authority in SSL_CERT_FILE"):
            await send(asked.url, retries=0)
        with pytest.raises(CallFailed):  # that speaks http where https is spoken: nothing is an answer
            await send(asked.url.replace("https", "http"), retries=0)
    with answering(Say(completion())) as asked, pytest.raises(TeacherUnavailable, match="baseUrl right"):
        await send(asked.url.replace("http", "https"), retries=0)


ECHO = f"you sent Bearer {KEY} and {KEY[:14]}..."
SECRETIVE: dict[str, Say] = {
    "401": Say({"error": {"message": ECHO}}, 401),
    "400": Say({"error": {"message": ECHO}}, 400),
    "400 long": Say({"error": {"message": "x" * 480 + KEY}}, 400),
    "400 text": Say(ECHO, 400),
    "400 html": Say(f"<html><title>{ECHO}</title>", 400, "text/html"),
    "422 detail": Say({"detail": [{"loc": ["header", KEY], "msg": ECHO}]}, 422),
    "404": Say({"error": ECHO}, 404),
    "429": Say({"error": {"message": ECHO, "code": "insufficient_quota"}}, 429),
    "500": Say(ECHO, 500),
    "500 bytes": Say(b"\xff" + ECHO.encode(), 500),
    "200 error": Say({"error": {"message": ECHO, "code": 502}}),
    "200 text": Say({"error": ECHO}),
    "200 html": Say(f"<html><title>{ECHO}</title>", kind="text/html"),
    "200 headers": Say({"headers": {"Authorization": f"Bearer {KEY}"}}),
    "200 other": Say(ECHO),
    "redirect": Say("", 301, headers={"Location": f"https://{KEY}@other/{KEY}?key={KEY}"}),
    "redirect to nothing": Say("", 307, headers={"Location": f"nonsense://{KEY}/"}),
    "refusal": Say(completion("", refusal=ECHO)),
    "filter": Say(completion(ECHO, "content_filter")),
    "finish": Say(completion(ECHO, KEY)),
    "malformed": Say(completion(ECHO)),
    "wrong form": Say(completion(json.dumps({KEY: KEY}))),
    "an answer": Say(completion(json.dumps({"question": ECHO}))),
    "reasoning": Say(completion(None, reasoning_content=json.dumps({"question": KEY}))),
    "no gzip": Say(ECHO, headers={"Content-Encoding": "gzip", "X-Key": KEY}),
}


@pytest.mark.parametrize("place", ["header", "user", "parameter"])
@pytest.mark.parametrize("name", [*SECRETIVE, "nobody there"])
async def test_a_key_never_shows(
    name: str, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """In no exception nor those behind it, no file, no log, no output; however the endpoint repeats it."""
    caplog.set_level(logging.DEBUG)
    environ = {"ASTRA_TEACHER_API_KEY": f"{KEY}\n"} if place == "header" else {}
    shown = ""
    with answering(SECRETIVE.get(name, Say(completion()))) as asked:
        url = "http://127.0.0.1:1/v1" if name == "nobody there" else asked.url
        url = url.replace("//", f"//user:{KEY}@") if place == "user" else url
        url = f"{url}?api-key={KEY}" if place == "parameter" else url
        spec = TeacherSpec(base_url=url, model="m", retries=0)
        async with open_teacher(spec, None, tmp_path, reasks=1, environ=environ) as teacher:
            try:
                shown += repr(await teacher.enquiry(1).ask(ASK))
            except TeacherError as error:
                shown += chained(error)
    assert shown
    shown += "".join(record.getMessage() for record in caplog.records)
    shown += "".join(capfd.readouterr())
    shown += contents(tmp_path)
    assert "canary" not in shown.casefold()
    assert KEY[-8:] not in shown


def contents(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.rglob("*") if file.is_file())


def chained(error: BaseException | None) -> str:
    """All texts of an exception and of those behind it."""
    if error is None:
        return ""
    return f"{error}{error!r}{error.args}{vars(error)}{chained(error.__cause__)}{chained(error.__context__)}"
