"""Environments in a file, with the sources that their `sourceRef` stands for."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.files import replace


def kept(environment: Environment) -> dict[str, Any]:
    """{"manifest", "source"}; the source is null where the manifest holds it."""
    manifest = environment.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"manifest": manifest, "source": None if environment.spec.source else environment.toolset.source}


def write_environments(file: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes what `kept` made, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, json.dumps(list(entries), ensure_ascii=False).encode())


def read_environments(file: Path) -> list[Environment]:
    """What was written. Raises BadInput."""
    try:
        return [_restored(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{file}: cannot be read back: {error}; remove the run's directory to begin again") from None


def _restored(entry: Mapping[str, Any]) -> Environment:
    environment = Environment.model_validate(entry["manifest"])
    return environment if entry["source"] is None else environment.with_source(entry["source"])
