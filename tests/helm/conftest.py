"""Helm without a cluster: `helm lint` and `helm template`."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "astra-farm"
_KIT = Path(os.environ.get("ASTRA_CLUSTER_HOME", Path.home() / ".cache" / "astra-cluster")) / "kbin" / "helm"
Object = dict[str, Any]


@pytest.fixture(scope="session")
def helm() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs helm; nothing is checked."""
    program = shutil.which("helm") or (str(_KIT) if os.access(_KIT, os.X_OK) else None)
    if program is None:
        pytest.skip("needs helm: on PATH, or in the cluster kit (run its setup.sh)")

    def run(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, check=False, timeout=120)

    return run


@pytest.fixture(scope="session")
def template(helm: Callable[..., "subprocess.CompletedProcess[str]"]) -> Callable[..., list[Object]]:
    """The objects that the chart makes of values, for a server: release `farm` in namespace `astra`."""

    def render(values: Object | None = None, *flags: str) -> list[Object]:
        done = helm(
            "template", "farm", str(CHART), "-n", "astra", "-f", "-", *flags, stdin=yaml.safe_dump(values or {})
        )
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return render
