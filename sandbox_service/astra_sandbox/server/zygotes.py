"""The server's end of zygotes: starting them in the strongest containment that works, ordering templates."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from astra_sandbox.limits import MAXIMUM
from astra_sandbox.server import containment, seccomp

Containment = Literal["auto", "namespaces", "process"]

_TRIED: dict[str, tuple[str, ...]] = {
    "auto": ("namespaces", "entered", "process"),
    "namespaces": ("namespaces", "entered"),
}
MAX_VARIANT = 7
_CLOCK_STEP = 37 * 86400 + 12345.678  # seconds between the clocks of two variants
_START_SECONDS = 20.0
_MAX_MESSAGE = 1 << 16
_CREDENTIALS = struct.Struct("3i")


class ZygoteError(Exception):
    """A zygote did not start; the message says why."""


@dataclass
class Nursery:
    """What zygotes of one server share: the wanted containment, seccomp programs, a folder for private directories."""

    wanted: Containment = "auto"
    missing: list[str] = field(default_factory=list)  # measures that this machine lacks, for people

    def __post_init__(self) -> None:
        self._scratch: str | None = None
        try:
            self.filters = seccomp.filters()
        except (ImportError, OSError, RuntimeError) as error:
            self.filters = (b"", b"")
            self.missing.append(f"no seccomp filter: {error}")

    def launch(self, variant: int) -> "Zygote":
        """Starts a zygote, in namespaces if wanted and possible. Blocks for about 0.1 s. Raises ZygoteError."""
        kinds: dict[str, Callable[[int], containment.Placement]] = {
            "namespaces": lambda fd: containment.namespaces(fd, variant),
            "entered": lambda fd: containment.entered(fd, variant, self._scratch_folder()),
            "process": lambda fd: containment.process(fd, variant, self._scratch_folder()),
        }
        failures = []
        for kind in _TRIED.get(self.wanted, (self.wanted,)):
            try:
                zygote = Zygote(variant, kinds[kind], self.filters)
            except (ZygoteError, OSError) as error:
                failures.append(f"no {kind}: {error}")
                continue
            self.missing += failures
            self.wanted = zygote.placement.name  # type: ignore[assignment]  # the next ones get the same
            return zygote
        raise ZygoteError("; ".join(failures))

    def close(self) -> None:
        """Removes what sessions left; in namespaces nothing is left."""
        if self._scratch is None:
            return
        os.chmod(self._scratch, 0o700)
        for name in os.listdir(self._scratch):
            with contextlib.suppress(OSError):
                os.chmod(os.path.join(self._scratch, name), 0o700)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _scratch_folder(self) -> str:
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="astra-sandbox-")
            os.chmod(self._scratch, 0o1333)  # its folders have unguessable names, and nobody can list them
        return self._scratch


class Zygote:
    """One running zygote. Raises ZygoteError when it does not come up."""

    def __init__(
        self, variant: int, place: Callable[[int], containment.Placement], filters: tuple[bytes, bytes]
    ) -> None:
        self.variant = variant
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.placement = place(theirs.fileno())
            self._process = containment.start(self.placement, theirs.fileno())
        settings = {
            "scratch": self.placement.scratch,
            "scratch_is_new": self.placement.scratch_is_new,
            "own_paths": self.placement.own_paths,
            "read_only": self.placement.read_only,
            "drop_user": self.placement.drop_user,
            "template_filter": base64.b64encode(filters[0]).decode(),
            "session_filter": base64.b64encode(filters[1]).decode(),
            "memory_ceiling": 2 * MAXIMUM.memory_bytes,
            "clock_offset": variant * _CLOCK_STEP,
        }
        self._control.settimeout(_START_SECONDS)
        try:
            self._control.send(json.dumps(settings).encode())
            message, pid = receive_with_pid(self._control)
        except OSError as error:
            message, pid, reason = b"", None, str(error)
        else:
            reason = "it ended at once"
        if not message or pid is None:
            self.close()
            raise ZygoteError(f"{self.placement.name} zygote does not start: {reason}")
        self.pid = pid
        self._control.setblocking(False)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def order(self, order: dict[str, Any], source: str) -> socket.socket:
        """Has a template forked; returns the server's end of its socket. Raises OSError if the zygote is gone."""
        if self.variant:
            order = order | {"subfolders": ["variant", str(self.variant)]}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as file:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.setblocking(False)
            file.write(source.encode())
            file.flush()
            file.seek(0)
            try:
                socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno(), file.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def close(self) -> None:
        """Ends the zygote and, through their sockets or their namespace, all that it forked."""
        self._control.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


def receive_with_pid(sock: socket.socket) -> tuple[bytes, int | None]:
    """One message and the sender's process id, as the kernel translates it into this process's namespace."""
    data, control, _, _ = sock.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(_CREDENTIALS.size))
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
            return data, pid if pid > 0 else None
    return data, None


class ProcessHandle:
    """A process of the untrusted side that can be killed safely: by pidfd, where the kernel has it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except OSError:  # gVisor of 2022 has no pidfd
            self._fd = None

    @property
    def pid(self) -> int:
        return self._pid

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)
        self.forget()

    def kill_group(self) -> None:
        """SIGKILL to the process group that this process leads: to be called while it lives, or as it ends."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self.kill()

    def forget(self) -> None:
        """Frees the handle."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
