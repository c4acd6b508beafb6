"""The Lease that guards the one active operator: taken before anything is watched, and fatal when lost.

Two things keep two operators from acting at once. A thread of its own renews the Lease, so that a busy event loop does
not cost it; whatever keeps it from renewing within the deadline, be it a refusal, a hanging request or a fault of its
own, ends the process. And each write asks first whether the Lease still holds by this machine's clock, because a
process that was stopped for a while, and wakes, goes on in the middle of what it did.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from astra_api.kube import LEASE, Kube, KubeError, Object

_DURATION = 15.0  # seconds without a renewal after which another operator may take it
_RENEW = 4.0  # between renewals
_DEADLINE = 10.0  # without a successful renewal after which this operator gives up
LEASE_SECONDS = 5.0  # that a request for it may take
logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another operator may be active: nothing more may be written."""


class Lease:
    """A Lease in `namespace`, held or to be held as `identity`."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str) -> None:
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._seen: tuple[Any, float] = (None, 0.0)  # the record as last read, and when it was first read so
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch: threading.Thread | None = None
        self._renewed = 0.0  # when the last renewal that succeeded was sent
        self._holder: str | None = None  # as last read
        self.held = False

    def acquire(self) -> None:
        """Waits until the Lease is this process's (then `held`), or `give_up` was called. An expired one is taken.

        Raises KubeError where the API refuses for good."""
        said = False
        while not self._stop.is_set():
            try:
                if self._try():
                    break
            except KubeError as error:
                if not error.passing:
                    raise
                logger.warning("the Lease cannot be taken just now: %s", error)
            if not said:
                logger.info("waiting for the Lease %s/%s", self._namespace, self._name)
            said = True
            self._stop.wait(_RENEW / 2)
        else:
            return
        self.held = True
        logger.info("holding the Lease %s/%s as %s", self._namespace, self._name, self._identity)

    def give_up(self) -> None:
        """Ends the waiting."""
        self._stop.set()

    def keep(self, on_lost: Callable[[], None]) -> None:
        """Renews it from now on; calls `on_lost`, once, from another thread when it is lost or cannot be renewed."""
        lost = threading.Lock()

        def lose() -> None:
            if lost.acquire(blocking=False):
                self.held = False
                on_lost()

        self._thread = threading.Thread(target=self._renew_forever, args=(lose,), daemon=True)
        self._watch = threading.Thread(target=self._watch_forever, args=(lose,), daemon=True)  # a renewal may hang
        self._thread.start()
        self._watch.start()

    def check(self) -> None:
        """Raises LeaseLost unless this process may still write. Called before each write."""
        if not self.held or _now() - self._renewed > _DEADLINE:
            raise LeaseLost(f"the Lease {self._namespace}/{self._name} was not renewed for {_DEADLINE:g} s")

    def release(self) -> None:
        """Lets another operator have it at once."""
        self._stop.set()
        for thread in (self._thread, self._watch):
            if thread is not None:
                thread.join(_DEADLINE)
        try:
            found = self._kube.get(LEASE, self._namespace, self._name)
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                self._write(found, holder="")
        except KubeError as error:
            logger.warning("the Lease could not be released: %s", error)
        self.held = False

    def _renew_forever(self, lose: Callable[[], None]) -> None:
        while not self._stop.wait(_RENEW):
            try:
                renewed = self._try()
            except Exception as error:  # the boundary: whatever it is, the Lease is not renewed
                logger.warning("the Lease cannot be renewed just now: %s: %s", type(error).__name__, error)
                continue
            if not renewed:
                logger.critical("the Lease is held by %s", self._holder)
                lose()
                return

    def _watch_forever(self, lose: Callable[[], None]) -> None:
        """Ends it at the deadline, whatever the thread that renews is doing."""
        while not self._stop.wait(_RENEW / 8):
            if _now() - self._renewed > _DEADLINE:
                lose()
                return

    def _try(self) -> bool:
        """Takes or renews it, once; False where another holds it. Raises KubeError."""
        sent = _now()
        found = self._kube.get(LEASE, self._namespace, self._name)
        if found is None:
            body = {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": {"name": self._name}}
            self._kube.create(LEASE, self._namespace, {**body, "spec": self._record(0)})
        elif self._may_take(found["spec"]):
            self._write(found, holder=self._identity)
        else:
            return False
        self._renewed = sent
        return True

    def _may_take(self, record: Object) -> bool:
        """Ours, free, or not renewed for its duration by this machine's clock: clocks of others are not trusted."""
        self._holder = record.get("holderIdentity") or None
        if self._holder in (None, self._identity):
            return True
        if self.held:
            return False  # taken from this process: it is not taken back
        if record != self._seen[0]:
            self._seen = (record, _now())
            return False
        return _now() - self._seen[1] > float(record.get("leaseDurationSeconds") or _DURATION)

    def _write(self, found: Object, holder: str) -> None:
        before = found["spec"]
        transitions = int(before.get("leaseTransitions") or 0) + (before.get("holderIdentity") != holder)
        record = self._record(transitions) | {"holderIdentity": holder}
        if before.get("holderIdentity") == holder and before.get("acquireTime"):
            record["acquireTime"] = before["acquireTime"]
        self._kube.replace(LEASE, self._namespace, self._name, {**found, "spec": record})

    def _record(self, transitions: int) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(_DURATION),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }


def _now() -> float:
    """Seconds by a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def die() -> None:
    """What a lost Lease means: another operator is active, or will be; nothing more may be written."""
    logger.critical("the Lease is lost: ending at once")
    os._exit(70)
