"""scripts/kind_node_runsc.sh with real containerds: what it makes of the configuration of a kind node."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_SCRIPT = ROOT / "scripts" / "kind_node_runsc.sh"
_HOME = Path(os.environ.get("ASTRA_CLUSTER_HOME", Path.home() / ".cache" / "astra-cluster"))
_CURRENT = _HOME / "astra-farm" / "containerd"
_FETCH = r"""set -euo pipefail
source "$0/env.sh"; options=$(apt_for sid)
mkdir -p "$1.new"; cd "$1.new"
apt-get $options download containerd || { apt-get $options update; apt-get $options download containerd; }
dpkg -x containerd_*.deb . && rm containerd_*.deb
mv "$1.new" "$1"
"""
_KIND = """# what the nodes of kind say, as far as runtimes go
version = 2
[proxy_plugins."fuse-overlayfs"]
type = "snapshot"
address = "/run/containerd-fuse-overlayfs.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.10"
restrict_oom_score_adj = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/containerd/cri-base.json"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/containerd/cri-base.json"
"""


@pytest.fixture(scope="module", params=["1", "2"])
def containerd(request: pytest.FixtureRequest) -> Path:
    """The containerd of the cluster kit, which is a 1.6, or the newest of Debian, which is a 2."""
    program = _HOME / "root" / "usr" / "bin" / "containerd"
    if request.param == "2":
        kit = (ROOT / os.environ.get("ASTRA_CLUSTER_KIT", "../shared/cluster")).resolve()
        if not _CURRENT.exists():
            if not (kit / "env.sh").exists():
                pytest.skip(f"needs containerd 2, which the cluster kit fetches (not at {kit})")
            command = ["bash", "-c", _FETCH, str(kit), str(_CURRENT)]
            fetched = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
            if fetched.returncode:
                pytest.skip(f"containerd 2 cannot be fetched: {fetched.stderr[-300:]}")
        program = _CURRENT / "usr" / "bin" / "containerd"
    if not program.exists():
        pytest.skip(f"needs containerd {request.param} (not at {program}: run the cluster kit's setup.sh)")
    return program


@pytest.fixture
def node(containerd: Path, tmp_path: Path) -> "Node":
    return Node(containerd, tmp_path)


class Node:
    """A folder with a node's containerd, its configuration, and a systemctl that writes down what it is asked."""

    def __init__(self, containerd: Path, folder: Path) -> None:
        self.config, self.restarts, self._folder = folder / "config.toml", folder / "restarts", folder
        self._containerd = containerd
        (folder / "containerd").symlink_to(containerd)
        (folder / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{self.restarts}\n')
        (folder / "systemctl").chmod(0o755)

    def containerd(self, *arguments: str) -> str:
        command = [self._containerd, "--config", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def seen(self) -> dict[str, Any]:
        """The configuration as containerd reads it, its defaults included."""
        return tomllib.loads(self.containerd("config", "dump"))

    def runtimes(self, seen: dict[str, Any]) -> dict[str, Any]:
        plugin = {2: "io.containerd.grpc.v1.cri"}.get(seen["version"], "io.containerd.cri.v1.runtime")
        found: dict[str, Any] = seen["plugins"][plugin]["containerd"]["runtimes"]
        return found

    def add_runsc(self) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"PATH": f"{self._folder}:{os.environ['PATH']}"}
        with _SCRIPT.open() as script:  # as kind_up.sh gives it to the node
            command = ["bash", "-s", str(self.config)]
            return subprocess.run(
                command, stdin=script, env=environment, capture_output=True, text=True, check=False, timeout=60
            )


def test_runsc_is_one_runtime_more_and_all_else_stays(node: Node) -> None:
    node.config.write_text(_KIND)
    _assert_that_runsc_is_added(node)


@pytest.mark.parametrize("containerd", ["2"], indirect=True)
def test_so_it_is_in_the_newest_version_of_the_configuration(node: Node) -> None:
    node.config.write_text(_KIND)
    node.config.write_text(node.containerd("config", "migrate"))
    assert "version = 2" not in node.config.read_text()
    _assert_that_runsc_is_added(node)


def _assert_that_runsc_is_added(node: Node) -> None:
    before = node.seen()
    done = node.add_runsc()
    assert done.returncode == 0, done.stderr
    after = node.seen()
    assert node.runtimes(after).pop("runsc")["runtime_type"] == "io.containerd.runsc.v1"
    assert after == before
    runc = node.runtimes(after)["runc"]
    assert runc["base_runtime_spec"] == "/etc/containerd/cri-base.json"
    assert runc["options"]["SystemdCgroup"] is True
    assert node.restarts.read_text() == "restart containerd\n"


def test_a_node_that_has_runsc_is_left_alone(node: Node) -> None:
    node.config.write_text(_KIND)
    assert node.add_runsc().returncode == 0
    text = node.config.read_text()
    assert node.add_runsc().returncode == 0
    assert node.config.read_text() == text
    assert node.restarts.read_text() == "restart containerd\n"


def test_a_configuration_that_would_not_take_it_stays_as_it_was(node: Node) -> None:
    """Runtimes in one line cannot be extended by a table."""
    text = (
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\n'
        'runtimes = {runc = {runtime_type = "io.containerd.runc.v2"}}\n'
    )
    node.config.write_text(text)
    done = node.add_runsc()
    assert done.returncode == 1
    assert node.config.read_text() == text
    assert not node.restarts.exists()
    assert "does not take runsc" in done.stderr
