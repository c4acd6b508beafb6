"""Serves gRPC's generated servicers on an event loop, over `http2`. It stands in for grpc.aio's server, which makes
about ten system calls a message: under gVisor they are most of what a call takes.

A behaviour gets what grpc.aio would give it: its request, or an async iterator of requests, and a context to read,
write and abort with. What it raises is logged and answered with UNKNOWN; when its client is gone it is cancelled.
Messages are not compressed.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

import grpc

from astra_sandbox.command import Tls
from astra_sandbox.server.http2 import Connection, Headers, Stream, field

_STATUS_200 = b"\x88"  # HPACK's index of `:status: 200`
_BEGIN = _STATUS_200 + field(b"content-type", b"application/grpc") + field(b"grpc-accept-encoding", b"identity")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_DETAILS = 4_000  # characters of a status: clients take no more than 8 KiB of header fields
_BACKLOG = 1024  # connections that wait to be taken
_SILENCE_SECONDS = 60  # of a connection, before the kernel asks whether its peer is there
_CLOSING_SECONDS = 1.0  # for the last answers to be taken

_logger = logging.getLogger(__name__)


class _AbortError(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


@dataclass(frozen=True)
class _Details:
    """What a generated handler is asked with (grpc.HandlerCallDetails)."""

    method: str
    invocation_metadata: tuple[()] = ()


class Call:
    """One call: the context of its behaviour, and the receiver of its request."""

    def __init__(self, server: "Server", stream: Stream, handler: Any) -> None:
        self._server, self._stream, self._handler = server, stream, handler
        self._loop = asyncio.get_running_loop()
        self._messages: deque[bytes] = deque()
        self._part = bytearray()  # of the next message
        self._unpaid = 0  # bytes that the client was not told it may send again
        self._unread = 0  # bytes of whole messages, their lengths included: many may be empty
        self._ended = self._begun = self._over = False
        self._arrival: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, timeout: float | None) -> None:
        """The request begins; its client waits `timeout` seconds for the answer."""
        if timeout is not None:
            self._timer = self._loop.call_later(timeout, self._expire)
        if self._handler.request_streaming:
            self._task = self._loop.create_task(self._run())

    async def read(self) -> Any:
        """The next request, or grpc.aio.EOF."""
        while not self._messages:
            if self._ended:
                return grpc.aio.EOF
            self._arrival = self._loop.create_future()
            await self._arrival
        message = self._messages.popleft()
        self._unread -= 5 + len(message)
        self._pay()
        return self._handler.request_deserializer(message)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def write(self, message: Any) -> None:
        """Sends an answer; waits while the client takes none."""
        self._send(message)
        if self._stream.blocked:
            await self._stream.drained()

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """Ends the call with a status."""
        raise _AbortError(code, details)

    def finish(self, code: grpc.StatusCode, details: str = "") -> None:
        """Ends the call, if it has not ended."""
        if self._over:
            return
        self._leave()
        trailers = _status(code, details)
        self._stream.end(trailers if self._begun else _BEGIN + trailers)

    def data(self, chunk: bytes) -> None:
        """The next bytes of messages, each behind a flag and its length."""
        self._unpaid += len(chunk)
        if not self._part and len(chunk) == 5 + int.from_bytes(chunk[1:5]) and not chunk[0]:
            self._add(chunk[5:])  # a message in a frame of its own, as most are
            return
        self._part += chunk
        while len(self._part) >= 5 and not self._over:
            end = 5 + int.from_bytes(self._part[1:5])
            if self._part[0]:
                self.finish(grpc.StatusCode.UNIMPLEMENTED, "compressed messages are not understood here")
            elif end > 5 + self._server.message_bytes:
                message = f"a message of {end - 5} bytes, {self._server.message_bytes} at most"
                self.finish(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            elif len(self._part) < end:
                break
            else:
                self._add(bytes(self._part[5:end]))
                del self._part[:end]
        self._pay()

    def end(self) -> None:
        """The request is whole."""
        self._ended = True
        self._arrived()
        if self._part:
            self.finish(grpc.StatusCode.INTERNAL, "the last message is not whole")
        elif self._task is None and not self._over:
            if len(self._messages) == 1:
                self._task = self._loop.create_task(self._run())
            else:
                self.finish(grpc.StatusCode.INTERNAL, f"{len(self._messages)} requests in a call that takes one")

    def cancelled(self) -> None:
        """The client is gone, or wants no answer."""
        if not self._over:
            self._leave()

    async def _run(self) -> None:
        handler = self._handler
        try:
            try:
                request = self if handler.request_streaming else await self.read()
            except Exception as error:
                raise _AbortError(grpc.StatusCode.INTERNAL, f"the request cannot be read: {error}") from error
            if handler.response_streaming:
                answers = (handler.stream_stream or handler.unary_stream)(request, self)
                if hasattr(answers, "__aiter__"):
                    async for answer in answers:
                        await self.write(answer)
                else:
                    await answers
            else:
                self._send(await (handler.stream_unary or handler.unary_unary)(request, self))
            self.finish(grpc.StatusCode.OK)
        except _AbortError as error:
            self.finish(error.code, str(error))
        except Exception as error:
            _logger.exception("a call failed")
            self.finish(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")

    def _send(self, message: Any) -> None:
        payload = self._handler.response_serializer(message)
        if self._over:
            return
        if not self._begun:
            self._begun = True
            self._stream.send_headers(_BEGIN)
        self._stream.send_data(b"\x00" + len(payload).to_bytes(4) + payload)

    def _add(self, message: bytes) -> None:
        self._messages.append(message)
        self._unread += 5 + len(message)
        self._arrived()

    def _arrived(self) -> None:
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None

    def _pay(self) -> None:
        """Lets the client send again what was read of it, or belongs to a message that is still coming."""
        due = self._unpaid - self._unread
        if due > 0:
            self._unpaid -= due
            self._stream.consumed(due)

    def _expire(self) -> None:
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "the client's time is over")

    def _leave(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._server.left(self)


class _Refusal:
    """The receiver of a request that was answered already."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def data(self, chunk: bytes) -> None:
        """Nobody reads it."""
        self._stream.consumed(len(chunk))

    def end(self) -> None:
        """Nothing is left to do."""

    def cancelled(self) -> None:
        """Nothing is left to do."""


class Server:
    """Answers calls on the addresses it listens on. Give it to `add_XServicer_to_server` of generated code."""

    def __init__(self, message_bytes: int) -> None:
        self.message_bytes = message_bytes  # the largest request
        self._generic: list[Any] = []
        self._handlers: dict[bytes, Any] = {}
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._calls: set[Call] = set()
        self._idle = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        """Takes a service's methods, as generated code gives them."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """What generated code says once more, for servers that can look methods up without asking."""

    async def listen(self, address: str, tls: Tls | None) -> int:
        """Answers calls to HOST:PORT, or unix:PATH; returns the port. Raises OSError and ssl.SSLError."""
        context = _server_context(tls) if tls else None
        sockets = _unix_sockets(address[5:]) if address.startswith("unix:") else await _tcp_sockets(address)
        loop = asyncio.get_running_loop()
        for bound in sockets:
            start = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
            listener: Any = await start(self._connection, sock=bound, ssl=context, backlog=_BACKLOG)
            self._listeners.append(listener)
        return 0 if address.startswith("unix:") else int(sockets[0].getsockname()[1])

    async def stop(self, grace: float) -> None:
        """Takes no more calls, waits `grace` seconds for those under way, and ends what is left with UNAVAILABLE."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.leave()
        await self._settle(grace)
        for call in list(self._calls):
            call.finish(grpc.StatusCode.UNAVAILABLE, "the server stopped")
        for connection in list(self._connections):
            connection.close()
        await self._settle(_CLOSING_SECONDS)
        for connection in list(self._connections):
            connection.abort()

    def left(self, call: Call) -> None:
        """The call has ended."""
        self._calls.discard(call)
        self._idle.set()

    async def _settle(self, seconds: float) -> None:
        """Waits until no call is under way and no connection is left, or for that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._calls or self._connections:
                    self._idle.clear()
                    await self._idle.wait()

    def _connection(self) -> Connection:
        return Connection(self._accept, self._connections.add, self._lost)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.set()

    def _accept(self, stream: Stream, headers: Headers) -> "Call | _Refusal":
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.end(field(b":status", b"415"))
            return _Refusal(stream)
        timeout = None
        if b"grpc-timeout" in headers:
            found = _TIMEOUT.fullmatch(headers[b"grpc-timeout"])
            if found is None:
                return self._refuse(stream, grpc.StatusCode.INTERNAL, "grpc-timeout is not a time")
            timeout = int(found[1]) * _UNITS[found[2]]
        path = headers.get(b":path", b"")
        handler = self._handlers.get(path) or self._handler(path)
        if handler is None:
            return self._refuse(stream, grpc.StatusCode.UNIMPLEMENTED, "there is no such method here")
        call = Call(self, stream, handler)
        self._calls.add(call)
        call.start(timeout)
        return call

    def _refuse(self, stream: Stream, code: grpc.StatusCode, details: str) -> _Refusal:
        stream.end(_BEGIN + _status(code, details))
        return _Refusal(stream)

    def _handler(self, path: bytes) -> Any:
        details = _Details(path.decode(errors="replace"))
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                self._handlers[path] = handler
                return handler
        return None


def _status(code: grpc.StatusCode, details: str) -> bytes:
    """The header fields that end a call."""
    status = field(b"grpc-status", str(code.value[0]).encode())
    return status + field(b"grpc-message", _percent_encoded(details)) if details else status


def _percent_encoded(details: str) -> bytes:
    """A status message as trailers carry it: printable ASCII but for `%`, the rest in percent escapes."""
    kept = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
    return quote(details[:_DETAILS], safe=kept, errors="replace").encode()[:_DETAILS]


def _server_context(tls: Tls) -> ssl.SSLContext:
    """TLS in which both sides show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=tls.authority.decode())
    context.set_alpn_protocols(["h2"])
    file = os.memfd_create("certificate")  # Python's ssl takes a chain and its key from a file alone
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(tls.key + b"\n" + tls.certificate)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


def _unix_sockets(path: str) -> list[socket.socket]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # left by a server that was killed
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    return [bound]


async def _tcp_sockets(address: str) -> list[socket.socket]:
    """One socket for each address of a host, all on one port."""
    host, _, port_text = address.rpartition(":")
    port = int(port_text)
    found = await asyncio.get_running_loop().getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, place in dict.fromkeys(found):
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what it takes inherits these
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_SECONDS)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind((place[0], port, *place[2:]))
        except OSError as error:  # another address of the host may do
            bound.close()
            failure = error
            continue
        sockets.append(bound)
        port = int(bound.getsockname()[1])
    if failure is not None and not sockets:
        raise failure
    return sockets
