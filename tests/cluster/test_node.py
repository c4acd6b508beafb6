"""The node that other tests stand on is what it says."""

import socket

import pytest
from clusters import Node


@pytest.mark.timeout(900)
def test_a_gvisor_pod_runs_and_can_be_reached(node: Node) -> None:
    with node.namespace() as namespace:
        server = "httpd -f -p 8000 -h /etc"
        container = {"name": "main", "image": "docker.io/library/bb:local", "command": ["sh", "-c", server]}
        node.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "probe", "namespace": namespace},
                "spec": {"runtimeClassName": "gvisor", "containers": [container | {"imagePullPolicy": "Never"}]},
            }
        )
        node.kubectl("wait", "--for=condition=Ready", "pod/probe", "-n", namespace, "--timeout=400s", timeout=420)
        assert "Starting gVisor" in node.kubectl("exec", "probe", "-n", namespace, "--", "dmesg")
        address = node.get("pod", "probe", "-n", namespace)["status"]["podIP"]
        with socket.create_connection(("127.0.0.1", node.forward(address, 8000)), timeout=10) as connection:
            connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
            assert connection.recv(4096).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
