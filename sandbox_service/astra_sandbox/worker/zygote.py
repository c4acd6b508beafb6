"""A zygote: a small process, started before gRPC and put into its containment, that forks templates.

Its first message holds its settings; every further one orders a template: `{"tools", "stateless", "limits",
"folder"}` with the template's control socket and a file that holds the source.
"""

import base64
import collections  # the imports without a use here spare templates their cost; each costs every fork a little
import contextlib
import datetime
import functools
import gc
import itertools
import json
import math
import os
import re
import resource
import signal
import socket
import string
import sys
import time
from typing import Any

from astra_sandbox.worker import at_fork, clock, enclosure, template
from astra_sandbox.worker.confine import FileView, SyscallFilter, address_space, adopt_orphans, hide_from_peers

_WARM = (at_fork, collections, datetime, functools, itertools, math, re, string)

_MAX_MESSAGE = 1 << 16
_TRIES, _PAUSE_SECONDS = 100, 0.02  # to end all children


def main(control_fd: int) -> None:
    """Serves until the server closes the control socket."""
    control = socket.socket(fileno=control_fd)
    settings = json.loads(control.recv(_MAX_MESSAGE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "astra_sandbox"]:
        del sys.modules[name]  # a source finds the standard library, and nothing of ours
    sys.path[:] = [path for path in sys.path if path not in settings["own_paths"]]
    devnull = os.open(os.devnull, os.O_RDWR)
    if settings["drop_user"]:
        enclosure.keep_capabilities()
        os.setgroups([])
        os.setresgid(*[enclosure.NOBODY] * 3)
        os.setresuid(*[enclosure.NOBODY] * 3)
    entered, own = _enclose(settings)
    confinement = template.Confinement(
        view=FileView(settings["read_only"]),
        template_filter=SyscallFilter(base64.b64decode(settings["template_filter"])),
        session_filter=SyscallFilter(base64.b64decode(settings["session_filter"])),
    )
    hide_from_peers()
    ceiling = address_space() + settings["memory_ceiling"]
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_NOFILE, (template.MAX_FD, template.MAX_FD))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings["clock_offset"]:
        clock.shift(settings["clock_offset"])
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # templates are reaped by the kernel; the server sees their sockets
    control.send(json.dumps({"ready": True, "namespaces": entered, "own": own}).encode())
    with contextlib.suppress(OSError):
        adopt_orphans()
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 2)
        if not message:
            _end_children()
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _become_template(json.loads(message), fds, settings["scratch"], own, confinement, devnull)
        for fd in fds:
            os.close(fd)


def _end_children() -> None:
    """Ends templates and what their sources started: it becomes this process's as they end.

    Where /proc is out of sight, a process namespace ends with each template, and all that is in it.
    """
    for _ in range(_TRIES):
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = file.read().split()
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)


def _enclose(settings: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(namespaces that this zygote entered by itself, those that each template can have of its own)."""
    if not settings["enclose"]:
        enclosure.drop_capabilities()
        return [], []
    entered: list[str] = []
    if settings["jail"]:
        entered = enclosure.enter_user()
        enclosure.jail(settings["jail"])
    else:
        enclosure.regain()
    wanted = ("ipc", "pid") if settings["jail"] else ("mnt", "ipc", "pid")
    return entered, enclosure.try_out(settings["scratch"], wanted)


def _become_template(
    order: dict[str, Any],
    fds: list[int],
    scratch: str,
    namespaces: list[str],
    confinement: template.Confinement,
    devnull: int,
) -> None:
    try:
        with open(fds[1], encoding="utf-8") as file:
            source = file.read()
        for fd in (0, 1, 2):
            os.dup2(devnull, fd)
        os.close(devnull)
        directory = enclosure.enter(namespaces, scratch, order["folder"])
        template.main(socket.socket(fileno=fds[0]), order, source, directory, confinement)
    finally:  # nothing of the zygote may run in a template
        os._exit(1)
