"""HTTP/2 as peers other than gRPC's client speak it: another implementation (h2), and bytes of nobody's."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sandbox.server.http2 import STREAM_WINDOW
from astra_sandbox.server.rpc import Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/echo"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def message(payload: bytes) -> bytes:
    return b"\x00" + len(payload).to_bytes(4) + payload


BLOCK = hpack.Encoder().encode(REQUEST)
NOWHERE = hpack.Encoder().encode([(name, "/none" if name == ":path" else value) for name, value in REQUEST])
OPEN = PREFACE + frame(SETTINGS)


class Echo:
    """One method that echoes, at an address."""

    def __init__(self, path: Path) -> None:
        self.path = f"{path}/s"
        self.server = Server(1 << 20)
        self.cancelled = asyncio.Event()

    async def start(self) -> None:
        async def echo(request: bytes, context: Any) -> bytes:
            return request

        async def hang(request: bytes, context: Any) -> bytes:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return b""

        handlers = {
            "echo": grpc.unary_unary_rpc_method_handler(echo),
            "hang": grpc.unary_unary_rpc_method_handler(hang),
        }
        handlers = {
            name: handler._replace(request_deserializer=bytes, response_serializer=bytes)
            for name, handler in handlers.items()
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        await self.server.listen(f"unix:{self.path}", None)

    async def sound(self) -> None:
        """It still answers."""
        async with grpc.aio.insecure_channel(f"unix:{self.path}") as channel:
            assert await channel.unary_unary("/test.Echo/echo")(b"sound", timeout=10) == b"sound"


@pytest_asyncio.fixture
async def echo(tmp_path: Path) -> AsyncIterator[Echo]:
    echo = Echo(tmp_path)
    await echo.start()
    yield echo
    await echo.sound()
    await echo.server.stop(0)


class Peer:
    """A client that h2 speaks for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.reader, self.writer = reader, writer
        self.events: list[Any] = []

    @classmethod
    async def connect(cls, echo: Echo, **initial: int) -> "Peer":
        peer = cls(*await asyncio.open_unix_connection(echo.path))
        peer.http.initiate_connection()
        if initial:
            peer.http.update_settings(
                {getattr(h2.settings.SettingCodes, name): value for name, value in initial.items()}
            )
        await peer.flush()
        return peer

    async def flush(self) -> None:
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    async def until(self, kind: type[Any], stream: int | None = None) -> Any:
        """The next event of a kind; the ones before it stay in `events`."""
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                        self.events.remove(event)
                        return event
                data = await self.reader.read(65536)
                assert data, "the server closed the connection"
                self.events += self.http.receive_data(data)
                await self.flush()

    async def answer(self, stream: int) -> bytes:
        """The body of a whole answer with status 0."""
        await self.until(h2.events.StreamEnded, stream)
        mine = [event for event in self.events if getattr(event, "stream_id", None) == stream]
        trailers = next(event for event in mine if isinstance(event, h2.events.TrailersReceived))
        assert dict(trailers.headers)["grpc-status"] == "0"
        return b"".join(event.data for event in mine if isinstance(event, h2.events.DataReceived))

    def close(self) -> None:
        self.writer.close()


async def raw(echo: Echo, data: bytes, kind: int = PING) -> list[tuple[int, int, int, bytes]]:
    """The frames that the server answers to these bytes and a ping, up to one of a kind, or until it closes."""
    reader, writer = await asyncio.open_unix_connection(echo.path)
    writer.write(data + frame(PING, 0, 0, b"the last"))
    said = b""
    with contextlib.suppress(ConnectionError):  # it may close before it has read all
        async with asyncio.timeout(20):
            while kind not in {found[0] for found in frames(said)} and (part := await reader.read(65536)):
                said += part
    writer.close()
    return frames(said)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each whole frame."""
    found = []
    while len(data) >= 9:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBL", data)
        size = high << 16 | low
        if len(data) < 9 + size:
            break
        found.append((kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


async def test_another_implementation(echo: Echo) -> None:
    peer = await Peer.connect(echo)
    for stream in (1, 3, 5):
        peer.http.send_headers(stream, REQUEST)
        peer.http.send_data(stream, message(b"x" * stream), end_stream=True)
        await peer.flush()
        assert await peer.answer(stream) == message(b"x" * stream)
    peer.close()


async def test_windows_that_open_slowly(echo: Echo) -> None:
    peer = await Peer.connect(echo, INITIAL_WINDOW_SIZE=7)
    await peer.until(h2.events.SettingsAcknowledged)
    body = message(bytes(range(256)) * 4)
    peer.http.send_headers(1, REQUEST)
    peer.http.send_data(1, body, end_stream=True)
    await peer.flush()
    got = (await peer.until(h2.events.DataReceived, 1)).data
    assert got == body[:7]
    peer.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await peer.flush()
    got += (await peer.until(h2.events.DataReceived, 1)).data
    assert got == body[:10]
    while len(got) < len(body):
        peer.http.increment_flow_control_window(100, 1)
        await peer.flush()
        got += (await peer.until(h2.events.DataReceived, 1)).data
    assert got == body
    await peer.until(h2.events.StreamEnded, 1)
    peer.close()


async def test_padding_priority_and_trailers(echo: Echo) -> None:
    peer = await Peer.connect(echo)
    peer.http.send_headers(1, REQUEST, priority_weight=7, priority_depends_on=0, priority_exclusive=True)
    peer.http.send_data(1, message(b"padded")[:4], pad_length=200)
    peer.http.send_data(1, message(b"padded")[4:], pad_length=0)
    peer.http.send_headers(1, [("x-checksum", "1")], end_stream=True)
    await peer.flush()
    assert await peer.answer(1) == message(b"padded")
    peer.close()


async def test_a_header_block_in_pieces(echo: Echo) -> None:
    pieces = [BLOCK[:1], BLOCK[1:20], BLOCK[20:]]
    data = OPEN + frame(HEADERS, 0, 1, pieces[0]) + frame(CONTINUATION, 0, 1, pieces[1])
    data += frame(CONTINUATION, 4, 1, pieces[2]) + frame(DATA, 1, 1, message(b"x"))
    answers = [payload for kind, _, _, payload in await raw(echo, data, DATA) if kind == DATA]
    assert answers == [message(b"x")]


async def test_a_byte_at_a_time(echo: Echo) -> None:
    reader, writer = await asyncio.open_unix_connection(echo.path)
    for byte in OPEN + frame(HEADERS, 4, 1, BLOCK) + frame(DATA, 1, 1, message(b"slow")):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    said = b""
    while message(b"slow") not in said:
        said += await asyncio.wait_for(reader.read(1000), 5)
    writer.close()


async def test_known_blocks_follow_the_table(echo: Echo) -> None:
    """The same bytes mean another thing once the table has changed."""
    encoder = hpack.Encoder()
    paths = ["/test.Echo/echo", "/test.Echo/none", "/test.Echo/echo", "/test.Echo/none"]
    peer = await Peer.connect(echo)
    statuses = []
    for number, path in enumerate(paths * 3):
        headers = [(name, path if name == ":path" else value) for name, value in REQUEST]
        stream = 2 * number + 1
        peer.writer.write(frame(HEADERS, 4, stream, encoder.encode(headers)) + frame(DATA, 1, stream, message(b"")))
    said = b""
    decoder = hpack.Decoder()
    while len(statuses) < len(paths * 3):
        said += await asyncio.wait_for(peer.reader.read(65536), 5)
        statuses = []
        decoder = hpack.Decoder()
        for kind, _, _, payload in frames(said):
            if kind == HEADERS:
                fields = dict(decoder.decode(payload))
                statuses += [fields["grpc-status"]] if "grpc-status" in fields else []
    assert statuses.count("12") == 6
    assert statuses.count("0") == 6
    peer.close()


async def test_pings_are_answered(echo: Echo) -> None:
    said = await raw(echo, OPEN + frame(PING, 1, 0, b"answered"))
    assert [payload for kind, flags, _, payload in said if kind == PING and flags == 1] == [b"the last"]


async def test_a_peer_that_resets_its_stream(echo: Echo) -> None:
    peer = await Peer.connect(echo)
    headers = [(name, "/test.Echo/hang" if name == ":path" else value) for name, value in REQUEST]
    peer.http.send_headers(1, headers)
    peer.http.send_data(1, message(b""), end_stream=True)
    await peer.flush()
    await asyncio.sleep(0.1)
    peer.http.reset_stream(1)
    await peer.flush()
    await asyncio.wait_for(echo.cancelled.wait(), 5)
    peer.close()


async def test_requests_that_are_not_grpc(echo: Echo) -> None:
    for headers in (
        [(name, "GET" if name == ":method" else value) for name, value in REQUEST],
        [(name, "text/html" if name == "content-type" else value) for name, value in REQUEST],
    ):
        data = OPEN + frame(HEADERS, 5, 1, hpack.Encoder().encode(headers))
        answer = next(payload for kind, *_, payload in await raw(echo, data, HEADERS) if kind == HEADERS)
        assert dict(hpack.Decoder().decode(answer))[":status"] == "415"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1),
        (PREFACE + frame(PING, 0, 0, bytes(8)), 1),  # SETTINGS come first
        (OPEN + frame(SETTINGS, 0, 0, b"12345"), 6),
        (OPEN + frame(SETTINGS, 1, 0, bytes(6)), 6),
        (OPEN + frame(SETTINGS, 0, 1), 1),
        (OPEN + frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31)), 3),
        (OPEN + frame(SETTINGS, 0, 0, struct.pack(">HL", 5, 100)), 1),
        (OPEN + frame(PING, 0, 0, b"short"), 6),
        (OPEN + frame(PING, 0, 1, bytes(8)), 1),
        (OPEN + frame(WINDOW_UPDATE, 0, 0, bytes(4)), 1),
        (OPEN + frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 2**31 - 1)), 3),
        (OPEN + frame(WINDOW_UPDATE, 0, 9, struct.pack(">L", 1)), 1),
        (OPEN + frame(RST_STREAM, 0, 9, bytes(4)), 1),
        (OPEN + frame(RST_STREAM, 0, 0, bytes(4)), 1),
        (OPEN + frame(DATA, 0, 1, b"x"), 1),
        (OPEN + frame(DATA, 0, 0, b"x"), 1),
        (OPEN + frame(PUSH_PROMISE, 4, 1, bytes(4)), 1),
        (OPEN + frame(CONTINUATION, 4, 1, BLOCK), 1),
        (OPEN + frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), 1),
        (OPEN + frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 4, 3, b""), 1),
        (OPEN + frame(HEADERS, 4, 2, BLOCK), 1),
        (OPEN + frame(HEADERS, 4, 0, BLOCK), 1),
        (OPEN + frame(HEADERS, 0x2C, 1, b""), 1),
        (OPEN + frame(HEADERS, 0x24, 1, b"123"), 6),
        (OPEN + frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), 9),
        (OPEN + frame(HEADERS, 4, 1, hpack.Encoder().encode([(f"x-{n}", "y" * 1000) for n in range(40)])[:16_000]), 9),
        (OPEN + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b""), 11),
        (OPEN + frame(HEADERS, 0, 1, bytes(16_384)) + 4 * frame(CONTINUATION, 0, 1, bytes(16_384)), 11),
        (OPEN + frame(HEADERS, 4, 1, BLOCK) + frame(DATA, 8, 1, b"\x09tooshort"), 1),
        (OPEN + frame(HEADERS, 4, 1, BLOCK) + frame(HEADERS, 4, 1, BLOCK), 1),
        (OPEN + frame(HEADERS, 5, 1, BLOCK), None),  # no request in a call that takes one: a status, no violation
        (
            OPEN + frame(HEADERS, 4, 1, BLOCK) + (STREAM_WINDOW // 16_384 + 1) * frame(DATA, 0, 1, b"\x01" * 16_384),
            None,
        ),
        # bytes of refused requests, more than the connection's window: they are paid for
        (
            OPEN
            + b"".join(frame(HEADERS, 4, n, NOWHERE) + 32 * frame(DATA, 0, n, bytes(16_384)) for n in range(1, 129, 2)),
            None,
        ),
        (OPEN + struct.pack(">BHBBL", 1, 0, DATA, 0, 1) + bytes(100), 6),
        (OPEN + frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 4, 1), None),
        (OPEN + frame(HEADERS, 4, 1, BLOCK) + 65 * frame(DATA, 0, 1, bytes(5 * 3276)), 3),  # empty messages without end
        (OPEN + frame(77, 255, 12345, b"unknown"), None),
        (OPEN + frame(PRIORITY, 0, 1, bytes(5)), None),
        (OPEN + frame(GOAWAY, 0, 0, bytes(8)), None),
    ],
)
async def test_violations_end_the_connection(echo: Echo, data: bytes, code: int | None) -> None:
    said = await raw(echo, data)
    codes = [struct.unpack(">L", payload[4:8])[0] for kind, _, _, payload in said if kind == GOAWAY]
    assert codes == ([] if code is None else [code])


async def test_a_peer_that_asks_and_takes_nothing(echo: Echo) -> None:
    _, writer = await asyncio.open_unix_connection(echo.path, limit=1)
    pings = frame(PING, 0, 0, bytes(8)) * 1000

    async def ask() -> None:
        writer.write(OPEN)
        for _ in range(5000):
            writer.write(pings)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(ask(), 10)
    assert not echo.server._connections
    writer.close()


KINDS = st.integers(0, 10)
FRAMES = st.lists(
    st.builds(
        frame,
        KINDS,
        st.integers(0, 255),
        st.sampled_from([0, 1, 1, 1, 2, 3, 5, 7, 2**31, 2**31 + 1]),
        st.binary(max_size=40)
        | st.sampled_from([BLOCK, BLOCK[:9], message(b"x"), message(bytes(100)), bytes(4), bytes(8)]),
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(FRAMES, st.integers(1, 400))
def test_no_bytes_break_the_server(parts: list[bytes], step: int) -> None:
    """It may end the connection. It logs nothing, and answers others."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        server = Server(1 << 20)
        connection = server._connection()  # without a socket: an example takes a millisecond
        transport = Sink()
        connection.connection_made(transport)
        data = OPEN + b"".join(parts)
        for start in range(0, len(data), step):
            if not transport.closed:
                connection.data_received(data[start : start + step])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert not faults
        assert not server._connections
        assert not server._calls
        frames(b"".join(transport.written))

    asyncio.run(scenario())


class Sink(asyncio.Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It holds any number."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True
