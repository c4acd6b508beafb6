"""The Lease: held by one, fatal when it cannot be renewed, and asked before each write."""

import threading
import time
from typing import Any

import pytest

from astra_api.kube import LEASE, Kube, KubeError
from astra_operator import lease as module
from astra_operator.lease import Lease, LeaseLost


class Api(Kube):
    """Keeps one Lease, with the optimistic lock of a server; refuses or hangs when told to."""

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self.version = self.renewals = 0
        self.refuses: Exception | None = None
        self.hangs = threading.Event()
        self.lock = threading.Lock()

    def get(self, *_: Any) -> dict[str, Any] | None:
        while self.hangs.is_set():
            time.sleep(0.01)
        if self.refuses is not None:
            raise self.refuses
        return None if self.record is None else {**self.record, "metadata": {"resourceVersion": self.version}}

    def create(self, kind: Any, namespace: str, body: Any) -> dict[str, Any]:
        with self.lock:
            if self.record is not None:
                raise KubeError(409, "it exists")
            return self._keep(body)

    def replace(self, kind: Any, namespace: str, name: str, body: Any) -> dict[str, Any]:
        with self.lock:
            if body["metadata"]["resourceVersion"] != self.version:
                raise KubeError(409, "modified")
            return self._keep(body)

    def _keep(self, body: Any) -> dict[str, Any]:
        self.record, self.version, self.renewals = {"spec": body["spec"]}, self.version + 1, self.renewals + 1
        return self.record


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_DURATION", 1.5), ("_RENEW", 0.1), ("_DEADLINE", 0.8)):
        monkeypatch.setattr(module, name, seconds)


def held(api: Api, identity: str = "one") -> tuple[Lease, threading.Event]:
    lease, lost = Lease(api, "farm", "lease", identity), threading.Event()
    lease.acquire()
    lease.keep(lost.set)
    return lease, lost


@pytest.mark.parametrize("refusal", [KubeError(403, "forbidden"), KubeError(401, "expired"), ValueError("no JSON")])
def test_one_refusal_is_survived_and_renewal_goes_on(refusal: Exception) -> None:
    api = Api()
    lease, lost = held(api)
    api.refuses = refusal
    time.sleep(0.3)
    api.refuses = None
    time.sleep(0.2)
    before = api.renewals
    time.sleep(1.2)
    assert api.renewals > before
    assert lease.held
    assert not lost.is_set()
    lease.check()
    lease.release()


@pytest.mark.parametrize("refusal", [KubeError(403, "forbidden"), KubeError(0, "no route"), RuntimeError("a fault")])
def test_a_lease_that_cannot_be_renewed_ends_the_operator_before_another_may_take_it(refusal: Exception) -> None:
    api = Api()
    lease, lost = held(api)
    api.refuses = refusal
    began = time.monotonic()
    assert lost.wait(5)
    assert time.monotonic() - began < 1.5
    with pytest.raises(LeaseLost):
        lease.check()
    lease.give_up()


def test_a_request_that_hangs_does_not_keep_the_operator_from_ending() -> None:
    api = Api()
    lease, lost = held(api)
    api.hangs.set()
    assert lost.wait(1.5)
    api.hangs.clear()
    lease.give_up()


def test_a_lease_that_another_took_is_not_taken_back() -> None:
    api = Api()
    lease, lost = held(api)
    assert api.record is not None
    with api.lock:
        api.record["spec"]["holderIdentity"] = "two"
        api.version += 1
    assert lost.wait(5)
    assert not lease.held
    time.sleep(2)
    assert api.record["spec"]["holderIdentity"] == "two"


def test_two_never_hold_it_at_once() -> None:
    api = Api()
    leases = [Lease(api, "farm", "lease", identity) for identity in ("one", "two")]
    threads = [threading.Thread(target=lease.acquire, daemon=True) for lease in leases]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    (first,) = [lease for lease in leases if lease.held]
    (second,) = [lease for lease in leases if not lease.held]
    time.sleep(2)  # the first does not renew
    assert second.held
    with pytest.raises(LeaseLost):
        first.check()


def test_a_write_asks_before_it_is_sent() -> None:
    """A process that was stopped, and wakes after its Lease ended, writes nothing more."""
    api = Api()
    lease = Lease(api, "farm", "lease", "one")
    lease.acquire()
    guarded = Kube(None).guarded(lease.check)
    time.sleep(1.0)  # stopped: no thread renews
    with pytest.raises(LeaseLost):
        guarded.replace(LEASE, "farm", "other", {})
    with pytest.raises(LeaseLost):
        guarded.delete(LEASE, "farm", "other")
