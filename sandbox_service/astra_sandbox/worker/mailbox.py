"""A mailbox: memory that one session shares with the server, for replies that cost neither of them a system call.

The session writes its reply and, last, the nonce of the call; the server looks for the nonce of the call under way.
Where a processor reorders what was written, the checksum shows it, and the reply is found at a later look. The server
believes nothing in it but what it has copied and checked, as it does with frames.
"""

import binascii
import mmap
import struct

from astra_sandbox.worker.frames import KINDS, FrameError, Kind

SIZE = max(1 << 13, mmap.PAGESIZE)  # bytes; a multiple of the page size
_NONCE_SIZE = 8
_REST = struct.Struct("<IIB")  # length of the body, checksum of kind and body, kind
_HEAD = _NONCE_SIZE + _REST.size
LONGEST = SIZE - _HEAD  # bytes of a body; longer ones go in frames

_checksum = binascii.crc32


class Mailbox:
    """One end of a mailbox. `memory`: SIZE bytes, zero at first."""

    def __init__(self, memory: "memoryview | mmap.mmap") -> None:
        self._memory = memoryview(memory)
        self._nonce = self._memory[:_NONCE_SIZE].cast("Q")

    def put(self, nonce: int, kind: Kind, body: bytes) -> bool:
        """Leaves a reply in place of the last one; False, and nothing is left, where it is too long."""
        if len(body) > LONGEST:
            return False
        _REST.pack_into(self._memory, _NONCE_SIZE, len(body), _checksum(body, kind), kind)
        self._memory[_HEAD : _HEAD + len(body)] = body
        self._nonce[0] = nonce
        return True

    def holds(self, nonce: int) -> bool:
        """Whether a reply to that call was left."""
        return self._nonce[0] == nonce

    def take(self) -> tuple[Kind, bytes] | None:
        """The reply; None while it is not whole. Raises FrameError where its kind is none."""
        length, checksum, kind = _REST.unpack_from(self._memory, _NONCE_SIZE)
        body = bytes(self._memory[_HEAD : _HEAD + min(length, LONGEST)])
        if len(body) != length or _checksum(body, kind) != checksum:
            return None
        if kind >= len(KINDS):
            raise FrameError(f"a reply of unknown kind {kind}")
        return KINDS[kind], body
