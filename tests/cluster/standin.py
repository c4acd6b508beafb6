"""A stand-in for the kubelet, for a control plane that has none: it runs the operator's sandbox pods as real processes
on loopback addresses, with their real certificates, and says of Job pods what a test tells it to.
"""

import base64
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clusters import Cluster

from astra_api.kube import POD, SECRET, Kube, KubeError
from astra_operator.manifests.identity import MANAGED, ROLE
from astra_operator.manifests.pool import CANARY
from astra_operator.settings import PORT

_numbers = itertools.count(os.getpid() % 200 * 200 + 10)


class KubeletStandIn:
    """Serves one namespace, from `started` to the end of its block."""

    def __init__(self, kube: Kube, namespace: str, *, isolated: bool = True) -> None:
        self.kube, self.namespace = kube, namespace
        self.isolated = isolated  # what canaries are made to find
        self.job_says: dict[str, Any] | None = {"phase": "Running"}  # status of the pods of Jobs
        self._servers: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}  # uid -> (address, process)
        self._folder = tempfile.TemporaryDirectory(prefix="astra-standin-")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextmanager
    def started(self) -> Iterator["KubeletStandIn"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(30)
            for _, process in self._servers.values():
                _end(process)
            self._folder.cleanup()

    def pods(self, role: str) -> list[dict[str, Any]]:
        return list(self.kube.list(POD, self.namespace, f"{MANAGED},{ROLE}={role}"))

    def _serve(self) -> None:
        while not self._stop.wait(0.3):
            with suppress(KubeError):  # an API that is restarted, or an object that went away: the next look tells
                self._look()

    def _look(self) -> None:
        pods = list(self.kube.list(POD, self.namespace, MANAGED))
        for uid in self._servers.keys() - {pod["metadata"]["uid"] for pod in pods}:
            _end(self._servers.pop(uid)[1])
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                self._remove(pod)
            elif pod["metadata"]["labels"][ROLE] == "sandbox":
                self._run_sandbox(pod)
            elif self.job_says is not None and not _within(self.job_says, pod.get("status") or {}):
                self._patch(pod, self.job_says)

    def _remove(self, pod: dict[str, Any]) -> None:
        path = POD.path(self.namespace, pod["metadata"]["name"])
        with suppress(KubeError):
            self.kube._call("DELETE", path, {"gracePeriodSeconds": "0"})

    def _run_sandbox(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._servers:
            self._servers[uid] = self._start(pod)
        address, process = self._servers[uid]
        if (pod.get("status") or {}).get("podIP"):
            return
        assert process.stdout is not None
        if b"serving on" not in process.stdout.readline():
            return
        targets = ["API server"]
        said = {"refused": targets, "open": []} if self.isolated else {"refused": [], "open": targets}
        ended = {"exitCode": 0, "message": json.dumps(said), "reason": "Completed"}
        canary = {"name": CANARY, "image": "", "imageID": "", "ready": True, "restartCount": 0}
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [canary | {"state": {"terminated": ended}}],
        }
        self._patch(pod, status)

    def _start(self, pod: dict[str, Any]) -> tuple[str, subprocess.Popen[bytes]]:
        """Its server, as its manifest says, on an address of its own."""
        (volume,) = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        data = (self.kube.get(SECRET, self.namespace, volume["secretName"]) or {})["data"]
        folder = Path(self._folder.name) / pod["metadata"]["uid"]
        folder.mkdir()
        for item in volume["items"]:
            (folder / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
        number = next(_numbers)
        address = f"127.{10 + number // 65025 % 200}.{number // 255 % 255}.{number % 254 + 1}"
        (container,) = pod["spec"]["containers"]
        replaced = {"python": sys.executable, f"0.0.0.0:{PORT}": f"{address}:{PORT}"}
        command = [replaced.get(word, word).replace("/etc/astra/tls", str(folder)) for word in container["command"]]
        process = subprocess.Popen(
            [*command, "--contain", "process", "--exit-with-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return address, process

    def _patch(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        self.kube.patch_status(POD, self.namespace, pod["metadata"]["name"], status, uid=pod["metadata"]["uid"])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()  # closes its pipes


def ended(exit_code: int, message: str = "") -> dict[str, Any]:
    """The status of a Job's pod that ended."""
    state = {"terminated": {"exitCode": exit_code, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}}
    container = {"name": "trainer", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": [container]}


def kube_of(cluster: Cluster) -> Kube:
    """The official client, as the cluster's administrator."""
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    return Kube(client.ApiClient(configuration))


def _within(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_within(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_within, wanted, found))
    return bool(wanted == found)
