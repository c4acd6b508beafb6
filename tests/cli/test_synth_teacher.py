"""`astra synth` with a teacher that cannot be used: one line that says why, the right exit code, no key anywhere."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Astra = Callable[..., tuple[int, str, str]]
KEY = "sk-canary-0123456789abcdef"
RUN = """\
apiVersion: astra.farm/v1alpha1
kind: SynthesisRun
metadata: {name: asked}
spec:
  count: 1
  teacher: {baseUrl: "URL", model: m, retries: 0}
  environments: {source: {type: questions, path: questions.txt}}
"""


@contextmanager
def echoing(status: int, body: str) -> Iterator[str]:
    """An endpoint that answers all the same, with the Authorization that it was sent in place of KEY."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = body.replace("KEY", str(self.headers["Authorization"])).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


MESSAGE = {"role": "assistant", "content": "I was sent KEY"}
CASES: dict[str, tuple[int, str, int, str]] = {  # status, body -> exit code, what stands on standard error
    "a page": (200, "<html><title>KEY</title>", 1, r"an HTML page .*; is spec\.teacher\.baseUrl right\?"),
    "all refused": (400, '{"error": "KEY"}', 1, "1 item failed by the endpoint's fault, the last with TeacherBadReq"),
    "no answer": (200, json.dumps({"choices": [{"message": MESSAGE}]}), 1, "^"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_key_stays_where_it_is(name: str, astra: Astra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, body, code, message = CASES[name]
    monkeypatch.setenv("ASTRA_TEACHER_API_KEY", f"{KEY}\n")
    (tmp_path / "questions.txt").write_text("How many berths does the harbour have?\n")
    with echoing(status, body) as url:
        (tmp_path / "run.yaml").write_text(RUN.replace("URL", url))
        found, out, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert found == code
    assert re.search(message, err, re.MULTILINE), err
    assert "Traceback" not in err
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "canary" not in out + err
    assert b"canary" not in kept
    done = list((tmp_path / "out" / "done").iterdir())
    assert len(done) == (name == "no answer")  # only what the model said is the item's fault


SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "a key in two lines": (
        {"ASTRA_TEACHER_API_KEY": f"{KEY}\n{KEY}"},
        "^error: ASTRA_TEACHER_API_KEY: the key holds white space and cannot be sent; set it to the key alone$",
    ),
    "a proxy": ({"ALL_PROXY": f"socks4://u:{KEY}@p:1", "NO_PROXY": ""}, "^error: ALL_PROXY: is not the URL of a proxy"),
    "certificates": ({"SSL_CERT_FILE": "/none.pem"}, "^error: SSL_CERT_FILE: /none.pem cannot be used: No such file"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_used(
    name: str, astra: Astra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ, message = SETTINGS[name]
    for variable in ("HTTPS_PROXY", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "questions.txt").write_text("How many berths does the harbour have?\n")
    (tmp_path / "run.yaml").write_text(RUN.replace("URL", "https://api.example.com/v1"))
    code, out, err = astra("synth", "-f", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert re.search(message, err, re.MULTILINE), err
    assert "canary" not in out + err
    assert "Traceback" not in err
