"""Is egress refused? Tried from inside a sandbox pod, before its server starts: many networks store a NetworkPolicy and
ignore it.

    python -m astra_sandbox.canary [HOST:PORT ...]

It tries the API server, the cluster's DNS and the addresses given; what answers is open. A policy may take some
seconds to be in force for a new pod, so what is open is tried again for a while. The finding goes to the container's
termination message as JSON: `{"refused": [...], "open": [...]}`. Exit code 0 in either case: whoever reads it decides.
It is no session: sessions have no sockets at all.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 10.0
_WAIT_SECONDS = 2.0  # for one answer
_MESSAGE = Path("/dev/termination-log")
_DNS_QUERY = (
    b"\x5a\x5a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"
)

Probe = Callable[[], bool]


def main(targets: list[str]) -> int:
    """Tries everything and writes what it found."""
    found = json.dumps(look({**_cluster_probes(), **{target: _tcp(target) for target in targets}}, PATIENCE_SECONDS))
    print(found)
    with contextlib.suppress(OSError):
        _MESSAGE.write_text(found)
    return 0


def look(probes: dict[str, Probe], patience: float) -> dict[str, list[str]]:
    """{"refused": names, "open": names}: a probe that is True is open, unless it is refused within `patience` seconds.

    Refused is what never answers; so a target that does not exist is refused too.
    """
    end = time.monotonic() + patience
    is_open = {name: probe() for name, probe in probes.items()}
    while any(is_open.values()) and time.monotonic() < end:
        time.sleep(0.5)
        is_open |= {name: probes[name]() for name, answered in is_open.items() if answered}
    return {
        "refused": sorted(name for name, answered in is_open.items() if not answered),
        "open": sorted(name for name, answered in is_open.items() if answered),
    }


def _cluster_probes() -> dict[str, Probe]:
    probes: dict[str, Probe] = {}
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host:
        probes[f"API server {host}:{port}"] = _tcp(f"{host}:{port}")
    for server in _name_servers():
        probes[f"DNS {server}:53/udp"] = _dns(server)
    return probes


def _name_servers() -> list[str]:
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return []
    return [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]


def _tcp(target: str) -> Probe:
    host, _, port = target.rpartition(":")

    def probe() -> bool:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT_SECONDS):
                return True
        except ConnectionRefusedError:
            return True  # something beyond this pod answered
        except OSError:
            return False

    return probe


def _dns(server: str) -> Probe:
    def probe() -> bool:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            connection.settimeout(_WAIT_SECONDS)
            try:
                connection.connect((server, 53))
                connection.send(_DNS_QUERY)
                return bool(connection.recv(512))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False

    return probe


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
