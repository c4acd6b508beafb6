"""The front door: a pack by name or by path, opened and asked for environments."""

from collections.abc import Iterator
from pathlib import Path

from astra_api.environment import Environment
from astra_synth.packs import LOADERS, pack_file, pack_names
from astra_synth.tables.dataset import Dataset, load
from astra_synth.tables.generate import Generator, Recipe
from astra_synth.tables.pack import PackError, parse_pack, read_pack
from astra_synth.tables.toolset import ToolsetShape

_EMPTY = 20  # toolsets in a row that give nothing: the tables give no more


def open_tables(pack: str | None = None, path: Path | None = None) -> Dataset:
    """The tables of a shipped pack, or of a pack file. Raises PackError."""
    if path is not None:
        return load(read_pack(path), path.parent, LOADERS)
    if pack not in pack_names():
        raise PackError(f"pack: no pack {pack!r}; shipped packs are {', '.join(pack_names())}")
    file = pack_file(pack)
    return load(parse_pack(file.read_text(encoding="utf-8"), f"pack {pack}"), Path(), LOADERS)


def generate(
    pack: str | Path,
    count: int,
    seed: int = 0,
    *,
    min_hops: int = 1,
    max_hops: int = 6,
    shape: ToolsetShape | None = None,
    labels: dict[str, str] | None = None,
) -> Iterator[Environment]:
    """`count` environments of a pack: a shipped one by name, or a pack file by path.

    Answers are checked against the tables; running the tools in a sandbox is left to `astra_sandbox.verification`.
    For a tiny model: `shape=ToolsetShape(min_tools=3, max_tools=4, kinds=("lookup", "extreme", "count"))`. Indexes
    that give nothing are passed over, at most 4 for each environment wanted, and never 20 toolsets of them in a row.
    Raises PackError.
    """
    dataset = open_tables(path=pack) if isinstance(pack, Path) else open_tables(pack)
    recipe = Recipe(seed, min_hops, max_hops, shape or ToolsetShape(), labels=labels or {})
    generator = Generator(dataset, recipe)
    left, empty = count, 0
    for index in range(5 * count + 20):
        if not left or empty >= _EMPTY * recipe.shape.environments:
            break
        environment = generator.make(index).environment
        empty = empty + 1 if environment is None else 0
        if environment is not None:
            left -= 1
            yield environment
    if left:
        raise PackError(
            f"pack {dataset.pack.name}: only {count - left} of {count} environments; allow more rows or tools"
        )
