"""Fixtures over a real Kubernetes API.

| fixture | gives |
|---|---|
| `api_server` | a control plane: API server, garbage collection, no kubelet. About 15 s, 0.6 GB |
| `node` | a whole node whose pods run, gVisor as RuntimeClass `gvisor`. About 40 s, 1 GB and 110 MB a gVisor pod |

Both last for the session, and are a `clusters.Cluster`: `kubeconfig`, `kubectl(...)`, `get(...)`, `apply(...)`,
`namespace()`, `environment`, `version`. Tests make their own namespace and leave nothing outside it. A Python client
is `kubernetes.config.new_client_from_config(str(api_server.kubeconfig))`.

`crds` puts the three CRDs into `api_server`; `images` puts the project's images into `node`, and gives their names.

Which cluster: `KUBECONFIG` if set (a kind cluster, say: both fixtures, and it must hold RuntimeClass `gvisor` and the
images); `KUBEBUILDER_ASSETS` if set (envtest's binaries: `api_server` only); else the cluster kit, found by
`ASTRA_CLUSTER_KIT` (`../shared/cluster`), once its `setup.sh` has run, as `make test-cluster` sees to. A node of the
kit that should outlive one pytest run: `ASTRA_CLUSTER_RUN=/tmp/mine KIT/up.sh`, then pytest with the same variable.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Cluster, Node, control_plane, kit_node

from astra_api import crds as definitions

ROOT = Path(__file__).parents[2]
_KIT_HOME = Path(os.environ.get("ASTRA_CLUSTER_HOME", Path.home() / ".cache" / "astra-cluster"))
_KIT_BINARIES = _KIT_HOME / "kbin"
_IMAGE_CACHE = _KIT_HOME / "astra-farm"
IMAGES = ("sandbox", "operator", "synth", "trainer")
TAG = "test"


def _kit(*programs: str) -> Path:
    kit = (ROOT / os.environ.get("ASTRA_CLUSTER_KIT", "../shared/cluster")).resolve()
    if not (kit / "up.sh").exists():
        pytest.skip(f"needs a cluster: KUBECONFIG, KUBEBUILDER_ASSETS, or the cluster kit (not at {kit})")
    missing = [program for program in programs if not os.access(_KIT_BINARIES / program, os.X_OK)]
    if missing:
        pytest.skip(f"the cluster kit lacks {', '.join(missing)}: run {kit / 'setup.sh'}")
    return kit


@pytest.fixture(scope="session")
def api_server() -> Iterator[Cluster]:
    """A control plane without a kubelet."""
    if given := os.environ.get("KUBECONFIG"):
        yield Cluster(Path(given))
    elif assets := os.environ.get("KUBEBUILDER_ASSETS"):
        with control_plane(Path(assets), Path(assets)) as cluster:
            yield cluster
    else:
        _kit("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
        with control_plane(_KIT_BINARIES, _KIT_BINARIES) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node whose pods run."""
    if given := os.environ.get("KUBECONFIG"):
        yield Node(Path(given))
    else:
        kit = _kit("etcd", "kube-apiserver", "kubelet", "kube-proxy", "kubectl", "runsc", "containerd-shim-runsc-v1")
        with kit_node(kit, _KIT_BINARIES) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def crds(api_server: Cluster) -> Cluster:
    """`api_server` with the three kinds."""
    api_server.install(*definitions.definitions())
    return api_server


@pytest.fixture(scope="session")
def image_loader(node: Node) -> Callable[..., dict[str, str]]:
    """Puts images into the node, built when something of them has changed: `image_loader("sandbox", "operator")`."""
    found = importlib.util.spec_from_file_location("images_build", ROOT / "images" / "build.py")
    assert found is not None
    assert found.loader is not None
    build = importlib.util.module_from_spec(found)
    found.loader.exec_module(build)
    loaded: dict[str, str] = {}

    def load(*names: str) -> dict[str, str]:
        for name in names:
            if name not in loaded and node.kit is not None:
                base, mkimage = _KIT_HOME / "images" / "py", node.kit / "mkimage.py"
                node.load_image(build.build_rootfs(name, base, mkimage, _IMAGE_CACHE, TAG))
            loaded[name] = f"astra-farm-{name}:{TAG}"
        return dict(loaded)

    return load


@pytest.fixture(scope="session")
def images(image_loader: Callable[..., dict[str, str]]) -> dict[str, str]:
    """The names of all images that pods here run, by part. Building them takes minutes, once."""
    return image_loader(*IMAGES)
