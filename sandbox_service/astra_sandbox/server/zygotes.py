"""The server's end of zygotes: starting them in the strongest containment that works, ordering templates."""

import base64
import contextlib
import fcntl
import json
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from astra_sandbox.limits import MAXIMUM
from astra_sandbox.server import containment, seccomp
from astra_sandbox.server.folders import LOCK, PrivateFolders, overrides_modes, remove_tree
from astra_sandbox.server.processes import receive_with_pid
from astra_sandbox.worker import confine, enclosure

Containment = Literal["auto", "namespaces", "process"]

_KINDS: dict[str, tuple[str, ...]] = {
    "auto": ("namespaces", "jail", "process"),
    "namespaces": ("namespaces", "jail"),
    "process": ("process",),
}
_MEANING = {"namespaces": "bubblewrap", "jail": "user namespace with a root folder of its own", "process": "process"}
_PREFIX = "astra-sandbox-"
MAX_VARIANT = 7
_CLOCK_STEP = 37 * 86400 + 12345.678  # seconds between the clocks of two variants
_WEAK = (
    "no user namespace for the server: a source can write files for its own sessions as it loads, and files without "
    "a name are not counted"
)
_START_SECONDS = 60.0  # on a node that is very busy


class ZygoteError(Exception):
    """A zygote did not start; the message says why."""


@dataclass
class Nursery:
    """What zygotes of one server share: the wanted containment, seccomp programs, private folders (once one runs)."""

    wanted: Containment = "auto"
    library: Path | None = None  # Python's library as an archive, where it need not be written first
    missing: list[str] = field(default_factory=list)  # measures that this machine lacks, for people

    def __post_init__(self) -> None:
        self._folders: PrivateFolders | None = None
        self._scratch: str | None = None
        self._change_user = containment.may_change_user()
        self._kinds = _KINDS[self.wanted]
        if not confine.landlock_version():  # then a jail shows sessions less than bubblewrap does
            self._kinds = tuple(sorted(self._kinds, key=("jail", "namespaces", "process").index))
        try:
            self.filters = seccomp.filters()
        except (ImportError, OSError, RuntimeError) as error:
            self.filters = (b"", b"")
            self.missing.append(f"no seccomp filter: {error}")

    def launch(self, variant: int) -> "Zygote":
        """Starts a zygote, in namespaces if wanted and possible. Blocks for about 0.1 s. Raises ZygoteError."""
        kinds: dict[str, Callable[[int], containment.Placement]] = {
            "namespaces": lambda fd: containment.namespaces(fd, variant, self._change_user, self._scratch_folder()),
            "jail": lambda fd: self._jail(fd, variant),
            "process": lambda fd: containment.process(fd, variant, self._change_user, self._scratch_folder()),
        }
        failures = []
        for kind in list(self._kinds):
            try:
                zygote = Zygote(variant, kinds[kind], self.filters)
            except (ZygoteError, OSError) as error:
                failures.append(f"no {_MEANING[kind]}: {error}")
                continue
            self._kinds = (kind,)  # the next ones get the same
            if self._folders is None:
                self.missing += failures if self._modes_hold() else [*failures, _WEAK]
                scratch = self._scratch_folder()
                user = enclosure.NOBODY if zygote.placement.drop_user else os.geteuid()
                top = os.path.join(scratch, "root", "scratch") if kind == "jail" else scratch
                self._folders = PrivateFolders(top, user)
            return zygote
        raise ZygoteError("; ".join(failures))

    @property
    def folders(self) -> PrivateFolders:
        """Those of templates and sessions."""
        assert self._folders is not None, "no zygote was launched"
        return self._folders

    def unbind_modes(self) -> None:
        """Enters a user namespace in which modes bind sessions and not this process, if it needs one and can have it.

        To be called while this process has one thread.
        """
        if not self._modes_hold():
            _own_user()

    def _modes_hold(self) -> bool:
        return self._change_user or overrides_modes()

    def _jail(self, control_fd: int, variant: int) -> containment.Placement:
        """Sessions in a jail may be this process's user, and Landlock may be missing: modes have to hold them."""
        if not self._modes_hold():
            raise OSError("the kernel gives no user namespace")
        return containment.jail(control_fd, variant, self._change_user, self._scratch_folder(), self.library)

    def close(self) -> None:
        """Removes what sessions left."""
        if self._scratch is None:
            return
        remove_tree(self._scratch)
        os.close(self._lock)
        self._scratch = None

    def _scratch_folder(self) -> str:
        if self._scratch is None:
            _remove_abandoned()
            self._scratch = tempfile.mkdtemp(prefix=_PREFIX)
            self._lock = os.open(os.path.join(self._scratch, LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # while this process lives
            os.chmod(self._scratch, 0o711)
        return self._scratch


def _own_user() -> None:
    """Enters a user namespace, after a child process has seen that modes do not bind it there."""
    with tempfile.TemporaryDirectory() as folder:
        closed = os.path.join(folder, "closed")
        os.mkdir(closed, 0o100)
        child = os.fork()
        if child == 0:
            try:
                enclosure.own_user()
                os.mkdir(os.path.join(closed, "made"))
                os._exit(0)
            finally:
                os._exit(1)
        works = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.chmod(closed, 0o700)
    if works:
        enclosure.own_user()


def _remove_abandoned() -> None:
    """Removes the folders of this user's servers that were killed: their lock is free."""
    for entry in list(os.scandir(tempfile.gettempdir())):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # in use, or just removed by another
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(os.path.join(entry.path, LOCK), os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(entry.path)
            finally:
                os.close(lock)


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
