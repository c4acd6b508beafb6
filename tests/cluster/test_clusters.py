"""The clusters that the other tests stand on are what they say."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from clusters import Cluster


def test_the_api_server_collects_garbage(api_server: Cluster) -> None:
    with api_server.namespace() as namespace:
        owner = _config_map("owner", namespace)
        api_server.apply(owner)
        uid = api_server.get("configmap", "owner", "-n", namespace)["metadata"]["uid"]
        owned = _config_map("owned", namespace)
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
        owned["metadata"]["ownerReferences"] = [reference]
        api_server.apply(owned)
        api_server.kubectl("delete", "configmap", "owner", "-n", namespace)
        deadline = time.monotonic() + 60
        while any(
            item["metadata"]["name"] == "owned" for item in api_server.get("configmap", "-n", namespace)["items"]
        ):
            assert time.monotonic() < deadline, "the owned object outlived its owner"
            time.sleep(0.5)


_HOLDS_A_SERVER = """
import sys
from pathlib import Path
from clusters import crd_server

with crd_server(*map(Path, sys.argv[1:])) as server:
    print(server.kubeconfig, flush=True)
    sys.stdin.read()
"""


def test_servers_end_with_the_process_that_started_them(kit_and_binaries: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", _HOLDS_A_SERVER, *kit_and_binaries]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        kubeconfig = Path(holder.stdout.readline().strip())
        url = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        socket.create_connection(address).close()
        holder.kill()
    deadline = time.monotonic() + 30
    while kubeconfig.parent.exists():
        assert time.monotonic() < deadline, "what a killed process started lives on"
        time.sleep(0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def _config_map(name: str, namespace: str) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}
