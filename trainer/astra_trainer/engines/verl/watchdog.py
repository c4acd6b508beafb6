"""Notices, inside of verl's trainer, what verl waits for in vain: a dead worker, a dead rollout engine.

verl's trainer does not: a rollout whose worker died stays under way for ever, and a dead rollout engine blocks the
next update. The watchdog leaves a diagnosis in the spool; the process that drives the stage reads it and ends the run.
"""

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from astra_api.files import replace
from astra_trainer.engines.verl.processes import DIAGNOSIS, HEARTBEAT

_EVERY_SECONDS = 5.0
_STRIKES = 3  # health checks in a row that must fail: an engine may be slow to answer while it loads weights
_LOG = logging.getLogger(__name__)


class Watchdog(threading.Thread):
    """Looks at Ray's actors and at the rollout servers, every few seconds."""

    def __init__(self, spool: Path) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._spool = spool
        self._strikes: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        self._figures: dict[str, int] = {}

    def heartbeat(self, **figures: int) -> None:
        """Says how many rollouts are waited for, and since when that has not changed."""
        if figures != self._figures:
            self._figures = figures
            replace(self._spool / HEARTBEAT, json.dumps({"changed": time.time(), **figures}).encode())

    def run(self) -> None:
        import ray

        while True:
            time.sleep(_EVERY_SECONDS)
            if not ray.is_initialized():  # the run is over; a look would start a Ray of its own
                return
            try:
                found = dead_actor() or self._sick_server()
            except Exception:  # a look that fails says nothing of the run: the next one may succeed
                _LOG.warning("the watchdog could not look", exc_info=True)
                continue
            if found is not None:
                replace(self._spool / DIAGNOSIS, json.dumps({"message": found}).encode())
                return

    def _sick_server(self) -> str | None:
        for name, address in self._servers().items():
            try:
                with urllib.request.urlopen(f"http://{address}/health", timeout=_EVERY_SECONDS):
                    self._strikes[name] = 0
            except (urllib.error.URLError, OSError) as error:
                self._strikes[name] = self._strikes.get(name, 0) + 1
                if self._strikes[name] >= _STRIKES:
                    return f"the rollout engine {name} died: its health check failed {_STRIKES} times ({error})"
        return None

    def _servers(self) -> dict[str, str]:
        """HTTP addresses by name, of the servers that serve by now."""
        import ray

        for entry in ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            if "_server_" in name and name not in self._addresses:
                actor = ray.get_actor(name, namespace=entry["namespace"])
                try:
                    host, port = ray.get(actor.get_server_address.remote(), timeout=_EVERY_SECONDS)
                except Exception:  # not a server, or none that serves yet
                    _LOG.debug("%s has no address", name, exc_info=True)
                    continue
                self._addresses[name] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self._addresses


def dead_actor() -> str | None:
    """What is wrong with an actor of this job that did not end as it should; None if all are well."""
    import ray
    from ray._private.state import state

    job = ray.get_runtime_context().get_job_id()
    table: dict[str, dict[str, Any]] = state.actor_table(None)
    for actor in table.values():
        if actor.get("State") == "DEAD" and actor.get("JobID") == job and (why := _why(actor["DeathCause"])):
            name = actor.get("Name") or actor.get("ActorClassName") or actor.get("ActorID")
            return f"the worker {name} died: {why}"
    return None


def _why(cause: Any) -> str | None:
    """Of Ray's `ActorDeathCause`; None where the end was meant: nobody refers to the actor any more, or it was told."""
    kind = cause.WhichOneof("context")
    if kind is None:
        return None
    context = getattr(cause, kind)
    message = str(getattr(context, "error_message", "") or kind).strip()
    if kind == "actor_died_error_context":
        reason = context.DESCRIPTOR.enum_types_by_name["Reason"].values_by_number[context.reason].name
        if reason not in ("WORKER_DIED", "OWNER_DIED", "NODE_DIED") or "INTENDED" in message:
            return None
    return " ".join(message.split())[:500]
