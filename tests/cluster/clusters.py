"""Kubernetes for tests: a control plane alone, a whole node, or a cluster that is already there.

`control_plane` runs etcd, kube-apiserver and (where its binary is there) kube-controller-manager from a folder of
binaries: the cluster kit's old ones, or envtest's (`KUBEBUILDER_ASSETS`). It knows no kubelet: pods stay Pending.
`crd_server` is a current Kubernetes' server for definitions and custom resources, and nothing else. `hybrid` is the
old control plane with that server inside. `kit_node` is the kit's single node with containerd and gVisor, in a network
of its own; `forward` is the door to it. All end with the process that started them, however it ends.
"""

import contextlib
import ctypes
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

START_SECONDS = 280.0
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Cluster:
    """A cluster that tests may use: `kubeconfig` holds for an administrator, and works from this process."""

    kubeconfig: Path
    tools: Path | None = None  # a folder that holds kubectl (and helm); PATH otherwise
    definitions: Path | None = None  # the kubeconfig of the server behind it that custom resources come from, if any

    @cached_property
    def environment(self) -> dict[str, str]:
        """For subprocesses: this process's environment with KUBECONFIG, and the cluster's tools first on PATH."""
        path = os.environ.get("PATH", "")
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{self.tools}{os.pathsep}{path}" if self.tools else path,
        }

    def run(self, *command: str | Path, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Standard output of a command. Raises AssertionError with what it said when it fails."""
        program = shutil.which(str(command[0]), path=self.environment["PATH"])
        if program is None:
            pytest.skip(f"{command[0]} is not on PATH")
        done = subprocess.run(
            [program, *map(str, command[1:])],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 120.0) -> str:
        return self.run("kubectl", *arguments, stdin=stdin, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """`kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> None:
        """Server-side apply, without the client's validation: old servers do not know all that new ones do."""
        flags = ["--server-side", "--force-conflicts", "--validate=false", *(["-n", namespace] if namespace else [])]
        documents = "\n---\n".join(map(json.dumps, objects))  # PyYAML and kubectl do not agree on what is a number
        self.kubectl("apply", *flags, "-f", "-", stdin=documents)

    def install(self, *definitions: dict[str, Any]) -> None:
        """CustomResourceDefinitions, until they are served. Not by server-side apply: old servers then refuse rules."""
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump_all(definitions))
        deadline = time.monotonic() + 100
        for spec in (definition["spec"] for definition in definitions):
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            while not self._answers(path):
                assert time.monotonic() < deadline, f"{path} is not served: {self.get('crd')}"
                time.sleep(0.3)

    def _answers(self, path: str) -> bool:
        try:
            self.kubectl("get", "--raw", path)
        except AssertionError:
            return False
        return True

    def forget(self, release: str) -> None:
        """Deletes the CustomResourceDefinitions that a Helm release left behind: no other release may own them."""
        for definition in self.get("crd")["items"]:
            metadata = definition["metadata"]
            if metadata.get("annotations", {}).get("meta.helm.sh/release-name") == release:
                self.kubectl("delete", "crd", metadata["name"])

    @cached_property
    def version(self) -> tuple[int, int]:
        """(major, minor) of the server of core kinds."""
        major, minor = self._version(self.kubeconfig).removeprefix("v").split(".")[:2]
        return int(major), int(minor)

    @cached_property
    def described(self) -> str:
        """The version of each server that answers here, for people."""
        kubeconfigs = [self.kubeconfig, *([self.definitions] if self.definitions else [])]
        return " + ".join(self._version(kubeconfig) for kubeconfig in kubeconfigs)

    def _version(self, kubeconfig: Path) -> str:
        answer = self.kubectl("--kubeconfig", kubeconfig, "get", "--raw", "/version")
        return str(json.loads(answer)["gitVersion"])

    @cached_property
    def has_cel(self) -> bool:
        """Whether a definition keeps its rules here. The version does not tell: two servers may be behind it."""
        rule = {"rule": "self == self", "message": "kept"}
        schema = {"type": "object", "properties": {"spec": {"type": "integer", "x-kubernetes-validations": [rule]}}}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": "Probe", "plural": "probes"}
        probe = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "probes.test.astra.farm"},
            "spec": {"group": "test.astra.farm", "scope": "Namespaced", "names": names, "versions": [version]},
        }
        flags = ("--dry-run=server", "--validate=false", "-o", "json", "-f", "-")
        return "kept" in self.kubectl("create", *flags, stdin=json.dumps(probe))

    @cached_property
    def helm_flags(self) -> tuple[str, ...]:
        """What `helm install` and `helm upgrade` need here. Current servers need nothing."""
        if self._answers("/openapi/v3"):
            return ()
        # servers before 1.25 refuse rules in a server-side apply, and drop them in any other
        return ("--disable-openapi-validation", *(() if self.has_cel else ("--server-side=false",)))

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        """A new namespace; its deletion is begun on leaving."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


@dataclass(frozen=True)
class CrdServer(Cluster):
    """A server without core kinds: objects may be in any namespace, and none is made."""

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        yield f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Node(Cluster):
    """A cluster whose pods run. On the kit's, `inside` and `forward` reach what only the node can reach."""

    kit: Path | None = None
    files: Path | None = None  # the kit's run directory

    def inside(self, *command: str | Path, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Runs a command in the node's network and mount namespaces (absolute paths; `ctr` is on its PATH)."""
        return self.run(*self.entry, *command, stdin=stdin, timeout=timeout)

    @property
    def entry(self) -> tuple[str, ...]:
        """The command prefix that enters the node, for a Popen of one's own (with `environment`)."""
        return (str(self._own("run.sh")),)

    def load_image(self, archive: Path) -> None:
        """Imports a docker-archive; on a cluster of one's own the images are there already."""
        if self.kit is not None:
            self.inside("ctr", "-n", "k8s.io", "images", "import", archive, timeout=600)

    def forward(self, host: str, port: int) -> int:
        """A loopback port here that leads to `host:port` as the node sees it (a pod's or a service's address)."""
        self._own("run.sh")
        assert self.files is not None
        return forward(int((self.files / "ns.pid").read_text()), host, port)

    @cached_property
    def environment(self) -> dict[str, str]:
        own = {"ASTRA_CLUSTER_RUN": str(self.files)} if self.files else {}
        return {**super().environment, **own}

    def _own(self, script: str) -> Path:
        if self.kit is None:
            pytest.skip("the cluster of KUBECONFIG has no door to its nodes: needs the cluster kit")
        return self.kit / script


def forward(pid: int, host: str, port: int) -> int:
    """Listens on loopback and continues each connection to `host:port` from the network namespace of process `pid`.

    A socket belongs to the namespace it was made in: the listener is made here, the connections by a thread that has
    moved there. Needs root. The threads end with this process.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)

    def serve() -> None:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            listener.close()
            raise OSError(ctypes.get_errno(), "setns")
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((host, port), timeout=10)
            except OSError:
                near.close()  # the caller sees a closed connection, as it would of a dead server
                continue
            far.settimeout(None)
            threading.Thread(target=_connect, args=(near, far), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def _connect(near: socket.socket, far: socket.socket) -> None:
    """Carries both directions to their ends."""
    with near, far:
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def control_plane(binaries: Path, tools: Path) -> Iterator[Cluster]:
    """etcd and kube-apiserver, and kube-controller-manager if it is in `binaries`, on loopback."""
    with tempfile.TemporaryDirectory(prefix="astra-api-") as folder, contextlib.ExitStack() as stack:
        plane = _ControlPlane(binaries, Path(folder), stack)
        plane.start()
        yield Cluster(plane.kubeconfig, tools)


@dataclass
class _ControlPlane:
    binaries: Path
    folder: Path
    stack: contextlib.ExitStack
    ports: list[int] = field(default_factory=lambda: _free_ports(3))
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def start(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self._write("service-account.key", key.decode())
        self._write("tokens.csv", f"{self.token},admin,admin,system:masters\n")
        self._etcd()
        manager = self.binaries / "kube-controller-manager"
        server = self._api_server(manager.exists())
        certificate = self.folder / "certs" / "apiserver.crt"
        self._write("kubeconfig", yaml.safe_dump(_kubeconfig(self.ports[2], certificate, self.token)))
        self._wait_until_ready(server)
        if manager.exists():
            self._controller_manager(certificate)

    def _etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self.ports[:2])
        flags = [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]
        if "unsafe-no-fsync" in _help(self.binaries / "etcd"):
            flags.append("--unsafe-no-fsync")
        self._run("etcd", *flags)

    def _api_server(self, controllers: bool) -> "subprocess.Popen[bytes]":
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self.ports[0]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.ports[2]}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.folder / 'service-account.key'}",
            f"--service-account-key-file={self.folder / 'service-account.key'}",
        ]
        if not controllers:  # nobody makes service accounts
            flags.append("--disable-admission-plugins=ServiceAccount")
        return self._run("kube-apiserver", *flags)

    def _controller_manager(self, certificate: Path) -> None:
        flags = [
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={certificate}",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        if "--port int" in _help(self.binaries / "kube-controller-manager"):
            flags.append("--port=0")  # Kubernetes before 1.24 also served without TLS
        self._run("kube-controller-manager", *flags)

    def _run(self, program: str, *flags: str) -> "subprocess.Popen[bytes]":
        log = self.stack.enter_context((self.folder / f"{program}.log").open("wb"))
        command = ["setpriv", "--pdeathsig", "KILL", str(self.binaries / program), *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        self.stack.callback(_stop, process)
        return process

    def _wait_until_ready(self, server: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        probe = ["kubectl", "--kubeconfig", str(self.kubeconfig), "get", "--raw", "/readyz"]
        program = shutil.which("kubectl", path=f"{self.binaries}{os.pathsep}{os.environ.get('PATH', '')}")
        while subprocess.run(probe, executable=program, capture_output=True, check=False).returncode:
            log = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
            assert server.poll() is None, f"kube-apiserver ended:\n{log}"
            assert time.monotonic() < deadline, f"kube-apiserver is not ready after {START_SECONDS} s:\n{log}"
            time.sleep(0.5)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)


# A disk that is 85% full makes a kubelet remove images that no container uses. There is no registry to fetch them from
# again, and the pause image is among them: no new pod would ever start.
_KUBELET = "--image-gc-high-threshold=100"


@contextlib.contextmanager
def kit_node(kit: Path, binaries: Path, *, current: bool) -> Iterator[Node]:
    """The kit's node, for this process alone; `current`: with the hybrid as its control plane.

    `ASTRA_CLUSTER_RUN` names one that already runs; it is left running.
    """
    running = os.environ.get("ASTRA_CLUSTER_RUN")
    if running and (Path(running) / "ns.pid").exists():
        yield _reach(kit, binaries, Path(running))
        return
    with contextlib.ExitStack() as stack:
        scripts = stack.enter_context(_node_scripts(kit)) if current else kit

        def environment(folder: Path) -> dict[str, str]:
            return {"ASTRA_CLUSTER_RUN": str(folder), "CG": folder.name, "EXTRA_KUBELET_ARGS": _KUBELET}

        folder = stack.enter_context(_started(scripts / "up.sh", scripts / "down.sh", environment))
        yield _reach(kit, binaries, folder)


@contextlib.contextmanager
def _node_scripts(kit: Path) -> Iterator[Path]:
    """The kit, with an up.sh whose control plane is the hybrid."""
    with tempfile.TemporaryDirectory(prefix="akit-") as name:
        folder = Path(name)
        for entry in kit.iterdir():
            (folder / entry.name).symlink_to(entry)
        text = (kit / "up.sh").read_text()
        old = "$KIT/control-plane-up.sh $R/cp"
        assert text.count(old) == 1, f"{kit / 'up.sh'} starts its control plane in another way"
        (folder / "up.sh").unlink()
        (folder / "up.sh").write_text(text.replace(old, "$KIT/hybrid-up.sh $R"))
        (folder / "up.sh").chmod(0o755)
        yield folder


@contextlib.contextmanager
def crd_server(kit: Path, binaries: Path) -> Iterator[CrdServer]:
    """The kit's CRD server, for this process alone."""
    scripts = kit / "crd-server"
    with _started(scripts / "up.sh", scripts / "down.sh", lambda _: _ports(1)) as folder:
        yield CrdServer(folder / "kubeconfig", binaries)


@contextlib.contextmanager
def hybrid(kit: Path, binaries: Path) -> Iterator[Cluster]:
    """The kit's old control plane with its CRD server inside, for this process alone. Nobody schedules pods."""
    with _started(kit / "hybrid-up.sh", kit / "hybrid-down.sh", lambda _: _ports(4) | {"WITH_SCHED": "0"}) as folder:
        yield Cluster(folder / "cp" / "admin.kubeconfig", binaries, folder / "crds" / "kubeconfig")


_TRIES = 3  # on a busy machine a server may outlast a script's patience


@contextlib.contextmanager
def _started(up: Path, down: Path, environment: Callable[[Path], dict[str, str]]) -> Iterator[Path]:
    """The folder in which a script of the kit keeps what it started. All ends with the block, or with this process."""
    with contextlib.ExitStack() as stack:
        for left in reversed(range(_TRIES)):
            folder = Path(tempfile.mkdtemp(prefix="anode-"))
            variables = {**os.environ, **environment(folder)}
            try:
                with contextlib.ExitStack() as begun:
                    begun.enter_context(_ended_by(down, folder, variables))
                    _script(up, folder, variables)
                    stack.push(begun.pop_all())
                break
            except AssertionError:
                if not left:
                    raise
        yield folder


# Waits for the end of its input, which is the end of the process that holds the other end.
_GUARD = """
read -r _
"$0" "$1"; code=$?
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && break; sleep 0.5; done
exit $code
"""


@contextlib.contextmanager
def _ended_by(down: Path, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Runs a script and removes the folder on leaving; should this process die before, the same happens then."""
    command = ["sh", "-c", _GUARD, down, folder]
    guard = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt of the tests is not its end
    )
    try:
        yield
    finally:
        guard.communicate()
    assert guard.returncode == 0, f"{down.name} exited {guard.returncode}"


def _ports(count: int) -> dict[str, str]:
    """PORT and EPORT as the kit's scripts take them: `count` and two free ports in a row, where no client's port is."""
    while True:
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return {"PORT": str(first), "EPORT": str(first + count)}


def _reach(kit: Path, binaries: Path, files: Path) -> Node:
    """The node's own kubeconfigs hold inside; this process goes through `forward`."""
    crds = files / "crds" / "kubeconfig"
    definitions = _outside(crds, files, "127.0.0.1", 6446) if crds.exists() else None
    kubeconfig = _outside(files / "cp" / "admin.kubeconfig", files, "10.200.0.1", 6443)
    return Node(kubeconfig, binaries, definitions, kit=kit, files=files)


def _outside(inside: Path, files: Path, host: str, port: int) -> Path:
    config = yaml.safe_load(inside.read_text())
    here = forward(int((files / "ns.pid").read_text()), host, port)
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{here}"
    kubeconfig = inside.with_name(f"outside-{os.getpid()}.kubeconfig")
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


def _script(script: Path, folder: Path, environment: dict[str, str]) -> None:
    """Output goes to a file: a pipe would stay open as long as the daemons that the script leaves behind."""
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        done = subprocess.run(
            [script, folder], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    text = log.read_text(errors="replace")
    log.unlink()
    assert done.returncode == 0, f"{script.name} exited {done.returncode}:\n{text[-4000:]}"


def _kubeconfig(port: int, certificate: Path, token: str) -> dict[str, Any]:
    server = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(certificate)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _help(program: Path) -> str:
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
