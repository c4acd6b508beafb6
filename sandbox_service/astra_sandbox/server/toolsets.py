"""Stored toolsets: content-addressed, their schemas compiled once."""

from collections import OrderedDict
from typing import Any

import jsonschema_rs

from astra_api.records import Toolset
from astra_sandbox.strict_json import StrictJsonError, read
from astra_sandbox.wire import MAX_ARGUMENT_BYTES

MAX_TOOLS = 256
MAX_SOURCE_BYTES = 2 << 20
MAX_SCHEMA_BYTES = 256 << 10
_MAX_MESSAGE = 600


class BadToolsetError(ValueError):
    """The toolset itself is malformed; the message names the tool and the fault."""


class ArgumentCheck:
    """The JSON Schema of one tool's arguments. Raises BadToolsetError for a schema that is none."""

    def __init__(self, name: str, schema: dict[str, Any]) -> None:
        try:
            jsonschema_rs.meta.validate(schema)
            self._validator = jsonschema_rs.Draft202012Validator(schema, retriever=_refuse_retrieval)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise BadToolsetError(
                f"tool {name!r}: its parameters are not a JSON Schema: {_first_line(error)}"
            ) from None

    def fault(self, arguments_json: str) -> str | None:
        """Why a model's arguments are refused, or None. The same text gives the same words."""
        if len(arguments_json.encode()) > MAX_ARGUMENT_BYTES:
            return f"the arguments take more than {MAX_ARGUMENT_BYTES} bytes"
        try:
            value = read(arguments_json)
        except StrictJsonError as error:
            return f"the arguments are not valid JSON: {error}"
        if type(value) is not dict:
            return "the arguments are not a JSON object"
        if self._validator.is_valid(value):
            return None
        faults = sorted({_fault(error) for error in self._validator.iter_errors(value)})
        return "; ".join(faults[:5])[:_MAX_MESSAGE]


class StoredToolset:
    """A toolset as the server keeps it. Raises BadToolsetError."""

    def __init__(self, toolset: Toolset) -> None:
        if not toolset.tools:
            raise BadToolsetError("the toolset has no tools")
        if len(toolset.tools) > MAX_TOOLS:
            raise BadToolsetError(f"{len(toolset.tools)} tools; at most {MAX_TOOLS} are allowed")
        if len(toolset.source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES:
            raise BadToolsetError(f"the source takes more than {MAX_SOURCE_BYTES} bytes")
        self.digest = toolset.digest
        self.source = toolset.source
        self.stateless = toolset.state == "stateless"
        self.checks: dict[str, ArgumentCheck] = {}
        for tool in toolset.tools:
            if tool.name in self.checks:
                raise BadToolsetError(f"two tools are named {tool.name!r}")
            self.checks[tool.name] = ArgumentCheck(tool.name, tool.parameters)

    @property
    def names(self) -> list[str]:
        return list(self.checks)


class ToolsetStore:
    """The toolsets of one server, the least recently used forgotten first."""

    def __init__(self, keep: int = 1024, keep_bytes: int = 256 << 20) -> None:
        self._toolsets: OrderedDict[str, StoredToolset] = OrderedDict()
        self._keep, self._keep_bytes, self._bytes = keep, keep_bytes, 0

    def __len__(self) -> int:
        return len(self._toolsets)

    def put(self, toolset: Toolset) -> StoredToolset:
        """Stores it, or finds it. Raises BadToolsetError."""
        stored = self.find(toolset.digest)
        if stored is None:
            stored = self._toolsets[toolset.digest] = StoredToolset(toolset)
            self._bytes += len(stored.source)
            while len(self._toolsets) > self._keep or (self._bytes > self._keep_bytes and len(self._toolsets) > 1):
                _, dropped = self._toolsets.popitem(last=False)
                self._bytes -= len(dropped.source)
        return stored

    def find(self, digest: str) -> StoredToolset | None:
        """The stored toolset of a digest, now the most recently used."""
        stored = self._toolsets.get(digest)
        if stored is not None:
            self._toolsets.move_to_end(digest)
        return stored


def _fault(error: jsonschema_rs.ValidationError) -> str:
    path = ".".join(str(part) for part in error.instance_path)
    return f"{path}: {_first_line(error)}" if path else _first_line(error)


def _first_line(error: Exception) -> str:
    text: str = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
    lines = text.splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"references outside the schema are not allowed: {uri}")
