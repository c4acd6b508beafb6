"""The script of `helm test`, against a server with certificates like a pool's."""

import base64
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from astra_operator.manifests.certificates import make_certificates

SCRIPT = Path(__file__).parents[2] / "helm" / "astra-farm" / "files" / "call_a_tool.py"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_it_calls_a_tool_over_mutual_tls(tmp_path: Path) -> None:
    for name, text in make_certificates("pool", "astra", datetime.now(UTC)).items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    port = _free_port()
    flags = [f"--tls-{flag}={tmp_path / name}" for flag, name in
             (("cert", "server.crt"), ("key", "server.key"), ("ca", "ca.crt"))]  # fmt: skip
    server = [sys.executable, "-m", "astra_sandbox", "--listen", f"127.0.0.1:{port}", "--contain", "process", *flags]
    environment = {**os.environ, "ASTRA_TLS_DIR": str(tmp_path), "ASTRA_SERVER_NAME": "pool.astra.svc"}
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as serving:
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(["bash", "-c", f": < /dev/tcp/127.0.0.1/{port}"], capture_output=True).returncode:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            command = [sys.executable, str(SCRIPT), f"127.0.0.1:{port}"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            assert "length('astra') gave 5" in done.stdout
        finally:
            serving.terminate()
