"""The canary tells what answers from what does not, and waits for a policy to be in force."""

import contextlib
import json
import socket
from pathlib import Path

import pytest

from astra_sandbox import canary


def test_what_answers_is_open_and_what_does_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = tmp_path / "termination-log"
    monkeypatch.setattr(canary, "_MESSAGE", message)
    monkeypatch.setattr(canary, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(canary, "_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(canary, "_name_servers", lambda: [])
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as full, contextlib.ExitStack() as stack:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(listener.getsockname()[1]))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        silent = f"127.0.0.1:{full.getsockname()[1]}"
        for _ in range(3):  # its queue is full: what comes next is dropped, as a policy drops it
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        assert canary.main([silent]) == 0
        found = json.loads(message.read_text())
        assert found == {"refused": [silent], "open": [f"API server 127.0.0.1:{listener.getsockname()[1]}"]}
    assert json.loads(capsys.readouterr().out) == found


def test_a_refusal_by_the_target_itself_is_no_policy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert canary._tcp(f"127.0.0.1:{port}")(), "something answered, though nobody listens"


def test_a_policy_that_comes_late_counts() -> None:
    answers = iter([True, True, False])
    assert canary.look({"late": lambda: next(answers)}, patience=10.0) == {"refused": ["late"], "open": []}
