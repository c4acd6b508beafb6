"""One connection of a client to one server: unary calls for sessions, one stream for all tool calls."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import grpc

from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox.wire import CHANNEL_OPTIONS

_OPTIONS: list[tuple[str, int]] = [
    *CHANNEL_OPTIONS,
    ("grpc.enable_http_proxy", 0),  # http_proxy and its like are for the internet, not for sandboxes
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a restarted server is found again soon
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class ClientTls:
    """A client's certificate chain and key, and the authority of the servers, as PEM."""

    certificate: bytes
    key: bytes
    authority: bytes
    server_name: str | None = None  # the name in the servers' certificates, where it is not their address


class ServerError(Exception):
    """A status that a server, or the way to it, gave instead of an answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


_Answer = TypeVar("_Answer")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Link:
    """A connection to one server. Belongs to the event loop on which it was made."""

    def __init__(self, address: str, tls: ClientTls | None) -> None:
        self.address = address
        self.open_sessions = 0  # opened over this link and not closed
        options: list[tuple[str, Any]] = [*_OPTIONS]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(_target(address), options)
        else:
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
            self._channel = grpc.aio.secure_channel(_target(address), credentials, options)
        self._stub = stubs.SandboxServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._stream: _Stream | None = None

    async def put(self, request: pb.PutToolsetRequest) -> str:
        """Stores a toolset; returns its digest. Raises ServerError, as all these do."""
        response: pb.PutToolsetResponse = await _unary(self._stub.PutToolset, request)
        return response.digest

    async def open(self, request: pb.OpenSessionsRequest) -> list[str]:
        """Opens sessions; returns their ids."""
        return list((await _unary(self._stub.OpenSessions, request, 60.0)).session_ids)

    async def call(self, request: pb.CallToolRequest, timeout: float) -> pb.CallToolResponse:
        """Runs one call over the stream; UNAVAILABLE if no answer comes in `timeout` seconds."""
        stream = self._stream
        if stream is None or stream.broken:
            stream = self._stream = _Stream(self._stub)
        response = await stream.call(request, timeout)
        if response.HasField("failure"):
            raise ServerError(_CODES.get(response.failure.code, grpc.StatusCode.UNKNOWN), response.failure.message)
        return response

    async def close_sessions(self, ids: list[str]) -> None:
        """Frees sessions."""
        await _unary(self._stub.CloseSessions, pb.CloseSessionsRequest(session_ids=ids), 10.0)

    async def status(self) -> pb.GetStatusResponse:
        """What the server says of itself."""
        response: pb.GetStatusResponse = await _unary(self._stub.GetStatus, pb.GetStatusRequest(), 10.0)
        return response

    def drop_stream(self) -> None:
        """Breaks the stream, as a network does; the next call makes another."""
        if self._stream is not None:
            self._stream.cancel()

    async def close(self) -> None:
        """Ends the stream and the channel."""
        if self._stream is not None:
            await self._stream.close()
        await self._channel.close()


def _target(address: str) -> str:
    """An address as gRPC takes it: a URI, in which `#`, `?` and `%` of a socket's path would mean something else."""
    return f"unix:{quote(address[5:])}" if address.startswith("unix:") else address


class _Stream:
    """A Rollout stream: many calls under way at once, answers matched by (session_id, call_id)."""

    def __init__(self, stub: Any) -> None:
        self.broken = False
        self._call = stub.Rollout()
        self._waiting: dict[tuple[str, str], asyncio.Future[pb.CallToolResponse]] = {}
        self._unsent: list[pb.CallToolRequest] = []
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]

    async def call(self, request: pb.CallToolRequest, timeout: float) -> pb.CallToolResponse:
        """Sends one call and waits for its answer."""
        key = (request.session_id, request.call_id)
        future: asyncio.Future[pb.CallToolResponse] = self._loop.create_future()
        self._waiting[key] = future
        timer = self._loop.call_later(timeout, self._expire, future)
        self._unsent.append(request)
        self._wake.set()
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(key, None)

    def cancel(self) -> None:
        """Ends the stream at once; the calls under way fail with UNAVAILABLE."""
        self._call.cancel()
        self._fail("the connection broke")

    async def close(self) -> None:
        """Cancels what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._call.cancel()
        self._fail("the stream was closed")

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                future = self._waiting.get((response.session_id, response.call_id))
                if future is not None and not future.done():
                    future.set_result(response)
            self._fail("the server ended the stream")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._fail(_details(error))
        except asyncio.CancelledError:  # of the call, by `cancel`, or of this task, by `close`
            self._fail("the stream was cancelled")
            raise

    async def _write(self) -> None:
        try:
            while not self.broken:
                await self._wake.wait()
                self._wake.clear()
                requests, self._unsent = self._unsent, []
                for request in requests:
                    await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._fail(_details(error))

    def _expire(self, future: "asyncio.Future[pb.CallToolResponse]") -> None:
        if not future.done():
            future.set_exception(ServerError(grpc.StatusCode.UNAVAILABLE, "the server does not answer"))

    def _fail(self, reason: str) -> None:
        self.broken = True
        self._wake.set()  # the writer ends
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ServerError(grpc.StatusCode.UNAVAILABLE, reason))


async def _unary(method: Callable[..., Awaitable[_Answer]], request: Any, timeout: float = 30.0) -> _Answer:
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise ServerError(error.code(), _details(error)) from None


def _details(error: Exception) -> str:
    return str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)
