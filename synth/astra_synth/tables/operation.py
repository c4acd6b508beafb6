"""What a tool can do with a shard. An operation knows four things about itself, each written apart from the others:
its schema, its Python source for the sandbox, its answer here, and the database query that must agree with it."""

import builtins
import keyword
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal

from astra_synth.tables.dataset import Dataset, Grouping
from astra_synth.tables.shard import Shard


class Undefined(Exception):
    """There is no single true answer for these arguments; the reason becomes a reject's."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Kind:
    """What a value is: a row's key, a label, a quantity (with its unit) or a list of keys."""

    sort: Literal["entity", "label", "quantity", "list"]
    table: str
    column: str = ""
    unit: str | None = None


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool. The first of an operation takes a value that a question names or an earlier step gave;
    the others take what the question says."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """A database query with positional parameters; `many` for a column of values, else exactly one row must come back.
    Numbers agree when they differ by at most half a unit of the last of `digits` decimals."""

    sql: str
    parameters: tuple[Any, ...]
    many: bool = False
    digits: int = 6


@dataclass(frozen=True)
class Needs:
    """The data a tool reads: columns of tables, and groups."""

    columns: frozenset[tuple[str, str]] = frozenset()
    groups: frozenset[Grouping] = frozenset()


class Operation(ABC):
    """One tool over a dataset's columns. Operations are values: equal when they do the same."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The tool's name."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for the model. Holds no digits and no data, so that no answer can stand in it."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]: ...

    @property
    @abstractmethod
    def takes(self) -> Kind:
        """The kind of the first parameter."""

    @property
    @abstractmethod
    def gives(self) -> Kind: ...

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        """What it is for. Two tools of one toolset share no role: else one question would have two shortest answers."""
        return frozenset({(self.name,)})

    @abstractmethod
    def domain(self, shard: Shard) -> list[Any]:
        """The first arguments for which this shard can answer."""

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        """Values for the other parameters. Raises Undefined when there are none that make a good question."""
        return {}

    @abstractmethod
    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        """The result over the shard. Raises Undefined."""

    @abstractmethod
    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        """The same over the whole tables."""

    @abstractmethod
    def needs(self) -> Needs: ...

    @abstractmethod
    def source(self) -> str:
        """The function's Python text; it may call the helpers of `module.py`."""

    @abstractmethod
    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        """Noun phrases for the result, given one for the first argument: "the population of Paris"."""

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        """Questions for the result that are no noun phrase: "How many people live in Paris?"."""
        return []

    @property
    def order(self) -> str:
        """How a list that it gives is ordered, as a question says it."""
        return "in alphabetical order"

    @property
    def digits(self) -> int:
        """Decimals of a quantity that it gives."""
        return 0

    def arguments(self, first: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments object."""
        return {self.parameters[0].name: first, **extra}


def key_parameter(dataset: Dataset, table: str) -> Parameter:
    """The parameter that takes a row's key."""
    spec = dataset.pack.tables[table]
    if spec.key_type == "integer":
        return Parameter(snake(spec.noun), {"type": "integer", "description": f"Which {spec.noun}."})
    return Parameter(snake(spec.noun), {"type": "string", "description": f"Name of the {spec.noun}."})


_BUILTINS = frozenset(dir(builtins))


@lru_cache(maxsize=4096)
def snake(words: str) -> str:
    """A name for code: "ISO code" -> iso_code, "class" -> class_name."""
    cleaned = "".join(char if char.isascii() and char.isalnum() else " " for char in words.lower())
    name = "_".join(cleaned.split()) or "item"
    name = f"n{name}" if name[0].isdigit() else name
    return f"{name}_name" if keyword.iskeyword(name) or name in _BUILTINS else name
