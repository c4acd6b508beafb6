"""The server's end of templates and of the session processes that they fork."""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from astra_sandbox.limits import MAXIMUM, Limits
from astra_sandbox.server.disks import Changes, SessionFiles
from astra_sandbox.server.folders import PrivateFolders
from astra_sandbox.server.memory import resident
from astra_sandbox.server.own_time import OwnTime
from astra_sandbox.server.processes import ProcessHandle, processor_seconds, receive_with_pid
from astra_sandbox.server.rounds import Rounds, new_mailbox
from astra_sandbox.server.toolsets import StoredToolset
from astra_sandbox.server.zygotes import (
    MAX_VARIANT,
    Nursery,
    Zygote,
    ZygoteError,
)
from astra_sandbox.worker.frames import HEADER, FrameError, FrameReader, Kind, encode
from astra_sandbox.worker.mailbox import Mailbox

_LOAD_SECONDS = 30.0  # of a source's own time
_STILLBORN = 4  # templates of one toolset that die before their first session
_FORK_SECONDS = 20.0
_SPARE_PROCESSOR_SECONDS = 5.0  # that a template may take beyond loading and forking
_FORK_PROCESSOR_SECONDS = 0.5  # that forking one session and noting its end may take: much more than it does
_BATCH = 64  # sessions in one command: the kernel passes at most 253 descriptors, a template opens at most 256
_CHUNK = 1 << 16  # bytes read at once: a larger buffer costs more than it saves
_SLACK = 4096  # a reply may exceed output_bytes by a message about that
_NO_REPLY = Kind.HELLO, b""  # what no honest session sends when it is called


class LoadRejectedError(Exception):
    """The toolset's source cannot be loaded; the message is for its author."""


class WorkerLostError(Exception):
    """A zygote or template died or does not answer; trying again starts another."""


class MemoryShortError(WorkerLostError):
    """A template was ended because memory ran short, and not by its own doing."""


class SessionProcess:
    """One forked session, its socket and its mailbox. `on_frame` gets every reply, `on_end` the end, once."""

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        limits: Limits,
        template: "Template",
        files: SessionFiles,
        mailbox: Mailbox | None,
    ) -> None:
        self.number = number
        self._files = files
        self.template = template
        self.status: int | None = None  # wait status and processor seconds, once the template reported them
        self.cpu = 0.0
        self.ended = False
        self.on_frame: Callable[[int, Kind, bytes], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.reported = asyncio.Event()
        self._mailbox, self._rounds = mailbox, template.rounds
        self._awaited = 0  # the nonce of the call under way, if there is one
        self._socket = sock
        self._reader = FrameReader(limits.output_bytes + _SLACK)
        self._loop = asyncio.get_running_loop()
        self._handle: ProcessHandle | None = None
        self._unsent = b""
        self.ready = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._hello)

    @property
    def pid(self) -> int | None:
        """The process id, in the server's namespace."""
        return self._handle.pid if self._handle else None

    @property
    def lives(self) -> bool:
        """Whether the process is known to have not ended."""
        return self._handle is not None and self._handle.lives

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, whoever told of it."""
        return self._handle is not None and self._handle.has_ended

    def disk_fault(self, file_bytes: int) -> str | None:
        """Why it keeps too much in files (`file_bytes`: the limit of one), or None."""
        return self._files.fault(file_bytes, self.pid)

    def memory(self) -> int:
        """Bytes that it holds, beyond those that its template was loaded with."""
        return max(0, resident(self.pid) - self.template.loaded_bytes)

    @property
    def answered(self) -> bool:
        """Whether the reply to the call under way lies in the mailbox."""
        return self._mailbox is not None and self._awaited != 0 and self._mailbox.holds(self._awaited)

    def call(self, nonce: int, body: bytes) -> None:
        """Sends one call; a session that is gone shows at `on_end`."""
        self._awaited = nonce
        quiet = self._mailbox is not None and self._rounds is not None and self._rounds.join(self)
        self._send(encode(nonce, Kind.QUIET_CALL if quiet else Kind.CALL, body))

    def collect(self) -> None:
        """Takes the reply out of the mailbox, if it is whole."""
        assert self._mailbox is not None
        try:
            reply = self._mailbox.take()
        except FrameError:
            reply = _NO_REPLY
        if reply is not None:
            self._deliver(self._awaited, *reply)

    def _deliver(self, nonce: int, kind: Kind, body: bytes) -> None:
        self._awaited = 0
        if self._rounds is not None:
            self._rounds.leave(self)
        if self.on_frame and not self.ended:
            self.on_frame(nonce, kind, body)

    def _send(self, data: bytes) -> None:
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader sees the end
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._flush)
        self._unsent += data

    def end(self) -> None:
        """Kills the process and frees everything. No callback follows."""
        if self.ended:
            return
        self.ended = True
        if self._rounds is not None:
            self._rounds.leave(self)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        if self._handle:
            self._handle.kill()
        if not self.ready.done():
            self.ready.cancel()
        self.template.forget(self)

    def _flush(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _hello(self) -> None:
        try:
            data, pid = receive_with_pid(self._socket)
        except OSError:
            data, pid = b"", None
        if pid is None or data != encode(0, Kind.HELLO):
            said = data[HEADER.size :].decode(errors="replace")[:300]
            self._fail_hello(f"a session did not start: {said}")
            return
        self._handle = ProcessHandle(pid)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), self._read)
        if not self.ready.done():
            self.ready.set_result(None)

    def _fail_hello(self, reason: str) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if not self.ready.done():
            self.ready.set_exception(WorkerLostError(reason))
            self.ready.exception()  # seen: of a group, the first failure is waited for

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            if self.answered:  # by a session that then ended
                self.collect()
            if self.on_end and not self.ended:
                self.on_end()
            return
        try:
            frames = self._reader.feed(data)
        except FrameError:
            frames = [(0, *_NO_REPLY)]
        for frame in frames:
            self._deliver(*frame)


class Template:
    """One loaded toolset in one variant. `folder`: its private folder, of those that the server makes (`folders`)."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        toolset: StoredToolset,
        control: socket.socket,
        folders: PrivateFolders,
        folder: str,
        on_close: Callable[["Template"], None],
        changes: Changes,
        rounds: Rounds | None,
    ) -> None:
        self.toolset = toolset
        self.rounds = rounds
        self.loaded_bytes = 0  # of memory, once it is loaded: what every session begins with
        self._granted_seconds = float("inf")  # of processor time, once it is loaded
        self._folders, self._folder, self._on_close, self._changes = folders, folder, on_close, changes
        self._forked: dict[int, str] = {}  # folders of the sessions whose processes may live, by number
        self.alive = True
        self.forked = False  # it has forked sessions
        self._processes: dict[int, SessionProcess] = {}
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._handle: ProcessHandle | None = None
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(control.fileno(), self._read)

    @property
    def busy(self) -> bool:
        """Whether it has sessions."""
        return bool(self._processes)

    @property
    def spent(self) -> bool:
        """Whether it had sessions and has none now: one that was just loaded is about to have some."""
        return not self.alive or (self.forked and not self.busy)

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle else None

    @property
    def processes(self) -> int:
        """How many there may be of it: itself, and sessions of whose end it has not told."""
        return 1 + len(self._forked)

    def memory(self, group: Iterable[int]) -> int:
        """Bytes that it took since it was loaded, or takes as it loads: more than a little is a source's doing.

        `group`: the ids of its processes. What those hold that are no session's counts too.
        """
        ours = {process.pid for process in self._processes.values()}
        return sum(max(0, resident(pid) - self.loaded_bytes) for pid in {self.pid, *group} - ours)

    @property
    def overworked(self) -> bool:
        """Whether it took more processor time than loading and forking explain: that is a source's doing."""
        return processor_seconds(self.pid) > self._granted_seconds

    def end_for_memory(self) -> None:
        """Ends it, and its sessions: the pod runs short of memory, and this one took most."""
        if not self._loaded.done():
            self._loaded.set_exception(MemoryShortError("memory ran short while the source was loading"))
        self.close()

    async def wait_loaded(self) -> None:
        """Raises LoadRejectedError or WorkerLostError."""
        limit = OwnTime(_LOAD_SECONDS, lambda: self.pid, self._reject_slow)
        try:
            await asyncio.shield(self._loaded)
        except (LoadRejectedError, WorkerLostError):
            self.close()
            raise
        finally:
            limit.cancel()

    def _reject_slow(self) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(LoadRejectedError(f"the source takes more than {_LOAD_SECONDS:g} s to load"))

    async def fork(self, count: int, seed: int, limits: Limits) -> list[SessionProcess]:
        """Forks sessions, all or none. Raises WorkerLostError."""
        processes: list[SessionProcess] = []
        try:
            for start in range(0, count, _BATCH):
                processes += await self._order(min(_BATCH, count - start), seed, limits)
            async with asyncio.timeout(_FORK_SECONDS):
                for process in processes:
                    await process.ready
            self.forked = True
        except BaseException as error:
            for process in processes:
                process.end()
            if isinstance(error, OSError):  # TimeoutError is one too
                self.close()
                raise WorkerLostError(f"the template does not fork sessions: {error}") from None
            raise
        return processes

    async def _order(self, count: int, seed: int, limits: Limits) -> list[SessionProcess]:
        numbers = [next(self._numbers) for _ in range(count)]
        command: dict[str, Any] = {
            "open": numbers,
            "folders": [secrets.token_hex(16) for _ in numbers],
            "mailboxes": self.rounds is not None,
            "seed": seed,
            "limits": {
                "memory_bytes": limits.memory_bytes,
                "cpu_seconds": max(1, round(limits.cpu_seconds)),
                "file_bytes": limits.file_bytes,
                "open_files": limits.open_files,
                "processes": limits.processes,
                "output_bytes": limits.output_bytes,
            },
        }
        paths = [self._folders.make_for_session(self._folder, name) for name in command["folders"]]
        self._forked.update(zip(numbers, paths, strict=True))
        self._granted_seconds += count * _FORK_PROCESSOR_SECONDS
        pairs = [socket.socketpair() for _ in range(count)]
        for ours, _ in pairs:  # before the first session can speak: credentials are added as a message is sent
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.setblocking(False)
        boxes: list[Mailbox | None] = [None] * count
        handed = [theirs.detach() for _, theirs in pairs]
        try:
            if self.rounds is not None:
                for index in range(count):
                    file, boxes[index] = new_mailbox()
                    handed.append(file)
            while self.alive:
                try:
                    socket.send_fds(self._control, [json.dumps(command).encode()], handed)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.005)
            else:
                raise ConnectionResetError("it is gone")
        except OSError:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for descriptor in handed:
                os.close(descriptor)
        processes = []
        for number, path, (ours, _), mailbox in zip(numbers, paths, pairs, boxes, strict=True):
            files = SessionFiles(path, self._changes)
            process = SessionProcess(number, ours, limits, self, files, mailbox)
            self._processes[number] = process
            processes.append(process)
        return processes

    def forget(self, process: SessionProcess) -> None:
        """The process needs no report of its end any more."""
        self._processes.pop(process.number, None)

    def close(self) -> None:
        """Kills the template and all its sessions; their sockets show it to their owners."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if self._handle:
            self._handle.kill_group()
        if not self._loaded.done():
            self._loaded.set_exception(WorkerLostError("the template ended while it loaded"))
            self._loaded.exception()  # seen: there may be no waiter any more
        for process in list(self._processes.values()):
            process.reported.set()
        self._folders.remove_of_template(self._folder)
        self._on_close(self)

    def _read(self) -> None:
        try:
            data, pid = receive_with_pid(self._control)
            message: Any = json.loads(data) if data else None
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self.close()
        elif self._handle is None:
            if pid is None:
                self.close()
            else:
                self._handle = ProcessHandle(pid)
        elif not self._loaded.done():
            if message.get("ready") is True:
                self.loaded_bytes = resident(self._handle.pid)
                self._granted_seconds = processor_seconds(self._handle.pid) + _SPARE_PROCESSOR_SECONDS
                self._loaded.set_result(None)
            else:
                self._loaded.set_exception(LoadRejectedError(str(message.get("rejected"))[:2000]))
        else:
            self._note_end(message)

    def _note_end(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            print(f"astra_sandbox: a template failed: {str(message['failed'])[:300]!a}", file=sys.stderr)
        number, status, cpu = message.get("ended"), message.get("status"), message.get("cpu")
        process = self._processes.get(number) if isinstance(number, int) else None
        if process is not None and process.lives:
            print("astra_sandbox: a source told of an end that was none; its template is ended", file=sys.stderr)
            self.close()
            return
        folder = self._forked.pop(number, None) if isinstance(number, int) else None
        if folder is not None:
            self._folders.remove(folder)
        if process is not None and isinstance(status, int) and isinstance(cpu, int | float):
            process.status, process.cpu = status, float(cpu)
            process.reported.set()


class Templates:
    """All templates of a server: started when first needed, the least recently used idle ones dropped.

    `rounds`: how replies are looked for, where that is better than to be told of each.
    """

    def __init__(
        self, nursery: Nursery, first: Zygote, changes: Changes, rounds: Rounds | None = None, *, keep: int = 64
    ) -> None:
        self._nursery, self._changes, self._rounds = nursery, changes, rounds
        self._zygotes: dict[int, Zygote] = {first.variant: first}
        self._templates: OrderedDict[tuple[str, int], asyncio.Task[Template]] = OrderedDict()
        self._keep = keep
        self.running: set[Template] = set()  # loading or loaded

    async def get(self, toolset: StoredToolset, variant: int) -> Template:
        """The template of a toolset. Raises LoadRejectedError, WorkerLostError."""
        if not 0 <= variant <= MAX_VARIANT:
            raise LoadRejectedError(f"variant {variant} is not in 0..{MAX_VARIANT}")
        key = (toolset.digest, variant)
        task = self._templates.get(key)
        if task is not None and task.done() and (task.cancelled() or task.exception() or not task.result().alive):
            task = None
        if task is None:
            task = self._templates[key] = asyncio.ensure_future(self._start(toolset, variant))
            self._evict()
        self._templates.move_to_end(key)
        return await asyncio.shield(task)

    async def fork(
        self, toolset: StoredToolset, variant: int, count: int, seed: int, limits: Limits
    ) -> list[SessionProcess]:
        """Session processes of a toolset, from another template if one died under it.

        A source whose templates load and then never fork a session is rejected: it has broken them.
        """
        proven = False
        for _ in range(_STILLBORN):
            template = await self.get(toolset, variant)
            try:
                return await template.fork(count, seed, limits)
            except WorkerLostError as error:
                lost, proven = error, proven or template.forked
        raise lost if proven else LoadRejectedError("the source breaks the process in which it is loaded")

    async def _start(self, toolset: StoredToolset, variant: int, again: bool = False) -> Template:
        zygote = self._zygotes.get(variant)
        if zygote is None or not zygote.alive:
            if zygote is not None:
                zygote.close()
            try:
                zygote = self._zygotes[variant] = self._nursery.launch(variant)
            except ZygoteError as error:
                raise WorkerLostError(f"no zygote: {error}") from None
        folders = self._nursery.folders
        order: dict[str, Any] = {
            "tools": toolset.names,
            "stateless": toolset.stateless,
            "limits": {
                "memory_bytes": MAXIMUM.memory_bytes // 2,
                "file_bytes": MAXIMUM.file_bytes,
            },
            "folder": [secrets.token_hex(16), *(["variant", str(variant)] if variant else [])],
        }
        try:
            folder = folders.make_for_template(order["folder"])
        except OSError as error:
            raise WorkerLostError(f"no folder for a template: {error}") from None
        try:
            control = zygote.order(order, toolset.source)
        except OSError as error:
            zygote.close()
            folders.remove_of_template(folder)
            raise WorkerLostError(f"the zygote is gone: {error}") from None
        ended = self.running.discard
        template = Template(toolset, control, folders, folder, ended, self._changes, self._rounds)
        self.running.add(template)
        try:
            await template.wait_loaded()
        except MemoryShortError:
            raise
        except WorkerLostError:
            if not zygote.alive:
                raise  # no fault of the source
            if again:
                raise LoadRejectedError("the source ends its process while it loads") from None
            return await self._start(toolset, variant, again=True)
        return template

    def _evict(self) -> None:
        while len(self._templates) > self._keep and self.drop_idle():
            pass

    def drop_idle(self) -> bool:
        """Ends the template that was used least recently of those whose sessions are over; whether there was one."""
        for key, task in self._templates.items():
            if task.done() and (task.cancelled() or task.exception() or task.result().spent):
                del self._templates[key]
                if not task.cancelled() and not task.exception():
                    task.result().close()
                return True
        return False

    def close(self) -> None:
        """Ends every template and zygote."""
        for task in self._templates.values():
            if task.done() and not task.cancelled() and not task.exception():
                task.result().close()
            else:
                task.cancel()
        for zygote in self._zygotes.values():
            zygote.close()


def new_session_id() -> str:
    """An unguessable name."""
    return secrets.token_hex(16)


def raise_open_files() -> None:
    """Every session takes two descriptors: allow as many as the system does."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o077)
