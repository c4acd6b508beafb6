"""Many Environments at once, and none: against a real API server and real controllers; a stand-in plays the kubelet."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from labs import with_kinds
from operators import RunningOperator, eventually
from standin import KubeletStandIn, kube_of

from astra_api.kube import ENVIRONMENT, TRAINING_RUN, Kind, Kube
from astra_operator.manifests.job import JOB, SERVICE_ACCOUNT
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.verification_pool import WAKE

NAMESPACES, LARGE = 20, 100 * 1024
COUNT = int(os.environ.get("ASTRA_LOAD_ENVIRONMENTS", "1500"))  # 5000 takes seven minutes
POOL = "verify-astra-farm-operator-sandbox"
MIB = 2**20


@pytest.fixture(scope="module")
def kube(api_server: Cluster) -> Kube:
    return kube_of(with_kinds(api_server))


@pytest.fixture
def home(api_server: Cluster, kube: Kube) -> Iterator[str]:
    """A namespace for an operator, whose pods run."""
    with api_server.namespace("load") as namespace:
        eventually(lambda: kube.get(SERVICE_ACCOUNT, namespace, "default"))
        with KubeletStandIn(kube, namespace).started():
            yield namespace


def make(kube: Kube, kind: Kind, namespace: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}
    kube.create(kind, namespace, body)


def environment(number: int, padding: int = 0) -> dict[str, Any]:
    """One look-up; twenty numbers after another share no source, and each has another question."""
    town = f"town-{number % 97}"
    source = (
        f"_SET = {number % NAMESPACES}\n_PEOPLE = {{f'town-{{n}}': 1000 + n * n for n in range(97)}}\n"
        "def people(town: str) -> int:\n    return _PEOPLE[town]\n"
    )
    parameters = {
        "type": "object",
        "properties": {"town": {"type": "string"}},
        "required": ["town"],
        "additionalProperties": False,
    }
    answer = 1000 + (number % 97) ** 2
    return {
        "question": f"How many people live in {town}? ({number})",
        "answer": answer,
        "domain": "load",
        "scenario": "single-hop",
        "steps": [
            {
                "id": "s1",
                "question": "?",
                "answer": answer,
                "call": {"tool": "people", "arguments": {"town": town}},
            }
        ],
        "tools": [{"name": "people", "description": "People of a town.", "parameters": parameters}],
        "source": source + (f'_NOTES = """{"x" * padding}"""\n' if padding else ""),
    }


def phase(kube: Kube, namespace: str, name: str) -> str:
    return str(((kube.get(ENVIRONMENT, namespace, name) or {}).get("status") or {}).get("phase"))


def replicas(kube: Kube, namespace: str) -> int | None:
    found = kube.get(STATEFUL_SET, namespace, POOL)
    return None if found is None else int(found["spec"]["replicas"])


def test_the_verification_pool_sleeps_without_work_and_wakes_for_it(
    api_server: Cluster, kube: Kube, home: str, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    with RunningOperator(api_server, home, log, ASTRA_VERIFIER_IDLE_SECONDS="8") as operator:
        eventually(lambda: operator.metric("astra_verifier_pods_ready") == 1, 180, what=lambda: operator.log[-2000:])
        make(kube, ENVIRONMENT, home, "first", environment(1))
        eventually(lambda: phase(kube, home, "first") == "Verified", 120, what=lambda: operator.log[-2000:])
        eventually(lambda: replicas(kube, home) == 0, 60, what=lambda: operator.log[-2000:])
        eventually(lambda: operator.metric("astra_verifier_pods_ready") == 0)
        assert operator.metric("astra_verifier_pods_wanted") == 0
        assert operator.metric("astra_verifier_network_isolated") == 1, "what canaries found stays found"
        made = kube.get(STATEFUL_SET, home, POOL)
        assert made is not None
        make(kube, ENVIRONMENT, home, "second", environment(2))
        seen = set()

        def verified() -> bool:
            seen.add(phase(kube, home, "second"))
            return "Verified" in seen

        eventually(verified, 120, every=0.2, what=lambda: (seen, operator.log[-2000:]))
        assert seen <= {"None", "Pending", "Verified"}, "it waited for the pool, and nothing failed"
        assert operator.metric("astra_verifications_total", phase="Pending") == 0
        eventually(lambda: replicas(kube, home) == 0, 60)
        again = kube.get(STATEFUL_SET, home, POOL)
        assert again is not None
        assert again["metadata"]["uid"] == made["metadata"]["uid"], "the StatefulSet stays: the heartbeat marks it"
        kube.annotate(STATEFUL_SET, home, POOL, {WAKE: "somebody who calls a tool"})
        eventually(lambda: operator.metric("astra_verifier_pods_ready") == 1, 60, what=lambda: operator.log[-2000:])
        assert operator.page("healthz") == "ok"


def test_a_run_begins_with_every_environment_that_there_was(
    api_server: Cluster, kube: Kube, home: str, tmp_path: Path
) -> None:
    with RunningOperator(api_server, home, tmp_path / "operator.log") as operator:
        make(kube, ENVIRONMENT, home, "before", environment(0))
        eventually(lambda: phase(kube, home, "before") == "Verified", 180, what=lambda: operator.log[-2000:])
        for number in range(30):
            make(kube, ENVIRONMENT, home, f"with-{number:02}", environment(number + 1))
        run = {"model": {"preset": "tiny"}, "rl": {"steps": 3}, "sandboxes": {"replicas": 1}}
        make(kube, TRAINING_RUN, home, "tiny", run)
        eventually(
            lambda: kube.get(JOB, home, "train-tiny"), 180, every=0.1, what=lambda: kube.get(TRAINING_RUN, home, "tiny")
        )
        phases = [(body.get("status") or {}).get("phase") for body in kube.list(ENVIRONMENT, home)]
        assert phases == ["Verified"] * 31


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_thousands_of_environments_in_twenty_namespaces_at_once(
    api_server: Cluster, kube: Kube, home: str, tmp_path: Path, record_property: Any
) -> None:
    """The memory allowed is on the way to 300 MiB with 5,000: what is kept of each would show with fewer."""
    allowed = (140 + 160 * COUNT / 5000) * MIB
    with ExitStack() as stack:
        *served, few = (stack.enter_context(api_server.namespace("load")) for _ in range(NAMESPACES + 1))
        watched = {"ASTRA_WATCH_NAMESPACES": ",".join([*served, few]), "ASTRA_VERIFIER_REPLICAS": "2"}
        operator = stack.enter_context(RunningOperator(api_server, home, tmp_path / "operator.log", **watched))
        eventually(lambda: operator.metric("astra_verifier_pods_ready") == 2, 180, what=lambda: operator.log[-2000:])
        began = time.monotonic()

        def apply(number: int) -> None:
            namespace = number % NAMESPACES
            spec = environment(number, 0 if namespace % 10 else LARGE)  # one in ten has a large source
            make(kube, ENVIRONMENT, served[namespace], f"e{number:04}", spec)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(apply, range(COUNT)))
        applied = time.monotonic() - began
        waiting = COUNT - operator.metric("astra_environments", phase="Verified")
        for number in range(5):
            make(kube, ENVIRONMENT, few, f"e{number}", environment(number))
        eventually(lambda: all(phase(kube, few, f"e{number}") == "Verified" for number in range(5)), 120)
        still = COUNT + 5 - operator.metric("astra_environments", phase="Verified")
        eventually(
            lambda: operator.metric("astra_environments", phase="Verified") == COUNT + 5,
            1200,
            every=2,
            what=lambda: operator.page("metrics"),
        )
        seconds = time.monotonic() - began
        writes = operator.metric("astra_operator_writes_total", kind="Environment")
        events = operator.metric("astra_operator_writes_total", kind="Event")
        most = operator.resident_bytes
        operator.kill()
        operator.start()
        eventually(lambda: operator.metric("astra_environments", phase="Verified") == COUNT + 5, 120)
        time.sleep(3)
        again = operator.resident_bytes
        figures = (
            f"applied in {applied:.0f} s, verified in {seconds:.0f} s; {still:.0f} of {waiting:.0f} waited when five "
            f"of another namespace were done; {(writes + events) / COUNT:.2f} writes each; "
            f"{most / MIB:.0f} MiB, {again / MIB:.0f} MiB when started again"
        )
        record_property("figures", figures)
        print(f"\n{COUNT} environments: {figures}")
        assert waiting < 500 or still > waiting / 2, "five did not wait for thousands"
        assert writes + events <= 3 * COUNT
        assert most < allowed
        assert again < allowed
        assert operator.metric("astra_operator_reconciles_total", kind="Environment") == 0, "all are decided"
