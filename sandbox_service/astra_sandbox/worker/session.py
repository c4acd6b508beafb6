"""A session: runs the calls that its socket brings, one at a time, until the socket closes.

Replies are deterministic: no addresses, no traceback, a bounded message.
"""

import json
import os
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from astra_sandbox.worker.frames import FrameReader, Kind, encode
from astra_sandbox.worker.mailbox import Mailbox

MAX_INTEGER = 2**53
MAX_DEPTH = 200
WRITTEN_OUT = 1e21  # below it a whole float has the canonical form of an integer
MAX_MESSAGE = 1000
MAX_CALL_BYTES = 4 << 20
_CHUNK = 1 << 16  # bytes read at once: a larger buffer costs more than it saves

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode_json = json.JSONDecoder().decode

Reply = tuple[Kind, bytes]


class NotJsonError(Exception):
    """A tool returned what JSON cannot hold."""


def serve(
    socket_fd: int,
    mailbox: Mailbox | None,
    tools: Mapping[str, Callable[..., Any]],
    *,
    seed: int | None,
    output_bytes: int,
) -> None:
    """Answers calls until the peer closes. `seed`: reseed `random` before every call (a stateless toolset)."""
    reader = FrameReader(MAX_CALL_BYTES)
    while data := os.read(socket_fd, _CHUNK):
        for nonce, asked, body in reader.feed(data):
            if seed is not None:
                random.seed(seed)
            name, _, arguments = body.partition(b"\n")
            kind, reply = run(tools[name.decode()], arguments, output_bytes)
            if mailbox is None or asked is not Kind.QUIET_CALL or not mailbox.put(nonce, kind, reply):
                _write_all(socket_fd, encode(nonce, kind, reply))
            if kind in (Kind.EXITED, Kind.OUT_OF_MEMORY):
                return


def run(tool: Callable[..., Any], arguments: bytes, output_bytes: int) -> Reply:
    """Calls one tool with a JSON object as keyword arguments; whatever happens in it becomes a reply."""
    try:
        result = tool(**_decode_json(arguments.decode()))
        check_json(result)
        encoded = _encode_json(result).encode()
    except MemoryError:
        return Kind.OUT_OF_MEMORY, b"the call needed more memory than the session may use"
    except SystemExit as error:
        return Kind.EXITED, describe(error)
    except NotJsonError as error:
        return Kind.RAISED, f"the tool returned what JSON cannot hold: {error}".encode()
    except BaseException as error:  # the boundary: whatever a tool raises is an observation
        return Kind.RAISED, describe(error)
    if len(encoded) > output_bytes:
        message = f"the result takes {len(encoded)} bytes of JSON; at most {output_bytes} are allowed"
        return Kind.OUTPUT_TOO_LARGE, message.encode()
    return Kind.RESULT, encoded


def describe(error: BaseException) -> bytes:
    """`TypeName: message`, without addresses, at most MAX_MESSAGE characters."""
    name = type(error).__name__
    try:
        text = str(error)[: 4 * MAX_MESSAGE]
    except BaseException:  # a tool's own exception class may raise here too
        text = "(its message cannot be shown)"
    text = _ADDRESS.sub("0x...", f"{name}: {text}" if text else name)
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 3] + "..."
    return text.encode(errors="backslashreplace")


def check_json(value: Any, depth: int = 0) -> None:
    """Raises NotJsonError unless the value has exactly one reading as JSON."""
    if value is None or value is True or value is False:
        return
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise NotJsonError("a string with a lone surrogate") from None
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise NotJsonError("an integer beyond 2^53")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise NotJsonError(f"the number {value}")
        if MAX_INTEGER < abs(value) < WRITTEN_OUT and value.is_integer():
            raise NotJsonError("an integer beyond 2^53")
    elif depth > MAX_DEPTH:
        raise NotJsonError(f"a value nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, list | tuple):
        for item in value:
            check_json(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotJsonError(f"an object key of type {type(key).__name__}")
            check_json(key)
            check_json(item, depth + 1)
    else:
        raise NotJsonError(f"a value of type {type(value).__name__}")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
