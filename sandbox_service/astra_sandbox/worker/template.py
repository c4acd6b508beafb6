"""A template: one toolset, loaded once, from which sessions are forked in a fraction of a millisecond.

It talks to the server over a SEQPACKET socket of its own. In: `{"open": [session, ...], "seed", "limits", ...}` with
one socket a session, then a mailbox each where the server looks for replies. Out: `{"loading": true}`, then
`{"ready": true}` or `{"rejected": message}`, then `{"ended", "status", "cpu"}` for every session that is gone, and
`{"failed": message}` before it gives up. When that socket closes, the template and all its sessions die.

It loads under a system-call filter and a file view of its own; each session adds a stricter one. The server makes the
folders, and nobody else can: a source has none to write in while it loads.
"""

import contextlib
import gc
import json
import mmap
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from astra_sandbox.worker import session
from astra_sandbox.worker.confine import (
    FileView,
    SyscallFilter,
    address_space,
    die_with_parent,
    hide_from_peers,
    limit,
)
from astra_sandbox.worker.frames import Kind, encode
from astra_sandbox.worker.mailbox import SIZE, Mailbox

MAX_FD = 256  # the zygote's limit on open files: every descriptor is below it
MAX_BATCH = 64  # sessions in one command
_MAX_COMMAND = 1 << 16
_encode_json, _decode_json = json.JSONEncoder().encode, json.JSONDecoder().decode  # a source may patch `json`


class Confinement(NamedTuple):
    """What a zygote prepares for its templates and sessions."""

    view: FileView
    template_filter: SyscallFilter
    session_filter: SyscallFilter


class RejectedError(Exception):
    """The toolset cannot be loaded; the message is for its author."""


def main(
    control: socket.socket, order: dict[str, Any], source: str, directory: str, confinement: Confinement
) -> NoReturn:
    """Loads `source`, says so, and forks sessions until the server closes `control`. `directory`: its own folder."""
    os.setpgid(0, 0)
    die_with_parent()
    hide_from_peers()
    control.send(b'{"loading": true}')  # from now on the server knows this process
    os.chdir(directory)
    confinement.view.confine(directory)
    confinement.template_filter.install()
    try:
        tools = load(source, order["tools"], order["limits"])
    except RejectedError as error:
        control.send(_encode_json({"rejected": str(error)}).encode())
        control.recv(1)  # until the server has read it and closes: gVisor may drop what a dead process sent
        os._exit(1)
    try:
        Template(control, tools, directory, order["stateless"], confinement).run()
    except BaseException as error:  # the boundary: the server writes it to its log, and starts another template
        control.send(_encode_json({"failed": session.describe(error).decode()}).encode())
        os._exit(1)


def load(source: str, names: list[str], limits: dict[str, int]) -> dict[str, Callable[..., Any]]:
    """Executes the module and finds its tools. Raises RejectedError."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + limits["memory_bytes"], hard))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    random.seed(0)
    module = types.ModuleType("toolset")
    sys.modules["toolset"] = module
    try:
        exec(compile(source, "<source>", "exec", dont_inherit=True), module.__dict__)
    except MemoryError:
        raise RejectedError("loading the source needs more memory than it may use") from None
    except BaseException as error:  # the boundary: whatever a source raises rejects it
        raise RejectedError(f"the source does not load: {_line(error)}{session.describe(error).decode()}") from None
    tools = {}
    for name in names:
        tool = module.__dict__.get(name)
        if name.startswith("_") or not callable(tool):
            raise RejectedError(f"tool {name!r} is not a public function of the source")
        tools[name] = tool
    if threading.active_count() > 1:
        raise RejectedError("the source starts threads while it loads")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        raise RejectedError("the source starts processes while it loads")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    resource.setrlimit(resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2)
    return tools


def _line(error: BaseException) -> str:
    trace, line = error.__traceback__, None
    while trace:
        if trace.tb_frame.f_code.co_filename == "<source>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""


class Template:
    """The loop that forks sessions and reports their ends."""

    def __init__(
        self,
        control: socket.socket,
        tools: dict[str, Callable[..., Any]],
        directory: str,
        stateless: bool,
        confinement: Confinement,
    ) -> None:
        self._control, self._tools, self._directory = control, tools, directory
        self._stateless = stateless
        self._confinement = confinement
        self._sessions: dict[int, int] = {}  # by process id, the server's numbers

    def run(self) -> NoReturn:
        """Serves commands until the control socket closes."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        gc.collect()
        gc.freeze()
        self._base = address_space()
        self._control.send(b'{"ready": true}')
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    os.read(wake_read, 4096)
                    self._reap()
                elif not self._obey():
                    os._exit(0)  # its sessions die with it

    def _obey(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, _MAX_COMMAND, 2 * MAX_BATCH)
        if not message:
            return False
        command = _decode_json(message.decode())
        count = len(command["open"])
        mailboxes = fds[count:] if command["mailboxes"] else [None] * count
        random.seed(command["seed"])  # sessions are forked with it: each would touch pages to seed for itself
        for number, name, fd, mailbox in zip(command["open"], command["folders"], fds, mailboxes, strict=False):
            directory = os.path.join(self._directory, name)
            pid = os.fork()
            if pid == 0:
                self._become_session(fd, mailbox, directory, command["seed"], command["limits"])
            self._sessions[pid] = number
            os.close(fd)
            if mailbox is not None:
                os.close(mailbox)
        return True

    def _become_session(self, fd: int, file: int | None, directory: str, seed: int, limits: dict[str, int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            die_with_parent()
            os.chdir(directory)
            self._confinement.view.confine(directory)
            mailbox = None if file is None else Mailbox(mmap.mmap(file, SIZE))
            os.closerange(3, fd)
            os.closerange(fd + 1, MAX_FD)
            limit(resource.RLIMIT_AS, self._base + limits["memory_bytes"])
            limit(resource.RLIMIT_CPU, limits["cpu_seconds"], limits["cpu_seconds"] + 1)
            limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
            limit(resource.RLIMIT_NOFILE, limits["open_files"])
            limit(resource.RLIMIT_NPROC, limits["processes"])
            self._confinement.session_filter.install()
            os.write(fd, encode(0, Kind.HELLO))
        except BaseException as error:  # the boundary: the server is told why there is no session
            os.write(fd, encode(0, Kind.RAISED, session.describe(error)))
            os._exit(1)
        try:
            reseed = seed if self._stateless else None
            session.serve(fd, mailbox, self._tools, seed=reseed, output_bytes=limits["output_bytes"])
        finally:  # nothing of the template may run in a session
            os._exit(0)

    def _reap(self) -> None:
        while self._sessions:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid not in self._sessions:  # the first process of a namespace inherits orphans
                continue
            number = self._sessions.pop(pid)
            cpu = round(usage.ru_utime + usage.ru_stime, 3)
            self._control.send(_encode_json({"ended": number, "status": status, "cpu": cpu}).encode())
