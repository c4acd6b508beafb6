"""The newest state reaches the API, whatever the API does meanwhile."""

from typing import Any

import pytest

from astra_api import status_writer
from astra_api.kube import TRAINING_RUN, KubeError
from astra_api.status_writer import StatusWriter


class Api:
    """Takes patches, after failing a number of times."""

    def __init__(self, failures: int = 0, code: int = 503) -> None:
        self.failures, self.code = failures, code
        self.status: dict[str, Any] = {}
        self.patches = 0

    def patch_status(self, kind: object, namespace: str, name: str, status: dict[str, Any], *, uid: str | None) -> None:
        assert uid == "of-this-run"
        self.patches += 1
        if self.failures:
            self.failures -= 1
            raise KubeError(self.code, "away")
        self.status |= status


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "_INTERVAL", 0.02)


def _write(api: Api) -> None:
    with StatusWriter(api, TRAINING_RUN, "lab", "tiny", "of-this-run") as status:  # type: ignore[arg-type]
        for step in range(100):
            status.say(phase="Training", step=step)
        status.say(phase="Evaluating")


def test_what_was_said_last_is_written_and_not_every_word() -> None:
    api = Api()
    _write(api)
    assert api.status == {"phase": "Evaluating", "step": 99}
    assert api.patches < 50


def test_an_api_that_is_away_for_a_while_costs_nothing() -> None:
    api = Api(failures=4)
    _write(api)
    assert api.status == {"phase": "Evaluating", "step": 99}


def test_an_api_that_stays_away_or_refuses_ends_no_training() -> None:
    for api in (Api(failures=1000), Api(failures=1000, code=403)):
        _write(api)
        assert api.status == {}
