"""Pushes the progress of a run into the status of its own object, from the Job that does it."""

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from astra_api.kube import Kind, Kube, KubeError

_INTERVAL = 1.0  # seconds between two writes, at least
_LAST_TRIES = 10  # of the final status, or where the object is another one
logger = logging.getLogger(__name__)


class StatusWriter:
    """Writes the newest state of a status, in a thread of its own: work never waits for the API. A context manager.

    An API that cannot be reached costs the news and nothing else; what was last said is written when it answers again.
    With `uid`, only the object of that uid is written to: one that was made anew under the name is another's.
    """

    def __init__(self, kube: Kube, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        self._kube, self._kind, self._namespace, self._name, self._uid = kube, kind, namespace, name, uid
        self._unsaid: dict[str, Any] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write_forever, daemon=True)

    def say(self, **status: Any) -> None:
        """Sets fields of the status (in camelCase); a later value of a field takes the place of an earlier one."""
        with self._wake:
            self._unsaid |= status
            self._wake.notify()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _write_forever(self) -> None:
        failures = 0
        while True:
            with self._wake:
                while not self._unsaid and not self._closing:
                    self._wake.wait()
                status, self._unsaid = self._unsaid, {}
                if not status:
                    return
            try:
                self._kube.patch_status(self._kind, self._namespace, self._name, status, uid=self._uid)
                failures = 0
            except KubeError as error:
                failures += 1
                logger.warning("the status cannot be written: %s", error)
                if not error.passing or ((self._closing or error.conflict) and failures >= _LAST_TRIES):
                    return
                with self._wake:
                    self._unsaid = status | self._unsaid
            with self._wake:
                self._wake.wait_for(lambda: self._closing, timeout=_INTERVAL)
            if self._closing and failures:
                time.sleep(_INTERVAL)
