"""Joins the modules of several tools into one in which no two names clash.

Each module stands as it was written unless it has to change: a top-level name that another module took first is
renamed throughout the later one. That the joined tools still answer is not assumed here; it is replayed.
"""

import ast
import symtable
from collections.abc import Sequence

from astra_api.environment import GoldCall
from astra_synth.construction.assembly import BuiltTool, Module


def join(tools: Sequence[BuiltTool]) -> Module:
    """One module of all tools. Tools that are the same become one; tools that only share a name get names apart."""
    distinct: list[BuiltTool] = []
    homes: list[tuple[BuiltTool, int]] = []
    for built in tools:
        same = next((n for n, d in enumerate(distinct) if (d.tool, d.source) == (built.tool, built.source)), None)
        homes.append((built, len(distinct) if same is None else same))
        if same is None:
            distinct.append(built)
    taken: dict[str, str] = {}  # name -> what binds it
    parts, names = [], []
    for built in distinct:
        source, renamed = _apart(built.source, taken)
        parts.append(source)
        names.append(renamed.get(built.tool.name, built.tool.name))
    calls = {
        step: GoldCall(tool=names[home], arguments=arguments)
        for built, home in homes
        for step, arguments in built.calls.items()
    }
    described = tuple(built.tool.model_copy(update={"name": name}) for built, name in zip(distinct, names, strict=True))
    return Module(described, parts[0] if len(parts) == 1 else _text(parts), calls)


def _text(parts: list[str]) -> str:
    """The modules one after another; what has to stand first in a module is drawn to the front."""
    future = [line for part in parts for line in part.splitlines() if line.startswith("from __future__ import ")]
    bodies = [
        "\n".join(line for line in part.splitlines() if not line.startswith("from __future__ import ")).strip("\n")
        for part in parts
    ]
    return "\n\n\n".join([*dict.fromkeys(future), *bodies]) + "\n"


def _apart(source: str, taken: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The source with names of its own, and what was renamed; `taken` grows by its names."""
    tree = ast.parse(source)
    bound = _bound(source, tree)
    renamed: dict[str, str] = {}
    for name, binding in bound.items():
        if name not in taken:
            taken[name] = binding
        elif not binding or binding != taken[name]:
            renamed[name] = _fresh(name, {*taken, *bound, *_words(tree)})
            taken[renamed[name]] = binding
    if not renamed:
        return source, {}
    return ast.unparse(_Renaming(renamed).visit(tree)) + "\n", renamed


def _bound(source: str, tree: ast.Module) -> dict[str, str]:
    """The module's top-level names; for an import, what is imported: only equal imports are the same thing."""
    imports: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {alias.asname or alias.name: f"{alias.name} of {node.module}" for alias in node.names}
    symbols = symtable.symtable(source, "source", "exec").get_symbols()
    bound = sorted((s.get_name(), s.is_assigned()) for s in symbols if s.is_assigned() or s.is_imported())
    return {name: "" if assigned else imports.get(name, "") for name, assigned in bound}


def _fresh(name: str, used: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in used:
        number += 1
    return f"{name}_{number}"


def _words(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.arg for n in nodes if isinstance(n, ast.arg)}


_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class _Renaming(ast.NodeTransformer):
    """Renames every mention of top-level names, save where a parameter of the same name hides them."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._names.get(node.name, node.name)
        return self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.name = self._names.get(node.name, node.name)
        return self._inside(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self._inside(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._names.get(name, name) for name in node.names]
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return self._import(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            bound = alias.asname or alias.name
            if bound in self._names:
                alias.asname = self._names[bound]
        return node

    def _inside(self, node: _Function) -> ast.AST:
        given = node.args
        hidden = {a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg] if a}
        outer, self._names = self._names, {old: new for old, new in self._names.items() if old not in hidden}
        node = self.generic_visit(node)  # type: ignore[assignment]
        self._names = outer
        return node
