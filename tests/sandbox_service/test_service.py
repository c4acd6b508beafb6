"""The gRPC surface: status codes, idempotency, the stream, capacity, expiry, health, reflection, TLS."""

import asyncio
import contextlib
import json
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.settings
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from astra_api.records import Toolset
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import CapacityExhausted, SandboxError, SandboxUnavailable
from astra_sandbox.wire import toolset_to_wire

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory, server: Any) -> AsyncIterator[str]:
    async with server(tmp_path_factory.mktemp("server"), "--capacity", "8", "--idle-seconds", "2") as (address, _):
        yield address


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(channel: grpc.aio.Channel) -> Any:
    return stubs.SandboxServiceStub(channel)


async def code_of(call: Any) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def opened(stub: Any, toolset: Toolset, count: int = 1, request_id: str = "") -> list[str]:
    await stub.PutToolset(toolset_to_wire(toolset))
    request = pb.OpenSessionsRequest(request_id=request_id, digest=toolset.digest, count=count)
    return list((await stub.OpenSessions(request)).session_ids)


async def closed(stub: Any, *ids: str) -> None:
    await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))


async def test_a_put_computes_the_digest(stub: Any, stateless: Toolset) -> None:
    assert (await stub.PutToolset(toolset_to_wire(stateless))).digest == stateless.digest
    before = (await stub.GetStatus(pb.GetStatusRequest())).toolsets
    assert (await stub.PutToolset(toolset_to_wire(stateless))).digest == stateless.digest
    assert (await stub.GetStatus(pb.GetStatusRequest())).toolsets == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": pb.STATE_UNSPECIFIED}, "state"),
        ({"tools": []}, "no tools"),
        ({"tools": [pb.Tool(name="a b", parameters_json="{}")]}, "name"),
        ({"tools": [pb.Tool(name="a", parameters_json="[]")]}, "object"),
        ({"tools": [pb.Tool(name="a", parameters_json="{")]}, ""),
        ({"tools": [pb.Tool(name="a", parameters_json='{"type": 3}')]}, "JSON Schema"),
        ({"tools": [pb.Tool(name="a", parameters_json="{}")] * 2}, "two tools"),
        ({"source": "#" * (3 << 20)}, "bytes"),
    ],
)
async def test_a_malformed_toolset_is_an_invalid_argument(stub: Any, change: dict[str, Any], said: str) -> None:
    fields = {"tools": [pb.Tool(name="a", parameters_json="{}")], "source": "", "state": pb.STATELESS} | change
    code, message = await code_of(stub.PutToolset(pb.PutToolsetRequest(**fields)))
    assert code is Code.INVALID_ARGUMENT
    assert said in message


async def test_opening_has_its_codes(stub: Any, stateless: Toolset) -> None:
    await stub.PutToolset(toolset_to_wire(stateless))
    ask = pb.OpenSessionsRequest
    assert (await code_of(stub.OpenSessions(ask(digest="sha256:none", count=1))))[0] is Code.NOT_FOUND
    for count in (0, 9):
        request = ask(digest=stateless.digest, count=count)
        assert (await code_of(stub.OpenSessions(request)))[0] is Code.INVALID_ARGUMENT
    request = ask(digest=stateless.digest, count=1, variant=99)
    assert (await code_of(stub.OpenSessions(request)))[0] is Code.FAILED_PRECONDITION
    ids = await opened(stub, stateless, 5)
    assert (await code_of(stub.OpenSessions(ask(digest=stateless.digest, count=4))))[0] is Code.RESOURCE_EXHAUSTED
    assert (await stub.GetStatus(pb.GetStatusRequest())).sessions == 5  # all or none
    await closed(stub, *ids)


async def test_opening_is_idempotent(stub: Any, stateless: Toolset) -> None:
    await stub.PutToolset(toolset_to_wire(stateless))
    request = pb.OpenSessionsRequest(request_id="same", digest=stateless.digest, count=3)
    answers = await asyncio.gather(*(stub.OpenSessions(request) for _ in range(4)))
    assert len({tuple(answer.session_ids) for answer in answers}) == 1
    assert (await stub.GetStatus(pb.GetStatusRequest())).sessions == 3
    other = pb.OpenSessionsRequest(request_id="same", digest=stateless.digest, count=2)
    assert (await code_of(stub.OpenSessions(other)))[0] is Code.INVALID_ARGUMENT
    await closed(stub, *answers[0].session_ids)


async def test_calls_have_their_codes(stub: Any, stateful: Toolset) -> None:
    (session,) = await opened(stub, stateful)
    ask = pb.CallToolRequest
    request = ask(session_id=session, call_id="1", tool="remember", arguments_json='{"item": 1}')
    answers = await asyncio.gather(*(stub.CallTool(request) for _ in range(4)))  # one execution, one answer
    assert {answer.result_json for answer in answers} == {"[1]"}
    changed = ask(session_id=session, call_id="1", tool="remember", arguments_json='{"item": 2}')
    assert (await code_of(stub.CallTool(changed)))[0] is Code.INVALID_ARGUMENT
    assert (await code_of(stub.CallTool(ask(session_id=session, tool="roll"))))[0] is Code.INVALID_ARGUMENT
    assert (await code_of(stub.CallTool(ask(session_id="none", call_id="1"))))[0] is Code.NOT_FOUND
    await closed(stub, session, "none")
    assert (await code_of(stub.CallTool(request)))[0] is Code.NOT_FOUND


async def test_a_cancelled_call_still_has_one_outcome(stub: Any, make_toolset: Callable[..., Toolset]) -> None:
    source = "import time\nN = []\ndef slow():\n    time.sleep(0.3)\n    N.append(1)\n    return len(N)"
    (session,) = await opened(stub, make_toolset(source, "slow", state="stateful"))
    request = pb.CallToolRequest(session_id=session, call_id="1", tool="slow", arguments_json="{}")
    assert (await code_of(stub.CallTool(request, timeout=0.1)))[0] is Code.DEADLINE_EXCEEDED
    assert (await stub.CallTool(request)).result_json == "1"
    await closed(stub, session)


async def test_the_stream_answers_every_call(stub: Any, stateful: Toolset) -> None:
    ids = await opened(stub, stateful, 4)
    stream = stub.Rollout()
    ask = pb.CallToolRequest
    expected = {}
    for number in range(10):
        for session in ids:
            item = json.dumps({"item": number})
            await stream.write(ask(session_id=session, call_id=str(number), tool="remember", arguments_json=item))
            expected[session, str(number)] = json.dumps(list(range(number + 1)), separators=(",", ":"))
    await stream.write(ask(session_id="none", call_id="1"))
    await stream.write(ask(session_id=ids[0], call_id="1", tool="roll", arguments_json="{}"))
    await stream.done_writing()
    answers, failures = {}, []
    async for answer in stream:
        if answer.HasField("failure"):
            failures.append((answer.session_id, answer.failure.code))
        else:
            answers[answer.session_id, answer.call_id] = answer.result_json
    assert answers == expected
    assert sorted(failures) == sorted([("none", Code.NOT_FOUND.value[0]), (ids[0], Code.INVALID_ARGUMENT.value[0])])
    await closed(stub, *ids)


async def test_an_idle_session_frees_itself(stub: Any, stateless: Toolset) -> None:
    ids = await opened(stub, stateless, 8)
    for _ in range(100):
        await asyncio.sleep(0.1)
        if (await stub.GetStatus(pb.GetStatusRequest())).sessions == 0:
            break
    request = pb.CallToolRequest(session_id=ids[0], call_id="1", tool="roll", arguments_json="{}")
    assert (await code_of(stub.CallTool(request)))[0] is Code.NOT_FOUND


async def test_a_client_waits_while_the_server_is_full(address: str, stateless: Toolset) -> None:
    client = SandboxClient([address], retry=Retry(budget=20))
    hasty = SandboxClient([address], retry=Retry(budget=0.2))
    holders = await client.open_sessions(stateless, 8)
    with pytest.raises(CapacityExhausted, match="of 8 free"):
        await hasty.open_sessions(stateless, 1)
    waiting = asyncio.ensure_future(client.open_sessions(stateless, 4))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    for session in holders:
        await session.close()
    for session in await waiting:
        await session.close()
    with pytest.raises(SandboxError, match="count"):
        await client.open_sessions(stateless, 9)
    await client.close()
    await hasty.close()


async def test_a_stream_whose_answers_nobody_takes_is_not_read(address: str) -> None:
    """Else a client could fill the server's memory with answers."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    headers = {":method": "POST", ":scheme": "http", ":path": "/astra.sandbox.v1.SandboxService/Rollout"}
    http.send_headers(1, [*headers.items(), (":authority", "localhost"), ("content-type", "application/grpc")])
    request = pb.CallToolRequest(session_id="none", call_id="1", tool="add", arguments_json="{}").SerializeToString()
    message = b"\0" + len(request).to_bytes(4) + request
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 8 << 20:
                while (room := http.local_flow_control_window(1)) >= len(message):
                    part = message * (min(room, 16_000) // len(message))
                    http.send_data(1, part)
                    sent += len(part)
                writer.write(http.data_to_send())
                http.receive_data(await reader.read(65536))
    writer.close()
    assert 1 << 19 < sent < 1 << 21  # about the stream's window, and no more


async def test_health_and_reflection(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "astra.sandbox.v1.SandboxService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    stream = reflection.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await stream.read()
    assert "astra.sandbox.v1.SandboxService" in {service.name for service in listed.list_services_response.service}
    await stream.done_writing()


async def test_sigterm_drains(tmp_path: Path, server: Any, stateless: Toolset) -> None:
    async with server(tmp_path, "--drain-seconds", "20") as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            stub = stubs.SandboxServiceStub(channel)
            (session,) = await opened(stub, stateless)
            process.terminate()
            await asyncio.sleep(0.3)
            request = pb.CallToolRequest(session_id=session, call_id="1", tool="add", arguments_json='{"a": 1, "b": 1}')
            assert (await stub.CallTool(request)).result_json == "2"  # what is open goes on
            refused = await code_of(stub.OpenSessions(pb.OpenSessionsRequest(digest=stateless.digest, count=1)))
            assert refused[0] is Code.UNAVAILABLE
            await closed(stub, session)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_the_server_dies_with_its_parent(tmp_path: Path, server: Any) -> None:
    async with server(tmp_path) as (_, process):
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)


async def test_tls_is_mutual(tls_server: Any, stateless: Toolset) -> None:
    async with tls_server() as (address, tls):
        strangers = [SandboxClient([address], retry=Retry(budget=0.5))]
        for stranger in strangers:
            with pytest.raises(SandboxUnavailable):
                await stranger.status()
            await stranger.close()
        client = SandboxClient([address], tls, retry=Retry(budget=10))
        assert (await client.status())[0].capacity == 64
        await client.close()


async def test_metrics_are_served_on_their_own_port(tmp_path: Path, server: Any, stateless: Toolset) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with server(tmp_path, "--metrics-port", str(port)) as (address, _):
        client = SandboxClient([address], retry=Retry(budget=20))
        (session,) = await client.open_sessions(stateless, 1)
        await session.call("add", '{"a": 1, "b": 1}')
        await session.call("add", "{}")
        scraped = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")
        text = scraped.read().decode()
        await client.close()
    for line in (
        'astra_sandbox_calls_total{outcome="result"} 1.0',
        'astra_sandbox_calls_total{outcome="INVALID_ARGUMENTS"} 1.0',
        "astra_sandbox_sessions 1.0",
        "astra_sandbox_sessions_opened_total 1.0",
        "astra_sandbox_call_seconds_count 2.0",
    ):
        assert line in text


async def test_too_many_waiting_calls_are_refused_and_the_accepted_ones_are_not(
    stub: Any, make_toolset: Callable[..., Toolset]
) -> None:
    source = "import time\nN = []\ndef slow():\n    time.sleep(0.002)\n    N.append(1)\n    return len(N)"
    (session,) = await opened(stub, make_toolset(source, "slow", state="stateful"))
    stream = stub.Rollout()
    for number in range(400):
        call = pb.CallToolRequest(session_id=session, call_id=str(number), tool="slow", arguments_json="{}")
        await stream.write(call)
    await stream.done_writing()
    answers = [answer async for answer in stream]
    refused = [answer for answer in answers if answer.HasField("failure")]
    assert {answer.failure.code for answer in refused} == {Code.RESOURCE_EXHAUSTED.value[0]}
    results = [int(answer.result_json) for answer in answers if not answer.HasField("failure")]
    assert sorted(results) == list(range(1, 400 - len(refused) + 1))
    assert len(results) >= 256
    again = pb.CallToolRequest(session_id=session, call_id=refused[0].call_id, tool="slow", arguments_json="{}")
    assert (await stub.CallTool(again)).result_json == str(len(results) + 1)
    await closed(stub, session)


async def test_the_library_is_sound_in_a_session(stub: Any, make_toolset: Callable[..., Toolset]) -> None:
    """`random` and `threading` are loaded without what they do after a fork: nothing of that may be missed."""
    source = """
import logging, random, threading, uuid
def look():
    lock = threading.RLock()
    with lock, threading.Condition():
        logging.getLogger("tool").debug("held")
    main = threading.main_thread()
    found = [main is threading.current_thread(), main.is_alive(), main.ident == threading.get_ident()]
    return [*found, threading.active_count(), random.Random().random(), uuid.uuid4().hex]
"""
    toolset = make_toolset(source, "look", state="stateful")
    ids = await opened(stub, toolset, 2)
    calls = (pb.CallToolRequest(session_id=one, call_id="1", tool="look", arguments_json="{}") for one in ids)
    looks = [json.loads((await stub.CallTool(call)).result_json) for call in calls]
    assert [look[:4] for look in looks] == [[True, True, True, 1]] * 2
    assert looks[0][4] != looks[1][4]  # entropy is each session's own
    assert looks[0][5] != looks[1][5]
    await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))
