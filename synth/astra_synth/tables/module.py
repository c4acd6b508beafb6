"""The Python module of a toolset: the data its tools read, the helpers they share, and one function a tool."""

from collections.abc import Sequence

from astra_synth.tables.arithmetic import Join
from astra_synth.tables.dataset import Grouping
from astra_synth.tables.operation import Operation
from astra_synth.tables.shard import Shard

_HELPERS = {
    "_folded": """def _folded(name):
    text = " ".join(unicodedata.normalize("NFC", str(name)).split())
    return unicodedata.normalize("NFC", text.casefold())
""",
    "_row": """def _row(rows, noun, key):
    wanted = _folded(key)
    for name, row in rows.items():
        if _folded(name) == wanted:
            return row
    raise LookupError(f"no {noun} named {key!r}")
""",
    "_known": """def _known(value, noun):
    if value is None:
        raise LookupError(f"the {noun} is not on record")
    return value
""",
    "_pairs": """def _pairs(rows, keys, column):
    return [(rows[key][column], key) for key in keys if rows[key][column] is not None]
""",
    "_rounded": """def _rounded(number, digits):
    number = round(number, digits)
    return int(number) if number == int(number) else number
""",
}


def render(title: str, shard: Shard, operations: Sequence[Operation], joins: Sequence[Join]) -> str:
    """The module's text: standard library only, data as literals, no digits of the seed or the shard in it."""
    columns: dict[str, set[str]] = {}
    groups: set[Grouping] = set()
    for operation in operations:
        needs = operation.needs()
        groups |= needs.groups
        for table, column in needs.columns:
            columns.setdefault(table, set()).add(column)
    parts = [f'"""{title}."""\n']
    for table, rows in shard.rows.items():
        if table in columns:
            kept = [column for column in shard.dataset.pack.tables[table].columns if column in columns[table]]
            lines = "".join(f"    {key!r}: { ({c: row[c] for c in kept})!r},\n" for key, row in rows.items())
            parts.append(f"_{table.upper()} = {{\n{lines}}}\n")
    for grouping, complete in shard.groups.items():
        if grouping in groups:
            lines = "".join(f"    {value!r}: {keys!r},\n" for value, keys in complete.items())
            parts.append(f"_{grouping.table.upper()}_BY_{grouping.column.upper()} = {{\n{lines}}}\n")
    functions = [operation.source() for operation in operations] + [join.source() for join in joins]
    helpers = _needed("\n".join(functions))
    text = "\n".join([*helpers, *functions])
    if modules := [name for name in ("math", "unicodedata") if f"{name}." in text]:
        parts.insert(1, "".join(f"import {name}\n" for name in modules))
    return "\n\n".join([*parts, *helpers, *functions])


def _needed(text: str) -> list[str]:
    """The helpers that a text calls, and those that they call."""
    found: dict[str, str] = {}
    for name, helper in reversed(_HELPERS.items()):
        if f"{name}(" in text:
            found[name] = helper
            text += helper
    return [found[name] for name in _HELPERS if name in found]
