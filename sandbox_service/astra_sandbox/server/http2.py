"""HTTP/2 (RFC 9113), as much of it as a server of gRPC calls needs, in few system calls.

A connection writes at once all that one turn of the event loop gave it, whatever stream it belongs to; gRPC's own
asyncio server makes about ten system calls a message. What a peer may make this side keep is bounded: bytes of requests
that nobody has read, header fields, streams, and answers that it does not take.
"""

import asyncio
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Protocol, cast

import hpack

Headers = Mapping[bytes, bytes]

STREAM_WINDOW = 1 << 20  # bytes of one stream that may wait to be read
_CONNECTION_WINDOW = 16 << 20
_FRAME_BYTES = 16_384  # the largest frame that is taken, and sent: the protocol's default
_HEADER_LIST_BYTES = 16_384
_HEADER_BLOCK_BYTES = 4 * _HEADER_LIST_BYTES
_STREAMS = 8_192
_KNOWN_BLOCKS = 256
_UNTAKEN_REPLIES = 10_000  # to control frames, by a peer that takes nothing
_BUFFERED_BYTES = 1 << 20  # of answers, before those who write them wait
_PREFACE_SECONDS = 20.0
_FAREWELL_SECONDS = 1.0  # to say to a peer why its connection ends

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT_WINDOW = 65_535
_MOST_WINDOW = 2**31 - 1
_HEADER = struct.Struct(">BHBBL")  # length (one byte and two), type, flags, stream
_LONG = struct.Struct(">L")
_SETTING = struct.Struct(">HL")
_FORGET_TABLE = b"\x20"  # HPACK: this side's dynamic table has no entries, and never will


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class _Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_DATA, _CONTINUATION = 0, 9  # compared for each frame: plain numbers are faster
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_SIZES = {_Kind.PRIORITY: 5, _Kind.RST_STREAM: 4, _Kind.PING: 8, _Kind.WINDOW_UPDATE: 4}


class _Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class _Violation(Exception):
    """The peer broke the protocol: its connection ends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Receiver(Protocol):
    """What takes the body of a request."""

    def data(self, chunk: bytes) -> None:
        """The next bytes. They count against the window of the stream until `Stream.consumed`."""

    def end(self) -> None:
        """The body is whole."""

    def cancelled(self) -> None:
        """The peer is gone, or wants no answer any more."""


Accept = Callable[["Stream", Headers], Receiver]


def field(name: bytes, value: bytes) -> bytes:
    """A header field as HPACK writes it without a table (RFC 7541, section 6.2.2)."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    if number < 0x7F:
        return bytes((number,))
    number -= 0x7F
    encoded = bytearray((0x7F,))
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


class Stream:
    """One request and its answer."""

    __slots__ = (
        "_blocked",
        "_connection",
        "_over",
        "_taken",
        "_trailers",
        "_unsent",
        "ended",
        "id",
        "receiver",
        "room",
        "unread",
        "window",
    )

    def __init__(self, connection: "Connection", number: int, room: int) -> None:
        self.id = number
        self.receiver: Receiver | None = None
        self.ended = False  # by the peer: its request is whole
        self.window = STREAM_WINDOW  # bytes that the peer may send
        self.room = room  # bytes that it is ready to take
        self._connection = connection
        self._taken = 0  # bytes that were read since the peer was last told
        self.unread = 0
        self._unsent = bytearray()
        self._trailers: bytes | None = None  # behind what is unsent
        self._blocked: asyncio.Future[None] | None = None
        self._over = False

    def send_headers(self, block: bytes) -> None:
        """Begins the answer."""
        if not self._over:
            self._connection.send_headers(self.id, block, 0)

    def send_data(self, payload: bytes) -> None:
        """Sends bytes of the answer, or keeps them until the peer has room: see `drained`."""
        if self._over:
            return
        size, connection = len(payload), self._connection
        if size <= self.room and size <= connection.room and size <= _FRAME_BYTES and not self._unsent:
            self.room -= size
            connection.room -= size
            connection.send(_HEADER.pack(0, size, _DATA, 0, self.id) + payload)
        else:
            self._unsent += payload
            self.send_unsent()

    def end(self, trailers: bytes) -> None:
        """Ends the answer, behind what is not sent yet."""
        if self._unsent:
            self._trailers = trailers
        elif not self._over:
            self._connection.send_headers(self.id, trailers, _END_STREAM)
            if not self.ended:  # the rest of the request is not wanted
                self.reset(ErrorCode.NO_ERROR)
            else:
                self.leave()

    def reset(self, code: ErrorCode) -> None:
        """Ends the stream now, whatever is missing on either side."""
        if not self._over:
            self._connection.send(_frame(_Kind.RST_STREAM, 0, self.id, _LONG.pack(code)))
            self.leave()

    def leave(self) -> None:
        """Nothing is sent or taken any more."""
        if not self._over:
            self._over = True
            self._unsent.clear()
            self._unblock()
            self._connection.consumed(self.unread)
            self._connection.forget(self)

    def consumed(self, size: int) -> None:
        """Bytes of the request were read: the peer may send as many more."""
        if self._over:
            return
        self.unread -= size
        self._connection.consumed(size)
        self._taken += size
        if self._taken >= STREAM_WINDOW // 2 and not self.ended:
            self._connection.send(_frame(_Kind.WINDOW_UPDATE, 0, self.id, _LONG.pack(self._taken)))
            self.window += self._taken
            self._taken = 0

    @property
    def blocked(self) -> bool:
        """Whether bytes wait for the peer."""
        return bool(self._unsent)

    async def drained(self) -> None:
        """Waits until what was sent is on its way, or the stream is over."""
        if self._unsent:
            self._blocked = asyncio.get_running_loop().create_future()
            await self._blocked

    def send_unsent(self) -> None:
        """Sends as much as the peer has room for."""
        connection = self._connection
        while self._unsent:
            size = min(len(self._unsent), self.room, connection.room, _FRAME_BYTES)
            if size <= 0 or connection.paused:
                connection.waiting[self] = None
                return
            self.room -= size
            connection.room -= size
            connection.send(_frame(_DATA, 0, self.id, bytes(self._unsent[:size])))
            del self._unsent[:size]
        connection.waiting.pop(self, None)
        self._unblock()
        if self._trailers is not None:
            self.end(self._trailers)

    def _unblock(self) -> None:
        if self._blocked is not None and not self._blocked.done():
            self._blocked.set_result(None)


class Connection(asyncio.Protocol):
    """One client. `accept` answers each request, `on_open` and `on_lost` hear of the connection itself."""

    def __init__(
        self, accept: Accept, on_open: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]
    ) -> None:
        self.room = _DEFAULT_WINDOW  # bytes that the peer is ready to take, of all streams
        self.paused = False  # it takes less than it is sent
        self.waiting: dict[Stream, None] = {}  # in order, those with something unsent
        self._accept, self._on_open, self._on_lost = accept, on_open, on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._hasty: asyncio.TimerHandle | None = None
        self._out: list[bytes] = []
        self._rest = b""
        self._greeted = self._settled = self._leaving = False
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._stream_room = _DEFAULT_WINDOW
        self._window = _CONNECTION_WINDOW
        self._taken = 0
        self._replies = 0
        self._decoder = hpack.Decoder(max_header_list_size=_HEADER_LIST_BYTES)
        self._known: dict[bytes, Headers] = {}  # blocks that mean this while the decoder's table stands as it does
        self._table_note = _FORGET_TABLE
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, what came of its header block

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the peer."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's have its methods, not its type
        transport.set_write_buffer_limits(high=_BUFFERED_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        settings = {
            _Setting.MAX_CONCURRENT_STREAMS: _STREAMS,
            _Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            _Setting.MAX_HEADER_LIST_SIZE: _HEADER_LIST_BYTES,
        }
        self.send(_frame(_Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings.items())))
        self.send(_frame(_Kind.WINDOW_UPDATE, 0, 0, _LONG.pack(_CONNECTION_WINDOW - _DEFAULT_WINDOW)))
        self._hasty = self._loop.call_later(_PREFACE_SECONDS, transport.abort)
        self._on_open(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Cancels what is under way."""
        if self._hasty:
            self._hasty.cancel()
        self._transport = None
        for stream in list(self._streams.values()):
            self._cancel(stream)
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The peer takes less than it is sent."""
        self.paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.paused = False
        self._replies = 0
        self._send_waiting()

    def data_received(self, data: bytes) -> None:
        """Handles each whole frame."""
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._take_frames(data) :]
        except _Violation as error:
            self._fail(error.code, str(error))
        except hpack.HPACKError as error:
            self._fail(ErrorCode.COMPRESSION_ERROR, str(error))

    def send(self, frame: bytes) -> None:
        """Adds a frame to what is written at the end of this turn of the event loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def send_headers(self, stream: int, block: bytes, flags: int) -> None:
        """Sends a block of header fields that `field` wrote; at most a frame long."""
        if self._table_note:
            block, self._table_note = self._table_note + block, b""
        self.send(_frame(_Kind.HEADERS, flags | _END_HEADERS, stream, block))

    def consumed(self, size: int) -> None:
        """Bytes of some request were read."""
        self._taken += size
        if self._taken >= _CONNECTION_WINDOW // 2:
            self.send(_frame(_Kind.WINDOW_UPDATE, 0, 0, _LONG.pack(self._taken)))
            self._window += self._taken
            self._taken = 0

    def forget(self, stream: Stream) -> None:
        """The stream is over."""
        self._streams.pop(stream.id, None)
        self.waiting.pop(stream, None)
        if self._leaving and not self._streams:
            self.close()

    def leave(self) -> None:
        """Takes no more requests, and closes when the last one is answered."""
        if not self._leaving:
            self._leaving = True
            self._go_away(ErrorCode.NO_ERROR, "the server stops")
            if not self._streams:
                self.close()

    def close(self) -> None:
        """Closes once all that was sent is written."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._out:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(b"".join(self._out))
            self._out.clear()

    def _fail(self, code: ErrorCode, reason: str) -> None:
        self._rest = b""
        self._leaving = True
        self._go_away(code, reason)
        self.close()
        self._loop.call_later(_FAREWELL_SECONDS, self.abort)  # it may take nothing any more
        for stream in list(self._streams.values()):
            self._cancel(stream)

    def _go_away(self, code: ErrorCode, reason: str) -> None:
        self.send(_frame(_Kind.GOAWAY, 0, 0, _LONG.pack(self._last) + _LONG.pack(code) + reason.encode()[:200]))

    def _cancel(self, stream: Stream) -> None:
        stream.leave()
        if stream.receiver is not None:
            stream.receiver.cancelled()

    def _reply(self, frame: bytes) -> None:
        """Answers a control frame."""
        if self.paused:
            self._replies += 1
            if self._replies > _UNTAKEN_REPLIES:
                raise _Violation(ErrorCode.ENHANCE_YOUR_CALM, "control frames without end, and their answers not taken")
        self.send(frame)

    def _take_frames(self, data: bytes) -> int:
        """Handles the whole frames at the start of `data`; returns their length."""
        position = 0
        if not self._greeted:
            if not _PREFACE.startswith(data[: len(_PREFACE)]):
                raise _Violation(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(data) < len(_PREFACE):
                return 0
            position = len(_PREFACE)
            self._greeted = True
        while len(data) - position >= 9 and self._transport is not None:
            high, low, kind, flags, number = _HEADER.unpack_from(data, position)
            start = position + 9
            end = start + (high << 16 | low)
            if end - start > _FRAME_BYTES:
                raise _Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {end - start} bytes")
            if end > len(data):
                break
            position = end
            number &= 0x7FFFFFFF
            if self._block is not None and (kind != _CONTINUATION or number != self._block[0]):
                raise _Violation(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            if kind == _DATA and self._settled:
                self._on_data(number, flags, data[start:end])
            else:
                self._on_control(kind, flags, number, data[start:end])
        return position

    def _on_data(self, number: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise _Violation(ErrorCode.FLOW_CONTROL_ERROR, "more bytes than the connection's window")
        stream = self._streams.get(number)
        if stream is None:
            self._check_was_open(number)
            self.consumed(size)
            return
        if stream.ended:
            raise _Violation(ErrorCode.STREAM_CLOSED, f"more bytes of stream {number}, which was ended")
        stream.window -= size
        if stream.window < 0:
            raise _Violation(ErrorCode.FLOW_CONTROL_ERROR, f"more bytes than the window of stream {number}")
        stream.unread += size
        if flags & _PADDED:
            payload = _unpadded(payload)
            stream.consumed(size - len(payload))
        receiver = stream.receiver
        assert receiver is not None
        if payload:
            receiver.data(payload)
        if flags & _END_STREAM:
            stream.ended = True
            receiver.end()

    def _on_control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if not self._settled and kind != _Kind.SETTINGS:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind in _SIZES and len(payload) != _SIZES[_Kind(kind)]:
            raise _Violation(ErrorCode.FRAME_SIZE_ERROR, f"a {_Kind(kind).name} frame of {len(payload)} bytes")
        if kind in (_Kind.SETTINGS, _Kind.PING, _Kind.GOAWAY) and number:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, f"a {_Kind(kind).name} frame of a stream")
        if kind == _Kind.HEADERS:
            self._on_headers(flags, number, payload)
        elif kind == _Kind.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == _Kind.WINDOW_UPDATE:
            self._on_window_update(number, _LONG.unpack(payload)[0] & _MOST_WINDOW)
        elif kind == _Kind.RST_STREAM:
            self._check_was_open(number)
            if number in self._streams:
                self._cancel(self._streams[number])
        elif kind == _Kind.PING and not flags & _ACK:
            self._reply(_frame(_Kind.PING, _ACK, 0, payload))
        elif kind == _Kind.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == _Kind.PUSH_PROMISE:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, "a client that pushes")

    def _check_was_open(self, number: int) -> None:
        if not 0 < number <= self._last or not number & 1:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, f"stream {number} was never opened")

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if len(payload) % 6 or (flags & _ACK and payload):
            raise _Violation(ErrorCode.FRAME_SIZE_ERROR, f"a SETTINGS frame of {len(payload)} bytes")
        if not self._settled and self._hasty:
            self._hasty.cancel()
        self._settled = True
        if flags & _ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == _Setting.INITIAL_WINDOW_SIZE:
                if value > _MOST_WINDOW:
                    raise _Violation(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                for stream in self._streams.values():
                    stream.room += value - self._stream_room
                self._stream_room = value
            elif name == _Setting.HEADER_TABLE_SIZE:
                self._table_note = _FORGET_TABLE
            elif name == _Setting.MAX_FRAME_SIZE and not _FRAME_BYTES <= value < 1 << 24:
                raise _Violation(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
        self._reply(_frame(_Kind.SETTINGS, _ACK, 0))
        self._send_waiting()

    def _on_window_update(self, number: int, more: int) -> None:
        if not more:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, "a window is opened by nothing")
        if not number:
            self.room = _widened(self.room, more)
            self._send_waiting()
            return
        self._check_was_open(number)
        stream = self._streams.get(number)
        if stream is not None:
            stream.room = _widened(stream.room, more)
            if stream.blocked:
                stream.send_unsent()

    def _send_waiting(self) -> None:
        for stream in list(self.waiting):
            stream.send_unsent()

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _WITH_PRIORITY:
            if len(payload) < 5:
                raise _Violation(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame without its priority")
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._on_block(flags, number, payload)
        else:
            self._block = (number, flags, bytearray(payload))

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        number, first, block = self._block
        block += payload
        if len(block) > _HEADER_BLOCK_BYTES or not (payload or flags & _END_HEADERS):
            raise _Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & _END_HEADERS:
            self._block = None
            self._on_block(first, number, bytes(block))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        headers = self._read_headers(block)  # of streams that are over too: the table must stay the peer's
        stream = self._streams.get(number)
        if stream is not None:  # trailers, in which gRPC's clients say nothing
            if stream.ended or not flags & _END_STREAM:
                raise _Violation(ErrorCode.PROTOCOL_ERROR, f"a second request in stream {number}")
            stream.ended = True
            assert stream.receiver is not None
            stream.receiver.end()
            return
        if number <= self._last:
            self._check_was_open(number)
            return
        if not number & 1:
            raise _Violation(ErrorCode.PROTOCOL_ERROR, f"a client that opens stream {number}")
        if self._leaving or len(self._streams) >= _STREAMS:
            self._last = self._last if self._leaving else number
            self._reply(_frame(_Kind.RST_STREAM, 0, number, _LONG.pack(ErrorCode.REFUSED_STREAM)))
            return
        self._last = number
        stream = self._streams[number] = Stream(self, number, self._stream_room)
        stream.ended = bool(flags & _END_STREAM)
        stream.receiver = self._accept(stream, headers)
        if stream.ended:
            stream.receiver.end()

    def _read_headers(self, block: bytes) -> Headers:
        headers = self._known.get(block)
        if headers is None:
            headers = dict(self._decoder.decode(block, raw=True))
            if not _only_indexes(block):  # the table may have changed, and with it what a block means
                self._known.clear()
            elif len(self._known) < _KNOWN_BLOCKS:
                self._known[block] = headers
        return headers


def _only_indexes(block: bytes) -> bool:
    """Whether each byte stands for one whole field of a table (RFC 7541, section 6.1)."""
    return min(block, default=0) > 0x80 and max(block) < 0xFF


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _widened(room: int, more: int) -> int:
    if room + more > _MOST_WINDOW:
        raise _Violation(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {room + more} bytes")
    return room + more
