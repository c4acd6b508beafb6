"""Fixtures over a real Kubernetes API.

| fixture | gives |
|---|---|
| `api_server` | a control plane: API server, garbage collection, no kubelet. About 15 s, 0.7 GB |
| `old_api_server` | the kit's 1.20 alone, which drops the rules of definitions. About 15 s, 0.6 GB |
| `crd_server` | a current server for definitions and custom resources alone. About 3 s, 0.2 GB |
| `node` | a whole node whose pods run, gVisor as RuntimeClass `gvisor`. About 50 s, 1.2 GB and 110 MB a gVisor pod |

All last for the session, and are a `clusters.Cluster`: `kubeconfig`, `kubectl(...)`, `get(...)`, `apply(...)`,
`namespace()`, `environment`, `has_cel`. Tests make their own namespace and leave nothing outside it. A Python client
is `kubernetes.config.new_client_from_config(str(api_server.kubeconfig))`. pytest says at its end which servers it used.

`crds` puts the three CRDs into `api_server`; `images` puts the project's images into `node`, and gives their names.

Which cluster: `KUBECONFIG` if set (a kind cluster, say; for all but `old_api_server`; `node` wants RuntimeClass gvisor
and the images there); `KUBEBUILDER_ASSETS` if set (envtest's binaries, for `api_server` and `crd_server`); else the
cluster kit, found by `ASTRA_CLUSTER_KIT` (`../shared/cluster`), once its `setup.sh` and `crd-server/setup.sh` have run,
as `make test-cluster` sees to. The kit's `api_server` and `node` are then two in one: core kinds of 1.20, definitions
and custom resources of the current server. A node of the kit that should outlive one pytest run:
`ASTRA_CLUSTER_RUN=/tmp/mine KIT/up.sh`, then pytest with the same variable.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from clusters import Cluster, Node, control_plane, hybrid, kit_node
from clusters import crd_server as crd_server_of
from labs import Lab, lab_in, with_kinds

from astra_api import crds as definitions

ROOT = Path(__file__).parents[2]
_KIT_HOME = Path(os.environ.get("ASTRA_CLUSTER_HOME", Path.home() / ".cache" / "astra-cluster"))
_KIT_BINARIES = _KIT_HOME / "kbin"
_IMAGE_CACHE = _KIT_HOME / "astra-farm"
IMAGES = ("sandbox", "operator", "synth", "trainer")
TAG = "test"
C = TypeVar("C", bound=Cluster)


_SERVERS = pytest.StashKey[dict[str, str]]()
_CONTROL_PLANE = ("kbin/etcd", "kbin/kube-apiserver", "kbin/kube-controller-manager", "kbin/kubectl")
_CRD_SERVER = ("crd-server/bin/crdserver", "crd-server/bin/etcd", "kbin/kubectl")
_ON_NODE = ("test_chart.py", "test_full_path.py", "test_node.py")
_NODE = ("kbin/kubelet", "kbin/kube-proxy", "kbin/runsc", "kbin/containerd-shim-runsc-v1", "images/py.tar")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SERVERS] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two at a time: tests of a file stay together, as their servers do, and one worker has the node."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            shared = os.environ.get("KUBECONFIG") or Path(file).name in _ON_NODE
            return "shared" if shared else file

    config.option.loadscopereorder = False  # the slow ones first, not those with the most tests
    return ByServers(config, log)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    used = "; ".join(f"{name} {versions}" for name, versions in sorted(config.stash[_SERVERS].items()))
    terminalreporter.write_line(f"servers: {used or 'none'}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of pytest-xdist used."""
    node.config.stash[_SERVERS].update(getattr(node, "workeroutput", {}).get("servers", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = session.config.stash[_SERVERS]


Used = Callable[[str, C], C]


@pytest.fixture(scope="session")
def used(pytestconfig: pytest.Config) -> Used:
    """Notes for the summary that a cluster was used under a name, and gives it back."""

    def note(name: str, cluster: C) -> C:
        pytestconfig.stash[_SERVERS][name] = cluster.described
        return cluster

    return note


def _kit(*files: str) -> Path:
    """The cluster kit, with these files built."""
    kit = _kit_folder()
    if not (kit / "up.sh").exists():
        pytest.skip(f"needs a cluster: KUBECONFIG, KUBEBUILDER_ASSETS, or the cluster kit (not at {kit})")
    missing = [file for file in files if not (_KIT_HOME / file).exists()]
    if missing:
        setup = "crd-server/setup.sh" if set(missing) <= {*_CRD_SERVER} else "setup.sh"
        pytest.skip(f"the cluster kit lacks {', '.join(missing)}: run {kit / setup}")
    return kit


def _kit_folder() -> Path:
    return (ROOT / os.environ.get("ASTRA_CLUSTER_KIT", "../shared/cluster")).resolve()


def _kit_is_current() -> bool:
    """Whether the kit has a current server for definitions. Then its absence is no reason to do without."""
    return (_kit_folder() / "hybrid-up.sh").exists()


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest, used: Used) -> Iterator[Cluster]:
    """A control plane without a kubelet."""
    if given := os.environ.get("KUBECONFIG"):
        yield used("KUBECONFIG", Cluster(Path(given)))
    elif assets := os.environ.get("KUBEBUILDER_ASSETS"):
        with control_plane(Path(assets), Path(assets)) as cluster:
            yield used("KUBEBUILDER_ASSETS", cluster)
    elif _kit_is_current():
        with hybrid(_kit(*_CONTROL_PLANE, *_CRD_SERVER), _KIT_BINARIES) as cluster:
            yield used("control plane", cluster)
    else:
        yield request.getfixturevalue("old_api_server")


@pytest.fixture(scope="session")
def old_api_server(used: Used) -> Iterator[Cluster]:
    """The kit's control plane alone: it drops the rules of definitions."""
    _kit(*_CONTROL_PLANE)
    with control_plane(_KIT_BINARIES, _KIT_BINARIES) as cluster:
        yield used("old control plane", cluster)


@pytest.fixture(scope="session")
def kit_and_binaries() -> tuple[Path, Path]:
    """The cluster kit, with its CRD server built, and its programs."""
    return _kit(*_CRD_SERVER), _KIT_BINARIES


@pytest.fixture(scope="session")
def crd_server(request: pytest.FixtureRequest, used: Used) -> Iterator[Cluster]:
    """A current server for definitions and custom resources; it need not have any other kind."""
    if os.environ.get("KUBECONFIG") or os.environ.get("KUBEBUILDER_ASSETS"):
        cluster: Cluster = request.getfixturevalue("api_server")
        if not cluster.has_cel:
            pytest.skip(f"needs Kubernetes 1.25, which keeps the rules of definitions; this is {cluster.described}")
        yield cluster
    else:
        with crd_server_of(*request.getfixturevalue("kit_and_binaries")) as server:
            yield used("CRD server", server)


@pytest.fixture(scope="session")
def node(used: Used) -> Iterator[Node]:
    """A node whose pods run."""
    if given := os.environ.get("KUBECONFIG"):
        yield used("KUBECONFIG", Node(Path(given)))
    else:
        current = _kit_is_current()
        kit = _kit(*_CONTROL_PLANE, *_NODE, *(_CRD_SERVER if current else ()))
        with kit_node(kit, _KIT_BINARIES, current=current) as cluster:
            yield used("node", cluster)


@pytest.fixture(scope="session")
def crds(api_server: Cluster) -> Cluster:
    """`api_server` with the three kinds."""
    api_server.install(*definitions.definitions())
    return api_server


@pytest.fixture(scope="module")
def cluster(api_server: Cluster) -> Cluster:
    """`api_server` for tests of the operator; a module may have another."""
    return with_kinds(api_server)


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Iterator[Lab]:
    """A namespace of `cluster` with an operator of its own."""
    with lab_in(cluster, tmp_path) as made:
        yield made


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
