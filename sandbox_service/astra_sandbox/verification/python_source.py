"""Reads a toolset's source without running it: its functions, its imports, what it prints and the data it holds."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from astra_sandbox.verification.standard_library import MODULES

_STANDARD_STREAMS = ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__")
_PRINTERS = {"print", "pprint", "pp", "pprint.pprint", "pprint.pp"}
_LOGGERS = {f"logging.{level}" for level in ("debug", "info", "warning", "error", "critical", "exception", "log")}
_LONG = 40  # a text of this length may be a table, or JSON
_DATA = (ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Constant)
_IMPORTERS = {"__import__", "import_module"}


class SourceInvalid(ValueError):
    """The source is not Python; the message says where."""


@dataclass(frozen=True)
class PythonSource:
    """One parsed module. `functions`: public top-level `def`s by name. Line numbers count from 1."""

    functions: dict[str, ast.FunctionDef]
    duplicates: dict[str, int]  # function defined more than once: the line of the second definition
    imports: tuple[tuple[str, int], ...]  # (module as written, line); "" for an import that cannot be read
    prints: tuple[tuple[str, int], ...]  # (what writes, line)
    literals: tuple[Any, ...] = field(repr=False)  # the values of its literal data

    def foreign_imports(self) -> Iterator[tuple[str, int]]:
        """The imports that are not of the standard library of both Python 3.11 and 3.12."""
        for name, line in self.imports:
            if name.partition(".")[0] not in MODULES:
                yield name, line


@lru_cache(maxsize=64)
def read_source(text: str) -> PythonSource:
    """Parses a module. Raises SourceInvalid. Cached: many environments share one source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the author's business
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise SourceInvalid(f"line {error.lineno}: {error.msg}" if error.lineno else str(error.msg)) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise SourceInvalid(str(error) or "nested too deeply to parse") from None
    functions: dict[str, ast.FunctionDef] = {}
    duplicates: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if node.name in functions:
                duplicates[node.name] = node.lineno
            functions[node.name] = node
    nodes = list(ast.walk(tree))
    return PythonSource(
        functions={name: node for name, node in functions.items() if not name.startswith("_")},
        duplicates=duplicates,
        imports=tuple(_imports(nodes)),
        prints=tuple(_prints(tree)),
        literals=tuple(_literals(tree)),
    )


def _imports(nodes: list[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.Call) and _name(node.func) in _IMPORTERS:
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "name")][:1]
            names = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
            yield (names[0] if names else ""), node.lineno


def _prints(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Calls that write to standard output or standard error, outside an `if __name__ == "__main__"` block."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        called = ast.unparse(node.func)
        if called in _PRINTERS:
            targets = [ast.unparse(word.value) for word in node.keywords if word.arg in ("file", "stream")]
            if not targets or targets[0].startswith(_STANDARD_STREAMS):
                yield called, node.lineno
        elif (
            called in _LOGGERS
            or called.startswith(_STANDARD_STREAMS)
            or (called == "os.write" and node.args and ast.unparse(node.args[0]) in ("1", "2"))
        ):
            yield called, node.lineno


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _literals(tree: ast.Module) -> Iterator[Any]:
    """The outermost literal data, wherever it stands: containers, long texts, names that a function compares."""
    pending: list[ast.AST] = [tree]
    assigned: dict[str, dict[Any, Any]] = {}  # by `POPULATION["paris"] = 21`
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef):
            yield _compared(node)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                match target:
                    case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
                        assigned.setdefault(name, {})[key] = _literal(node.value)
        literal = _literal(node) if isinstance(node, _DATA) else _table(node)
        if isinstance(literal, dict | list | tuple | set) or (isinstance(literal, str) and _holds_data(literal)):
            yield literal
        else:
            pending.extend(ast.iter_child_nodes(node))
    yield from assigned.values()


def _holds_data(text: str) -> bool:
    return "\n" in text or len(text) > _LONG or text.lstrip()[:1] in ("[", "{")


def _table(node: ast.AST) -> Any:
    """The data of `dict(paris=21)`, of `"paris rome".split()`, and of a list of rows such as `City("Paris", 21)`."""
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=[_, *_]):
            return {word.arg: _literal(word.value) for word in node.keywords}
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="split"), args=[]):
            return text.split()
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="split"), args=[ast.Constant(value=str(mark))]
        ) if mark:
            return [word.strip() for word in text.split(mark)]
    return None


def _compared(function: ast.FunctionDef) -> list[Any]:
    """`if city == "paris": ... elif city == "rome": ...` is data too."""
    sides = [
        side
        for node in ast.walk(function)
        for side in ([node.left, *node.comparators] if isinstance(node, ast.Compare) else [])
        + ([node.value] if isinstance(node, ast.MatchValue) else [])
    ]
    return list(dict.fromkeys(side.value for side in sides if isinstance(side, ast.Constant)))


def _literal(node: ast.expr) -> Any:
    """The value of a literal expression, None for a computed one. `City("Paris", 21)` in a list is a row."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        pass
    items = node.elts if isinstance(node, ast.List | ast.Tuple) else []
    if len(items) > 1 and all(isinstance(item, ast.Call) for item in items):
        calls = [item for item in items if isinstance(item, ast.Call)]
        return [tuple(_literal(cell) for cell in [*call.args, *(w.value for w in call.keywords)]) for call in calls]
    return None
