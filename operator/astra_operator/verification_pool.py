"""The operator's own pool of sandboxes, in which Environments are verified. No pod an Environment: many share these.

Without an Environment to verify it goes to sleep: its StatefulSet stays, with no replicas, until there is one again.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from astra_api.canonical import canonical_json
from astra_api.environment import Environment
from astra_api.kube import SECRET, Kind, Kube, KubeError
from astra_operator.carrying_out import carry_out, create_certificates, read_certificates
from astra_operator.creation import not_created
from astra_operator.drift import mended
from astra_operator.farm import Farm
from astra_operator.idleness import Idleness
from astra_operator.manifests.certificates import renewal_due
from astra_operator.manifests.identity import DEPLOYMENT, Owner
from astra_operator.manifests.pool import STATEFUL_SET, Pool, pool_objects
from astra_operator.manifests.templates import merged
from astra_operator.ownership import advice, describe_foreign, is_own
from astra_operator.pool_view import PoolView, is_ready, view
from astra_operator.settings import PORT
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.link import ClientTls
from astra_sandbox.verification import CHECKS, Reason, Verdict, verify_environment

WAKE = "astra.farm/wake"  # annotation of the StatefulSet: a new value wakes it, for whoever wants to call a tool
_CAPACITY = 64  # sessions of a pod; twelve environments at a time have two or three each
_RESOURCES = {  # twelve at a time hold 1 GiB under gVisor; above 0.6 of its limit a server ends what is only kept warm
    "requests": {"cpu": "100m", "memory": "512Mi"},
    "limits": {"cpu": "2", "memory": "2Gi"},
}
_WAIT_SECONDS = 60.0  # for a pod to serve, before an Environment is told that there is none
_BUDGET = Retry(budget=45.0)
logger = logging.getLogger(__name__)


class PoolRefused(Exception):
    """The pool cannot be as it should: the API refused an object, or somebody else has one of its names."""


class VerificationPool:
    """Keeps the pool as it should be, and verifies in it. Belongs to one event loop."""

    def __init__(self, kube: Kube, farm: Farm) -> None:
        settings = farm.settings
        self._kube, self._farm = kube, farm
        name = settings.deployment or settings.lease_name
        uid = None
        if settings.deployment:
            own = kube.get(DEPLOYMENT, settings.namespace, settings.deployment)
            uid = own["metadata"]["uid"] if own else None
        self.owner = Owner("Deployment", name, settings.namespace, uid)
        self._pods: dict[str, dict[str, Any]] = {}
        self._tls: ClientTls | None = None
        self._serves = asyncio.Event()
        self._idleness = Idleness(settings.verifier_idle_seconds)
        self._turned = asyncio.Event()  # it is to be provided anew
        self._wake_mark: str | None = None
        self.fault = ""  # why it could not be provided, when that was tried last
        self.isolated: bool | None = None  # what canaries found last; it was true of pods that slept since
        self._client: _Shared | None = None

    @property
    def state(self) -> PoolView:
        return view(self._replicas, self._pods.values())

    @property
    def _replicas(self) -> int:
        return 0 if self._idleness.asleep else self._farm.settings.verifier_replicas

    async def changed(self, seconds: float) -> None:
        """Returns when it wakes, when it falls asleep, or after some seconds: then it is to be provided."""
        self._look()
        deadline = time.monotonic() + seconds
        while not self._turned.is_set() and (left := deadline - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, max(1.0, self._idleness.left()))):
                    await self._turned.wait()
            if self._idleness.nod():
                logger.info("nothing to verify: the verification pool goes to sleep")
                self._look()
                return
        self._turned.clear()

    def wake(self, mark: str) -> None:
        """Somebody who asks for it (by a new mark) is about to use it."""
        if mark != self._wake_mark:
            self._wake_mark = mark
            self._wake(self._idleness.touch())

    def _wake(self, woke: bool) -> None:
        if woke:
            logger.info("the verification pool wakes")
            self._look()
            self._turned.set()

    def provide(self) -> None:
        """Makes what is missing and mends what differs. Blocking. Raises KubeError and PoolRefused."""
        try:
            self._provide()
        except (KubeError, PoolRefused) as error:
            self.fault = f"the verification pool: {error}"
            raise
        self.fault = ""

    def _provide(self) -> None:
        settings = self._farm.settings
        namespace = settings.namespace
        secret_name = self._pool("").secret
        found = self._own(SECRET, secret_name)
        if found is not None and renewal_due(found["data"], datetime.now(UTC)):
            self._kube.delete(SECRET, namespace, secret_name, uid=found["metadata"]["uid"])
            found = None
        if found is None:
            create_certificates(self._kube, self.owner, secret_name, self._pool("").name)
            found = self._kube.get(SECRET, namespace, secret_name)
            assert found is not None
        files = read_certificates(found)
        pool = self._pool(hashlib.sha256(canonical_json(found["data"])).hexdigest()[:16])
        self._tls = ClientTls(files["client.crt"], files["client.key"], files["ca.crt"], pool.server_name)
        for wanted in pool_objects(pool):
            outcome = carry_out(self._kube, self.owner, mended(wanted, self._own(*wanted.target)))
            outcome.check()
            if outcome.refusals:
                raise PoolRefused("; ".join(outcome.refusals))

    def _own(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """The pool's object of a name, if there is one. Raises PoolRefused for one that is somebody else's."""
        found = self._kube.get(kind, self.owner.namespace, name)
        if found is not None and self.owner.uid is not None and not is_own(self.owner, found):
            raise PoolRefused(advice(describe_foreign(self.owner, kind.kind, kind.plural, found)))
        return found

    def beat(self, mark: str, annotation: str) -> None:
        """Marks the pool's StatefulSet. Blocking."""
        self._kube.annotate(STATEFUL_SET, self._farm.settings.namespace, self._pool("").name, {annotation: mark})

    def note(self, pod: dict[str, Any], gone: bool) -> None:
        """Takes in a pod as it is now."""
        name = pod["metadata"]["name"]
        before = self._addresses()
        if gone:
            self._pods.pop(name, None)
        else:
            self._pods[name] = {key: pod[key] for key in ("metadata", "status") if key in pod}
        if self._addresses() != before and self._client is not None:
            self._client.retire()
            self._client = None
        found = self.state.isolated
        self.isolated = self.isolated if found is None else found
        self._look()

    def _look(self) -> None:
        if self._addresses() and self._tls is not None and not self._idleness.asleep:
            self._serves.set()
        else:
            self._serves.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[bool]:
        """Keeps it awake. Gives whether it serves, once it does or after a while."""
        self._wake(self._idleness.begin())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._serves.wait()
            if not self._serves.is_set():
                await asyncio.to_thread(self._ask_why)
            yield self._serves.is_set()
        finally:
            self._idleness.end()

    def _ask_why(self) -> None:
        """Finds out what keeps its pods from being created. Blocking."""
        try:
            found = self._own(*self._stateful_set)
            words = not_created(self._kube, self.owner.namespace, [found] if found else [], self._pods.values())
        except (KubeError, PoolRefused) as error:
            words = (str(error),)
        self.fault = "; ".join(words) or self.fault

    @property
    def _stateful_set(self) -> tuple[Kind, str]:
        return STATEFUL_SET, self._pool("").name

    async def verify(self, environment: Environment) -> Verdict:
        """The verdict on one Environment; Pending where the pool does not serve."""
        if not self._addresses():
            return self.unserved(environment)
        async with self._sandbox() as sandbox:
            return await verify_environment(environment, sandbox)

    def unserved(self, environment: Environment) -> Verdict:
        """What is said of an Environment when no pod serves: nothing, yet, and why."""
        why = self.fault or self.state.waits
        message = "not verified: no pod of the verification pool serves yet; it is tried again"
        return Verdict(
            name=environment.name,
            phase="Pending",
            digest=environment.digest,
            toolset=None,
            checks=dict.fromkeys(CHECKS, "skipped"),
            reason=Reason.SANDBOX_UNAVAILABLE,
            message=f"{message} ({why})" if why else message,
        )

    @asynccontextmanager
    async def _sandbox(self) -> AsyncIterator[SandboxClient]:
        if self._client is None:
            self._client = _Shared(SandboxClient(self._addresses(), self._tls, retry=_BUDGET))
        shared = self._client
        shared.users += 1
        try:
            yield shared.client
        finally:
            shared.users -= 1
            await shared.close_if_unused()

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.client.close()

    def _addresses(self) -> list[str]:
        ready = [pod for pod in self._pods.values() if is_ready(pod) and pod["status"].get("podIP")]
        return sorted(_address(pod["status"]["podIP"]) for pod in ready)

    def _pool(self, certificates: str) -> Pool:
        settings = self._farm.settings
        return Pool(
            owner=self.owner,
            image=settings.sandbox_image,
            pull_policy=settings.pull_policy,
            replicas=self._replicas,
            clients=dict(settings.operator_labels),
            runtime_class=settings.runtime_class,
            capacity=_CAPACITY,
            resources={**_RESOURCES, **settings.verifier_resources},
            policy_version=self._farm.policy_version,
            certificates_digest=certificates,
            egress_targets=settings.canary_targets,
            monitoring=settings.monitoring,
            template=merged(settings.pod_defaults.verification, None),
        )


class _Shared:
    """A client that several verifications use; closed when it is retired and the last of them is done."""

    def __init__(self, client: SandboxClient) -> None:
        self.client, self.users = client, 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def retire(self) -> None:
        self._retired = True
        if self.users == 0:  # nobody will leave it any more
            self._closing = asyncio.create_task(self.client.close())

    async def close_if_unused(self) -> None:
        if self._retired and self.users == 0:
            await self.client.close()


def _address(ip: str) -> str:
    return f"[{ip}]:{PORT}" if ":" in ip else f"{ip}:{PORT}"
