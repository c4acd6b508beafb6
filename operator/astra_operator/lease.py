"""The Lease that guards the one active operator: taken before anything is watched, and fatal when lost.

A thread of its own renews it: a busy event loop must not cost it.
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
logger = logging.getLogger(__name__)


class Lease:
    """A Lease in `namespace`, held or to be held as `identity`."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str) -> None:
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._seen: tuple[Any, float] = (None, 0.0)  # the record as last read, and when it was first read so
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.held = False

    def acquire(self) -> None:
        """Waits until the Lease is this process's (then `held`), or `give_up` was called. An expired one is taken."""
        said = False
        while not self._try():
            if not said:
                logger.info("waiting for the Lease %s/%s", self._namespace, self._name)
            said = True
            if self._stop.wait(_RENEW / 2):
                return
        self.held = True
        logger.info("holding the Lease %s/%s as %s", self._namespace, self._name, self._identity)

    def give_up(self) -> None:
        """Ends the waiting."""
        self._stop.set()

    def keep(self, on_lost: Callable[[], None]) -> None:
        """Renews it from now on; calls `on_lost` from another thread when it is gone."""
        self._thread = threading.Thread(target=self._renew_forever, args=(on_lost,), daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Lets another operator have it at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_DEADLINE)
        try:
            found = self._kube.get(LEASE, self._namespace, self._name)
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                self._write(found, holder="")
        except KubeError as error:
            logger.warning("the Lease could not be released: %s", error)
        self.held = False

    def _renew_forever(self, on_lost: Callable[[], None]) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(_RENEW):
            if self._try():
                renewed = time.monotonic()
            elif time.monotonic() - renewed > _DEADLINE or self._holder not in (self._identity, None):
                self.held = False
                on_lost()
                return

    _holder: str | None = None  # as last read

    def _try(self) -> bool:
        """Takes or renews it, once."""
        try:
            found = self._kube.get(LEASE, self._namespace, self._name)
            if found is None:
                body = {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": {"name": self._name}}
                self._kube.create(LEASE, self._namespace, {**body, "spec": self._record(0)})
                return True
            if not self._may_take(found["spec"]):
                return False
            self._write(found, holder=self._identity)
        except KubeError as error:
            if not error.passing:
                raise
            logger.warning("the Lease cannot be renewed just now: %s", error)
            return False
        return True

    def _may_take(self, record: Object) -> bool:
        """Ours, free, or not renewed for its duration by this machine's clock: clocks of others are not trusted."""
        self._holder = record.get("holderIdentity") or None
        if self._holder in (None, self._identity):
            return True
        if record != self._seen[0]:
            self._seen = (record, time.monotonic())
            return False
        return time.monotonic() - self._seen[1] > float(record.get("leaseDurationSeconds") or _DURATION)

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


def die() -> None:
    """What a lost Lease means: another operator is active, or will be; nothing more may be written."""
    logger.critical("the Lease is lost: ending at once")
    os._exit(70)
