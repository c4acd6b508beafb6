"""The server's end of zygotes: starting them in the strongest containment that works, ordering templates."""

import base64
import contextlib
import fcntl
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
from pathlib import Path
from typing import Any, Literal

from astra_sandbox.limits import MAXIMUM
from astra_sandbox.server import containment, seccomp

Containment = Literal["auto", "namespaces", "process"]

_KINDS: dict[str, tuple[str, ...]] = {
    "auto": ("namespaces", "jail", "process"),
    "namespaces": ("namespaces", "jail"),
    "process": ("process",),
}
_MEANING = {"namespaces": "bubblewrap", "jail": "user namespace with a root folder of its own", "process": "process"}
_PREFIX, _LOCK = "astra-sandbox-", "lock"
MAX_VARIANT = 7
_CLOCK_STEP = 37 * 86400 + 12345.678  # seconds between the clocks of two variants
_START_SECONDS = 60.0  # on a node that is very busy
_MAX_MESSAGE = 1 << 16
_CREDENTIALS = struct.Struct("3i")


class ZygoteError(Exception):
    """A zygote did not start; the message says why."""


@dataclass
class Nursery:
    """What zygotes of one server share: the wanted containment, seccomp programs, a folder for private directories."""

    wanted: Containment = "auto"
    library: Path | None = None  # Python's library as an archive, where it need not be written first
    missing: list[str] = field(default_factory=list)  # measures that this machine lacks, for people

    def __post_init__(self) -> None:
        self._scratch: str | None = None
        self._kinds = _KINDS[self.wanted]
        try:
            self.filters = seccomp.filters()
        except (ImportError, OSError, RuntimeError) as error:
            self.filters = (b"", b"")
            self.missing.append(f"no seccomp filter: {error}")

    def launch(self, variant: int) -> "Zygote":
        """Starts a zygote, in namespaces if wanted and possible. Blocks for about 0.1 s. Raises ZygoteError."""
        kinds: dict[str, Callable[[int], containment.Placement]] = {
            "namespaces": lambda fd: containment.namespaces(fd, variant),
            "jail": lambda fd: containment.jail(fd, variant, self._scratch_folder(), self.library),
            "process": lambda fd: containment.process(fd, variant, self._scratch_folder()),
        }
        failures = []
        for kind in list(self._kinds):
            try:
                zygote = Zygote(variant, kinds[kind], self.filters)
            except (ZygoteError, OSError) as error:
                failures.append(f"no {_MEANING[kind]}: {error}")
                continue
            self.missing += failures
            self._kinds = (kind,)  # the next ones get the same
            return zygote
        raise ZygoteError("; ".join(failures))

    def close(self) -> None:
        """Removes what sessions left; in namespaces nothing is left."""
        if self._scratch is None:
            return
        remove_tree(self._scratch)
        os.close(self._lock)

    @property
    def visible_scratch(self) -> str | None:
        """Where this process sees the private directories, if it does: not in file systems that templates have."""
        if self._scratch is None or self._kinds == ("namespaces",):
            return None
        return os.path.join(self._scratch, "root", "scratch") if self._kinds == ("jail",) else self._scratch

    def _scratch_folder(self) -> str:
        if self._scratch is None:
            _remove_abandoned()
            self._scratch = tempfile.mkdtemp(prefix=_PREFIX)
            self._lock = os.open(os.path.join(self._scratch, _LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # while this process lives
            os.chmod(self._scratch, 0o1333)  # its folders have unguessable names, and nobody can list them
        return self._scratch


def _remove_abandoned() -> None:
    """Removes the folders of servers that were killed: their lock is free."""
    for entry in list(os.scandir(tempfile.gettempdir())):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # not ours, in use, or just removed by another
            lock = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(entry.path)
            finally:
                os.close(lock)


def remove_tree(top: str) -> None:
    """Removes a tree whose folders may not be listed, from the top: each is opened before it is entered.

    A lock goes last: without it nobody would finish what was interrupted.
    """
    for folder, _, _ in os.walk(top):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry, 0o700)
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(top)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(top, ignore_errors=True)


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
            "enclose": self.placement.enclose,
            "jail": self.placement.jail,
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
        told = json.loads(message)
        self.pid = pid
        self.namespaces: list[str] = told["namespaces"]  # entered by itself
        self.own: list[str] = told["own"]  # that each of its templates enters
        self._control.setblocking(False)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def order(self, order: dict[str, Any], source: str) -> socket.socket:
        """Has a template forked; returns the server's end of its socket. Raises OSError if the zygote is gone."""
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
