"""The server as gRPC's own client sees it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astra_sandbox.server.rpc import Server

Code = grpc.StatusCode
LARGEST = 4 << 20
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Behaviours:
    """Methods that show what reaches a behaviour, and when it ends. Messages are bytes."""

    def __init__(self) -> None:
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.written = self.got = 0
        self.release = asyncio.Event()

    def add_to(self, server: Server) -> None:
        unary = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, name))
            for name in ("echo", "refuse", "fail", "hang")
        }
        others = {
            "echo_all": grpc.stream_stream_rpc_method_handler(self.echo_all),
            "count": grpc.unary_stream_rpc_method_handler(self.count),
            "total": grpc.stream_unary_rpc_method_handler(self.total),
            "flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "ignore": grpc.stream_unary_rpc_method_handler(self.ignore),
        }
        handlers = {
            name: handler._replace(request_deserializer=bytes, response_serializer=bytes)
            for name, handler in (unary | others).items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(Code.FAILED_PRECONDITION, request.decode())
        raise AssertionError("abort does not return")

    async def fail(self, request: bytes, context: Any) -> bytes:
        raise LookupError("a fault of the behaviour")

    async def hang(self, request: bytes, context: Any) -> bytes:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait("hang")
            raise
        return b"released"

    async def echo_all(self, requests: AsyncIterator[bytes], context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request)

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return str(sum([int(request) async for request in requests])).encode()

    async def flood(self, request: bytes, context: Any) -> None:
        for _ in range(1000):
            await context.write(bytes(100_000))
            self.written += 1

    async def ignore(self, requests: Any, context: Any) -> bytes:
        await self.release.wait()
        self.got = len([request async for request in requests])
        return b""


@pytest_asyncio.fixture
async def behaviours() -> Behaviours:
    return Behaviours()


@pytest_asyncio.fixture
async def server(behaviours: Behaviours) -> AsyncIterator[Server]:
    server = Server(LARGEST)
    behaviours.add_to(server)
    yield server
    await server.stop(0)


@pytest_asyncio.fixture
async def channel(server: Server, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    await server.listen(f"unix:{tmp_path}/s", None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s", NO_LIMIT) as channel:
        yield channel


def method(channel: grpc.aio.Channel, name: str, kind: str = "unary_unary") -> Any:
    return getattr(channel, kind)(f"/test.Echo/{name}")


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_535, 1 << 20, LARGEST])
async def test_messages_of_any_size(channel: grpc.aio.Channel, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await method(channel, "echo")(message) == message


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40_000), max_size=60), st.booleans())
def test_a_stream_keeps_what_it_is_given(sizes: list[int], eager: bool) -> None:
    async def scenario() -> None:
        server = Server(LARGEST)
        Behaviours().add_to(server)
        port = await server.listen("127.0.0.1:0", None)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = method(channel, "echo_all", "stream_stream")()
            messages = [number.to_bytes(2) + bytes(size) for number, size in enumerate(sizes)]

            async def write() -> None:
                for message in messages:
                    await stream.write(message)
                await stream.done_writing()

            writer = asyncio.ensure_future(write())
            if not eager:
                await writer
            assert [message async for message in stream] == messages
            await writer
            assert await stream.code() is Code.OK
        await server.stop(0)

    asyncio.run(scenario())


async def test_every_kind_of_method(channel: grpc.aio.Channel) -> None:
    assert [message async for message in method(channel, "count", "unary_stream")(b"5")] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert await method(channel, "total", "stream_unary")(iter([b"1", b"20", b"300"])) == b"321"
    assert await method(channel, "total", "stream_unary")(iter([])) == b"0"


async def test_many_calls_at_once(channel: grpc.aio.Channel) -> None:
    echo = method(channel, "echo")
    messages = [str(number).encode() * (number % 50) for number in range(2000)]
    assert await asyncio.gather(*map(echo, messages)) == messages


@pytest.mark.parametrize("text", ["", "plain", "100 % of ünïcödé\r\n\t\x00 ~", "日本語" * 50, "x" * 3000])
async def test_a_refusal_keeps_its_text(channel: grpc.aio.Channel, text: str) -> None:
    assert await status(method(channel, "refuse")(text.encode())) == (Code.FAILED_PRECONDITION, text)


async def test_a_long_refusal_is_cut(channel: grpc.aio.Channel) -> None:
    code, details = await status(method(channel, "refuse")(b"x" * 100_000))
    assert code is Code.FAILED_PRECONDITION
    assert set(details) == {"x"}


async def test_what_a_behaviour_raises_is_logged(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert await status(method(channel, "fail")(b"")) == (Code.UNKNOWN, "LookupError: a fault of the behaviour")
    assert "a fault of the behaviour" in caplog.text


async def test_unknown_methods(channel: grpc.aio.Channel) -> None:
    for path in ("/test.Echo/none", "/none/echo", "/", "/test.Echo/écho"):
        assert (await status(channel.unary_unary(path)(b"")))[0] is Code.UNIMPLEMENTED


async def test_too_large_a_message(channel: grpc.aio.Channel) -> None:
    echo = method(channel, "echo")
    beside = asyncio.ensure_future(method(channel, "hang")(b"", timeout=30))
    code, details = await status(echo(bytes(LARGEST + 1)))
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == f"a message of {LARGEST + 1} bytes, {LARGEST} at most"
    assert await echo(b"again") == b"again"
    beside.cancel()


async def test_compressed_messages_are_refused(tmp_path: Path, server: Server) -> None:
    await server.listen(f"unix:{tmp_path}/c", None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/c", compression=grpc.Compression.Gzip) as channel:
        assert (await status(method(channel, "echo")(bytes(10_000))))[0] is Code.UNIMPLEMENTED


async def test_a_deadline_cancels_the_behaviour(channel: grpc.aio.Channel, behaviours: Behaviours) -> None:
    assert (await status(method(channel, "hang")(b"", timeout=0.05)))[0] is Code.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(behaviours.cancelled.get(), 5) == "hang"


async def test_a_client_that_cancels(channel: grpc.aio.Channel, behaviours: Behaviours) -> None:
    call = method(channel, "hang")(b"")
    await asyncio.sleep(0.1)
    call.cancel()
    assert await asyncio.wait_for(behaviours.cancelled.get(), 5) == "hang"


async def test_a_client_that_disappears(server: Server, behaviours: Behaviours, tmp_path: Path) -> None:
    await server.listen(f"unix:{tmp_path}/s", None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        call = asyncio.ensure_future(method(channel, "hang")(b""))
        await asyncio.sleep(0.1)
    assert await asyncio.wait_for(behaviours.cancelled.get(), 5) == "hang"
    with contextlib.suppress(asyncio.CancelledError):
        await call


async def test_a_client_that_takes_nothing_holds_the_behaviour_back(
    channel: grpc.aio.Channel, behaviours: Behaviours
) -> None:
    call = method(channel, "flood", "unary_stream")(b"")
    await call.read()
    await asyncio.sleep(0.5)
    assert behaviours.written < 500  # of 1000: 100 MB in all
    got = 1
    while await call.read() is not grpc.aio.EOF:
        got += 1
    assert got == 1000


async def test_a_behaviour_that_reads_nothing_holds_the_client_back(
    channel: grpc.aio.Channel, behaviours: Behaviours
) -> None:
    call = method(channel, "ignore", "stream_unary")()
    sent = 0

    async def write() -> None:
        nonlocal sent
        for _ in range(200):
            await call.write(bytes(100_000))
            sent += 1
        await call.done_writing()

    writer = asyncio.ensure_future(write())
    await asyncio.sleep(0.5)
    assert sent < 100
    assert await method(channel, "echo")(bytes(1 << 20)) == bytes(1 << 20)  # others go on
    behaviours.release.set()
    await writer
    assert await call == b""
    assert behaviours.got == 200


async def test_stopping_waits_for_calls(server: Server, behaviours: Behaviours, tmp_path: Path) -> None:
    await server.listen(f"unix:{tmp_path}/s", None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        call = asyncio.ensure_future(method(channel, "hang")(b""))
        await asyncio.sleep(0.1)
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        assert (await status(method(channel, "echo")(b"late")))[0] is Code.UNAVAILABLE
        behaviours.release.set()
        assert await call == b"released"
        await asyncio.wait_for(stopping, 5)


async def test_stopping_ends_calls_that_do_not_end(server: Server, tmp_path: Path) -> None:
    await server.listen(f"unix:{tmp_path}/s", None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        call = asyncio.ensure_future(status(method(channel, "hang")(b"")))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(server.stop(0.1), 5)
        assert await call == (Code.UNAVAILABLE, "the server stopped")


async def test_one_port_for_all_addresses_of_a_host(server: Server) -> None:
    port = await server.listen("localhost:0", None)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await method(channel, "echo")(b"x") == b"x"
    with pytest.raises(OSError, match="in use"):
        await Server(LARGEST).listen(f"127.0.0.1:{port}", None)
