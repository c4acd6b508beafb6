"""A running operator, and waiting for what it does."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from clusters import Cluster

T = TypeVar("T")


class RunningOperator:
    """`python -m astra_operator` as a process of this machine. A context manager."""

    def __init__(self, cluster: Cluster, namespace: str, log: Path, **environment: str) -> None:
        self.port = _free_port()
        self._log = log
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "ASTRA_NAMESPACE": namespace,
            "ASTRA_WATCH_NAMESPACES": namespace,
            "ASTRA_METRICS_PORT": str(self.port),
            "ASTRA_VERIFIER_REPLICAS": "1",
            "ASTRA_RUNTIME_CLASS": "",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "astra_operator"]
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """With -9: nothing is tidied up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def page(self, name: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{name}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry the labels; 0 of an operator that does not answer yet."""
        total = 0.0
        try:
            page = self.page("metrics")
        except OSError:
            return 0.0
        for line in page.splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    @property
    def resident_bytes(self) -> int:
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def eventually(look: Callable[[], T], seconds: float = 120.0, *, every: float = 0.5, what: Any = "") -> T:
    """What `look` gives once it is true. Raises AssertionError when it stays false."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(every)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
