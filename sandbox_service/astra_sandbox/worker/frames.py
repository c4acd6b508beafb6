"""Frames on a session's socket: `<body length, nonce, kind>` and a body, in both directions.

The nonce of a reply is that of its call. The server draws it at random for every call, so that a late or forged
reply is never taken for the answer to another call.
"""

import struct
from enum import IntEnum

HEADER = struct.Struct("<IQB")


class Kind(IntEnum):
    """What a frame says. CALL and QUIET_CALL go to the session; everything else comes from it."""

    HELLO = 0  # the session is ready; carries no body
    CALL = 1  # tool name, a newline, the arguments as JSON
    RESULT = 2  # the result as JSON
    RAISED = 3  # the tool raised; a message
    EXITED = 4  # the tool asked the process to end; a message
    OUT_OF_MEMORY = 5
    OUTPUT_TOO_LARGE = 6
    QUIET_CALL = 7  # a CALL whose reply goes to the mailbox, if it fits


KINDS = tuple(Kind)


class FrameError(Exception):
    """The peer broke the protocol: a frame of unknown kind, or longer than agreed."""


def encode(nonce: int, kind: Kind, body: bytes = b"") -> bytes:
    """One frame. `nonce` is below 2^64."""
    return HEADER.pack(len(body), nonce, kind) + body


class FrameReader:
    """Cuts a byte stream into frames, holding at most one incomplete frame of `max_body` bytes."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, Kind, bytes]]:
        """The frames completed by `data`, in order, as (nonce, kind, body).

        Raises FrameError as soon as a header shows a frame that is too long or of unknown kind.
        """
        buffer = self._buffer
        if not buffer and len(data) >= HEADER.size:  # nearly always: one whole frame
            length, nonce, kind = HEADER.unpack_from(data)
            if len(data) == HEADER.size + length and length <= self._max_body and kind < len(KINDS):
                return [(nonce, KINDS[kind], data[HEADER.size :])]
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= HEADER.size:
            length, nonce, kind = HEADER.unpack_from(buffer, start)
            if length > self._max_body:
                raise FrameError(f"a frame of {length} bytes; at most {self._max_body} are allowed")
            if kind >= len(KINDS):
                raise FrameError(f"a frame of unknown kind {kind}")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((nonce, KINDS[kind], bytes(buffer[start + HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames
