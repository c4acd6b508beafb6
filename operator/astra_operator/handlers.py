"""kopf's side of the operator: which objects are watched, and whom a change is told.

Only event handlers are registered, so kopf writes nothing to the objects: no finalizer, no annotation with the last
handled state. What was handled stands in each object's status. Environments are watched by `environment_watch`.
"""

import asyncio
import os
import socket
from typing import Any

import kopf

from astra_api.kube import Kube
from astra_api.resource import GROUP
from astra_operator.lease import LEASE_SECONDS, Lease, die
from astra_operator.manifests.identity import MANAGED
from astra_operator.metrics import LEADER
from astra_operator.operator import Operator
from astra_operator.settings import OperatorSettings

_VERSION = "v1alpha1"


def identity() -> str:
    """Of this process, among all that may hold the Lease."""
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{os.urandom(4).hex()}"


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Begins to work; under `kopf run` the Lease is taken here."""
    settings.scanning.disabled = True  # the kinds are known: no right to list all definitions and namespaces
    settings.posting.enabled = False  # events are the operator's own
    settings.peering.standalone = True  # the Lease guards
    settings.watching.connect_timeout = 10.0
    settings.watching.chunk_size = 100
    for resource in ("pods", "statefulsets.apps", "jobs.batch", "networkpolicies.networking.k8s.io"):
        settings.watching.label_selectors[resource] = MANAGED
    if "lease" not in memo:
        own = OperatorSettings.of_environment()
        kube = await asyncio.to_thread(Kube.connect)
        memo.lease = Lease(kube.hurried(LEASE_SECONDS), own.namespace, own.lease_name, identity())
        memo.settings, memo.kube = own, kube.guarded(memo.lease.check)
        await asyncio.to_thread(memo.lease.acquire)
        memo.lease.keep(die)
    LEADER.set(1)
    memo.operator = await asyncio.to_thread(Operator, memo.kube, memo.settings)
    if "pages" in memo:
        memo.pages.operator = memo.operator
    memo.operator.start()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Ends, and lets another operator have the Lease."""
    if "operator" in memo:
        await memo.operator.stop()
    if "lease" in memo:
        await asyncio.to_thread(memo.lease.release)


@kopf.on.event(GROUP, _VERSION, "trainingruns")
async def training_run_changed(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:
    memo.operator.run_changed("TrainingRun", dict(body), type == "DELETED")


@kopf.on.event(GROUP, _VERSION, "synthesisruns")
async def synthesis_run_changed(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:
    memo.operator.run_changed("SynthesisRun", dict(body), type == "DELETED")


@kopf.on.event("", "v1", "pods")
@kopf.on.event("apps", "v1", "statefulsets")
@kopf.on.event("batch", "v1", "jobs")
@kopf.on.event("networking.k8s.io", "v1", "networkpolicies")  # without its wall a pool is open: made again at once
async def owned_changed(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:
    memo.operator.owned_changed(dict(body), type == "DELETED")
