"""The independent check: each step's answer against the whole tables, by a query written apart from the tools."""

from typing import Any

from astra_api.matching import matches
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Query, Undefined
from astra_synth.tables.plan import Node, in_order


def check(dataset: Dataset, root: Node) -> None:
    """Raises Undefined("table-disagrees") for the first step whose answer the tables do not give, or give twice."""
    for node in in_order(root):
        query = _query(node)
        if query is None:
            continue
        rows = dataset.database.execute(query.sql, list(query.parameters)).fetchall()
        found: Any = [row[0] for row in rows]
        if not query.many:
            if len(found) != 1:
                raise Undefined(
                    "table-disagrees", f"{node.tool}{node.arguments()}: {len(found)} rows in the table answer it"
                )
            found = found[0]
        if not _agrees(node.value, found, query.digits):
            raise Undefined(
                "table-disagrees", f"{node.tool}{node.arguments()}: {node.value!r}, but the table says {found!r}"
            )


def _query(node: Node) -> Query | None:
    values = [source.value for source in node.inputs]
    if node.operation is not None:
        return node.operation.query(values[0], node.extra)
    if node.end is not None and node.end.join is not None:
        return node.end.join.query(values)
    if node.end is not None and node.end.name in ("most", "least"):
        keys = [source.inputs[0].value for source in node.inputs if isinstance(source, Node)]
        function = "max_by" if node.end.name == "most" else "min_by"
        pairs = ", ".join("(?::VARCHAR, ?::DOUBLE)" for _ in keys)
        flat = [item for pair in zip(keys, values, strict=True) for item in pair]
        return Query(f"SELECT {function}(k, v) FROM (VALUES {pairs}) AS t(k, v)", tuple(flat))
    return None


def _agrees(value: Any, found: Any, digits: int) -> bool:
    if isinstance(value, int | float) and isinstance(found, int | float):
        return abs(value - found) <= 0.5 * 10.0**-digits + 1e-9 * max(1.0, abs(found))
    return matches(value, found) or (not isinstance(value, list) and str(value) == str(found))
