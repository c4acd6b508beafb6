"""The committed gRPC stubs are what the pinned generator makes of the .proto file, and load without a warning."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto/astra_api/sandbox/v1"


def test_stubs_are_up_to_date(tmp_path: Path) -> None:
    generator = ROOT / ".venv-proto/bin/python"
    assert generator.exists(), "the generator's environment is missing: run `make init`"
    command = [str(generator), "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", str(PROTO / "sandbox.proto")]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("sandbox_pb2.py", "sandbox_pb2.pyi", "sandbox_pb2_grpc.py"):
        fresh = tmp_path / "astra_api/sandbox/v1" / name
        assert fresh.read_text() == (PROTO / name).read_text(), f"{name} is stale: run `make proto`"


def test_stubs_load_without_a_warning() -> None:
    code = "from astra_api.sandbox.v1 import sandbox_pb2, sandbox_pb2_grpc; sandbox_pb2.CallToolRequest(call_id='a')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT / "proto")


def test_contracts_import_neither_torch_nor_servers() -> None:
    code = (
        "import sys, astra_api.manifests, astra_api.records, astra_api.rewards, astra_api.graph;"
        "heavy = {'torch', 'transformers', 'kopf', 'kubernetes', 'grpc', 'verl', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "proto")
