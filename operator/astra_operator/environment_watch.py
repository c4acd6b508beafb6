"""Tells the operator of Environments, and keeps its census: lists a page at a time, then watches.

No body is kept longer than it takes to read what counts: sources are large, and there may be thousands. kopf keeps each
for as long as its task lives, all of them at once when it starts: 811 MiB for 1,500 sources of 117 KiB, where this
process has 130. A list tells also what is not there any more, which kopf does not pass on: an Environment that was
deleted while the watch was broken leaves the census.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from astra_api.environment import DECIDED, settled_phase
from astra_api.kube import ENVIRONMENT, Kube, KubeError
from astra_operator.census import Census
from astra_operator.environments import has_pool

_PAGE = 40  # Environments in one answer, of 128 KiB and more each
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between tries
_GONE = 410
logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """An Environment that changed."""

    namespace: str
    name: str
    counts: bool  # runs that wait may want to know
    unfinished: bool  # it is to be reconciled


Tell = Callable[[Change], None]


class EnvironmentWatches:
    """Watches of the namespaces given, or one of all. Changes are told in threads of its own."""

    def __init__(self, kube: Kube, namespaces: Sequence[str], census: Census, tell: Tell) -> None:
        listing = threading.Lock()
        self._watches = {
            namespace: _Watch(kube, namespace, census, tell, listing) for namespace in namespaces or (None,)
        }

    def complete(self, namespace: str) -> bool:
        """Whether all Environments that a namespace had when this began are in the census."""
        watch = self._watches.get(namespace) or self._watches.get(None)
        return watch is not None and watch.listed.is_set()

    def start(self) -> None:
        for namespace, watch in self._watches.items():
            threading.Thread(target=watch.run, name=f"environments of {namespace or 'all'}", daemon=True).start()

    def stop(self) -> None:
        """Tells no more. A thread ends when its server next says something, or with the process."""
        for watch in self._watches.values():
            watch.ended.set()


class _Watch:
    """The Environments of one namespace, or of all."""

    def __init__(self, kube: Kube, namespace: str | None, census: Census, tell: Tell, listing: threading.Lock) -> None:
        self._kube, self._namespace, self._census, self._tell = kube, namespace, census, tell
        self._listing = listing  # one page at a time is in memory, however many namespaces there are
        self._version = ""  # how far it has seen; empty: a list has to tell
        self.listed, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        """Until it is ended, whatever the API does."""
        where = f"namespace {self._namespace}" if self._namespace else "all namespaces"
        pause = _FIRST_PAUSE
        while not self.ended.is_set():
            before = self._version
            try:
                if not self._version:
                    self._list()
                self._follow()
            except KubeError as error:
                if not error.passing:  # the version is too old, or something that only a new list can show
                    self._version = ""
                if error.status != _GONE:
                    logger.warning("Environments of %s: %s", where, error)
            except Exception:  # the boundary: what was missed, a new list tells
                logger.exception("Environments of %s", where)
                self._version = ""
            pause = _FIRST_PAUSE if self._version != before else min(2 * pause, _LONGEST_PAUSE)
            self.ended.wait(pause)

    def _list(self) -> None:
        with self._listing:
            missing = self._census.names(self._namespace)
            version = ""
            for page in self._kube.pages(ENVIRONMENT, self._namespace, size=_PAGE):
                version = page["metadata"]["resourceVersion"]
                for body in page.get("items") or []:
                    missing.discard((body["metadata"]["namespace"], body["metadata"]["name"]))
                    self._take(body)
                del page  # before the next one is read
        for namespace, name in missing:
            self._drop(namespace, name)
        self._version = version
        self.listed.set()

    def _follow(self) -> None:
        for event in self._kube.watch(ENVIRONMENT, self._namespace, self._version):
            if self.ended.is_set():
                return
            metadata = event["object"]["metadata"]
            if event["type"] == "DELETED":
                self._drop(metadata["namespace"], metadata["name"])
            elif event["type"] != "BOOKMARK":
                self._take(event["object"])
            self._version = metadata["resourceVersion"]

    def _take(self, body: Mapping[str, Any]) -> None:
        counts = self._census.note(body)
        unfinished = settled_phase(body) not in DECIDED or has_pool(body)
        if counts or unfinished:
            self._tell(Change(body["metadata"]["namespace"], body["metadata"]["name"], counts, unfinished))

    def _drop(self, namespace: str, name: str) -> None:
        self._census.forget(namespace, name)
        self._tell(Change(namespace, name, counts=True, unfinished=False))
