"""scripts/kind_up.sh with stand-ins for docker, kind, kubectl and helm that write down how they were called."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_STAND_IN = r"""#!/usr/bin/env bash
name=${0##*/}
echo "$name $*" >>"$CALLS"
if [ "$name" = kubectl ] || [ "$name" = helm ]; then echo "$KUBECONFIG" >>"$CALLS.kubeconfigs"; fi
case "$name $1 $2" in
"kind get clusters") cat "$CALLS.clusters" ;;
"kind create cluster" | "kind export kubeconfig") # the file that it is told, else the user's
    file=$KUBECONFIG last=
    for word in "$@"; do if [ "$last" = --kubeconfig ]; then file=$word; fi; last=$word; done
    echo "current-context: kind-made" >"$file"
    if [ "$1" = create ]; then echo made >>"$CALLS.clusters"; fi ;;
"kind get nodes") printf 'made-control-plane\nmade-worker\n' ;;
"docker exec -i") cat >"$CALLS.in.$3" ;;
"kubectl -n lab") if [ "${!#}" = - ]; then cat >/dev/null; fi ;;
"kubectl apply -f") cat >/dev/null ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A machine with the four tools, on which the user's own cluster is another one."""

    folder: Path

    def install(self, *programs: str) -> None:
        for program in programs:
            path = self.folder / "bin" / program
            path.write_text(_STAND_IN)
            path.chmod(0o755)

    def kind_up(self, **variables: str) -> list[str]:
        """Runs the script to its end, and gives the calls that it made."""
        (self.folder / "calls").unlink(missing_ok=True)
        own = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            "KUBECONFIG": str(self.users_kubeconfig),
            "PYTHON": "build-images",
        }
        script = self.folder / "checkout" / "scripts" / "kind_up.sh"
        command = ["bash", str(script)]
        done = subprocess.run(command, env=own | variables, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return (self.folder / "calls").read_text().splitlines()

    @property
    def users_kubeconfig(self) -> Path:
        return self.folder / "users"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "checkout" / "build" / "kind-made.kubeconfig"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "checkout").mkdir()
    for name in ("scripts", "helm", "examples", "images"):
        (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "calls.clusters").write_text("")
    made.users_kubeconfig.write_text("current-context: production\n")
    made.install("docker", "kind", "kubectl", "helm", "build-images")
    return made


def test_the_user_s_current_context_stays_and_nothing_is_done_to_that_cluster(machine: Machine) -> None:
    machine.kind_up(CLUSTER="made")
    assert machine.users_kubeconfig.read_text() == "current-context: production\n"
    assert set((machine.folder / "calls.kubeconfigs").read_text().splitlines()) == {str(machine.kubeconfig)}
    assert machine.kubeconfig.read_text() == "current-context: kind-made\n"


def test_a_second_run_makes_no_second_cluster(machine: Machine) -> None:
    first = machine.kind_up(CLUSTER="made")
    machine.kubeconfig.unlink()
    second = machine.kind_up(CLUSTER="made")
    assert [call for call in first if call.startswith("kind create")]
    assert not [call for call in second if call.startswith("kind create")]
    assert machine.kubeconfig.read_text() == "current-context: kind-made\n"
    assert machine.users_kubeconfig.read_text() == "current-context: production\n"


def test_every_node_gets_gvisor_where_the_machine_has_it(machine: Machine) -> None:
    machine.install("runsc", "containerd-shim-runsc-v1")
    calls = machine.kind_up(CLUSTER="made")
    script = (ROOT / "scripts" / "kind_node_runsc.sh").read_text()
    for node in ("made-control-plane", "made-worker"):
        copied = [call.split()[-1] for call in calls if call.startswith("docker cp") and node in call]
        assert copied == [f"{node}:/usr/local/bin/{program}" for program in ("runsc", "containerd-shim-runsc-v1")]
        assert (machine.folder / f"calls.in.{node}").read_text() == script
    (helm,) = (call for call in calls if call.startswith("helm upgrade"))
    assert "runtimeClass.name=gvisor" in helm
    assert "runtimeClass.create=true" in helm


def test_without_gvisor_no_node_is_changed_and_no_pod_asks_for_it(machine: Machine) -> None:
    calls = machine.kind_up(CLUSTER="made")
    assert not [call for call in calls if call.startswith(("docker cp", "docker exec"))]
    (helm,) = (call for call in calls if call.startswith("helm upgrade"))
    assert "--set runtimeClass.name= " in f"{helm} "
