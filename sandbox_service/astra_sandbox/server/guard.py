"""Keeps the machine, or the pod, alive: who uses too much memory or disk dies, and not its neighbours.

Sessions may be promised more memory together than there is (capacity times a session's limit): that is the overcommit.
Above six tenths of the memory, templates without sessions are ended, one at a time. When less than a tenth is left,
the session that uses most of it is ended with OUT_OF_MEMORY, and new ones wait; so is a template whose source takes
most as it loads, or after that, itself or in processes that it started. A template with more processes than sessions is
ended too, and one that computes when it has nothing to do. What each session keeps in files is looked at during its
calls and between them; the session looks after each.
"""

import asyncio
import sys
import time

from astra_sandbox.server.disks import Changes
from astra_sandbox.server.memory import Memory, resident
from astra_sandbox.server.processes import process_groups, running_processes
from astra_sandbox.server.sessions import ServerSession
from astra_sandbox.server.templates import Template, Templates

HIGH_WATER = 0.9  # of the memory limit
_SHED = (
    0.6  # of the memory limit: what is only kept warm goes (a sandbox's own kernel uses memory that it does not show)
)
_EVERY = 0.1  # seconds
_DISK_EVERY = 0.3
_DYING_SECONDS = 1.0
_PROCESSES_LATEST = 2.0
_PROCESSORS_EVERY = 1.0
_GROUPS_LATEST = 5.0
_STRAYS = 16  # processes of a template that no session accounts for: so many are its end when they are seen again


class Guard:
    """Watches one server's sessions. `watch` runs until it is cancelled."""

    def __init__(
        self, sessions: "dict[str, ServerSession]", memory: Memory, templates: Templates, disks: Changes
    ) -> None:
        self._sessions, self._memory, self._templates, self._disks = sessions, memory, templates, disks
        self.memory_scarce = False
        self._others = 0  # processes of the machine that are none of ours, when groups were counted last
        self._groups_due = 0.0  # when they are counted again in any case: others may end as a source's begin
        self._suspects: set[Template] = set()  # that had strays when groups were counted last
        self._ended: tuple[int | None, float] = (None, 0.0)  # whom memory ended last, and when

    async def watch(self) -> None:
        """Looks at memory ten times a second, at disks three times."""
        loop = asyncio.get_running_loop()
        disk_due = processes_due = processors_due = 0.0
        while True:
            await asyncio.sleep(_EVERY)
            share = self._memory.share()
            self.memory_scarce = share > HIGH_WATER
            shed = share > _SHED and self._templates.drop_idle()
            if self.memory_scarce and not shed:
                self._end_greediest()
            if loop.time() >= disk_due:
                start = loop.time()
                with self._disks.read_once():
                    self._look_at_disks()
                disk_due = loop.time() + max(_DISK_EVERY, 4 * (loop.time() - start))  # a fifth of a core at most
            if loop.time() >= processes_due:
                start = loop.time()
                self._look_at_processes()
                processes_due = loop.time() + min(19 * (loop.time() - start), _PROCESSES_LATEST)
            if loop.time() >= processors_due:
                self._look_at_processors()
                processors_due = loop.time() + _PROCESSORS_EVERY

    def _end_greediest(self) -> None:
        pid, when = self._ended
        if resident(pid) and time.monotonic() - when < _DYING_SECONDS:
            return  # its memory is not free yet: no other need end for that
        sessions = {session: session.memory() for session in self._sessions.values()}
        groups = process_groups()
        templates = {template: template.memory(_members(template, groups)) for template in self._templates.running}
        session = max(sessions, key=lambda one: sessions[one], default=None)
        template = max(templates, key=lambda one: templates[one], default=None)
        if template is not None and (session is None or templates[template] > sessions[session]):
            self._ended = template.pid, time.monotonic()
            template.end_for_memory()
        elif session is not None:
            self._ended = session.process_id, time.monotonic()
            session.end_process("memory", "the pod ran short of memory, and this session used most of it")

    def _look_at_processes(self) -> None:
        others = running_processes() - sum(template.processes for template in self._templates.running)
        start = time.monotonic()
        if others <= self._others + _STRAYS and start < self._groups_due:
            self._others = min(others, self._others)
            return
        self._others = others
        groups = process_groups()
        self._groups_due = start + max(_GROUPS_LATEST, 50 * (time.monotonic() - start))
        suspects = set()
        for template in list(self._templates.running):
            strays = len(_members(template, groups)) - template.processes
            if 0 < strays <= _STRAYS and template not in self._suspects:
                suspects.add(template)
            elif strays > 0:
                self._others -= strays  # they end now: the next source's must not pass for them
                print("astra_sandbox: a source started processes of its own; its template is ended", file=sys.stderr)
                template.close()
        self._suspects = suspects

    def _look_at_processors(self) -> None:
        for template in list(self._templates.running):
            if template.overworked:
                print("astra_sandbox: a source computes where none should; its template is ended", file=sys.stderr)
                template.close()

    def _look_at_disks(self) -> None:
        for session in list(self._sessions.values()):
            if session.called and (fault := session.disk_fault()):
                session.end_process("disk", fault)


def _members(template: Template, groups: dict[int, list[int]]) -> list[int]:
    """The processes of a template; none are known before it has said who it is."""
    return [] if template.pid is None else groups.get(template.pid, [])
