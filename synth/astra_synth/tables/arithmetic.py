"""Operations on numbers: joins of several values (difference, ratio, total, average) and conversions of units.

A join exists twice: as a tool, and as reasoning that the last step of a question asks for without one. A toolset that
has the tool always uses it, so that there is one shortest way.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astra_synth.tables.operation import Kind, Needs, Operation, Parameter, Query, Undefined, snake
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import enumerate_words, whole

_DIGITS = 6  # of sums and differences: beyond what the columns keep, so that only noise is cut


class Join(ABC):
    """Makes one number of several."""

    name: str
    description: str
    digits: int
    pair: bool  # exactly two values, as `first` and `second`; else a list `numbers`

    @abstractmethod
    def answer(self, values: Sequence[Any]) -> Any:
        """The result. Raises Undefined."""

    @abstractmethod
    def query(self, values: Sequence[Any]) -> Query: ...

    @property
    @abstractmethod
    def body(self) -> str:
        """The Python expression of the tool."""

    @abstractmethod
    def phrases(self, things: Sequence[str], noun: str) -> list[str]:
        """Noun phrases, given those of the values, which are all a `noun`."""

    def asks(self, things: Sequence[str], noun: str) -> list[str]:
        return []

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        if self.pair:
            number = {"type": "number"}
            return (Parameter("first", number), Parameter("second", number))
        schema = {"type": "array", "items": {"type": "number"}, "minItems": 1}
        return (Parameter("numbers", schema),)

    def arguments(self, values: Sequence[Any]) -> dict[str, Any]:
        return {"first": values[0], "second": values[1]} if self.pair else {"numbers": list(values)}

    def source(self) -> str:
        names = ", ".join(parameter.name for parameter in self.parameters)
        return f"def {self.name}({names}):\n    return {self.body}\n"


class Difference(Join):
    name = "difference"
    description = "How far two numbers are apart."
    digits = _DIGITS
    pair = True
    body = f"_rounded(abs(first - second), {_DIGITS})"

    def answer(self, values: Sequence[Any]) -> Any:
        if values[0] == values[1]:
            raise Undefined("tie")
        return whole(round(abs(values[0] - values[1]), _DIGITS))

    def query(self, values: Sequence[Any]) -> Query:
        return Query("SELECT greatest(a, b) - least(a, b) FROM (SELECT ?::DOUBLE AS a, ?::DOUBLE AS b)", tuple(values))

    def phrases(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"the difference between {things[0]} and {things[1]}"]

    def asks(self, things: Sequence[str], noun: str) -> list[str]:
        return [
            f"By how much do {things[0]} and {things[1]} differ?",
            f"How far apart are {things[0]} and {things[1]}?",
        ]


class Ratio(Join):
    name = "ratio"
    description = "The first number divided by the second, rounded to two decimals."
    digits = 2
    pair = True
    body = "_rounded(first / second, 2)"

    def answer(self, values: Sequence[Any]) -> Any:
        if not values[1] or not 0.05 < abs(values[0] / values[1]) < 10_000 or values[0] == values[1]:
            raise Undefined("dull-ratio")
        return whole(round(values[0] / values[1], 2))

    def query(self, values: Sequence[Any]) -> Query:
        return Query("SELECT ?::DOUBLE / ?::DOUBLE", tuple(values), digits=2)

    def phrases(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"the ratio of {things[0]} to {things[1]}, rounded to two decimals"]

    def asks(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"Divide {things[0]} by {things[1]}, to two decimals. What is the result?"]


class Total(Join):
    name = "add"
    description = "The sum of some numbers."
    digits = _DIGITS
    pair = False
    body = f"_rounded(math.fsum(numbers), {_DIGITS})"

    def answer(self, values: Sequence[Any]) -> Any:
        return whole(round(math.fsum(values), _DIGITS))

    def query(self, values: Sequence[Any]) -> Query:
        return Query("SELECT list_sum(?::DOUBLE[])", (list(values),))

    def phrases(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"the sum of {enumerate_words(things)}"]

    def asks(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"Add {enumerate_words(things)}. What is the sum?", f"What do {enumerate_words(things)} add up to?"]


class Average(Join):
    name = "average"
    description = "The mean of some numbers, rounded to two decimals."
    digits = 2
    pair = False
    body = "_rounded(math.fsum(numbers) / len(numbers), 2)"

    def answer(self, values: Sequence[Any]) -> Any:
        return whole(round(math.fsum(values) / len(values), 2))

    def query(self, values: Sequence[Any]) -> Query:
        return Query("SELECT list_avg(?::DOUBLE[])", (list(values),), digits=2)

    def phrases(self, things: Sequence[str], noun: str) -> list[str]:
        return [f"the mean of {enumerate_words(things)}, rounded to two decimals"]


JOINS: dict[str, Join] = {join.name: join for join in (Difference(), Ratio(), Total(), Average())}


@dataclass(frozen=True)
class Unit:
    """A unit that another converts to: multiply."""

    to: str
    factor: float


CONVERSIONS = {
    "metres": Unit("feet", 3.28084),
    "kilometres": Unit("miles", 0.621371),
    "square kilometres": Unit("square miles", 0.386102),
    "kilograms": Unit("pounds", 2.204623),
    "grams": Unit("ounces", 0.035274),
    "litres": Unit("gallons", 0.264172),
    "hours": Unit("minutes", 60.0),
    "minutes": Unit("seconds", 60.0),
}


@dataclass(frozen=True)
class Convert(Operation):
    """A quantity in another unit: `metres_to_feet(value)`. Takes the value of a column with that unit."""

    table: str
    column: str
    unit: str

    @property
    def _target(self) -> Unit:
        return CONVERSIONS[self.unit]

    @property
    def name(self) -> str:
        return f"{snake(self.unit)}_to_{snake(self._target.to)}"

    @property
    def description(self) -> str:
        return f"Converts {self.unit} to {self._target.to}, rounded to two decimals."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("value", {"type": "number"}),)

    @property
    def takes(self) -> Kind:
        return Kind("quantity", self.table, self.column, self.unit)

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.table, self.column, self._target.to)

    @property
    def digits(self) -> int:
        return 2

    def domain(self, shard: Shard) -> list[Any]:
        return []  # only ever fed by an earlier step

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return whole(round(first * self._target.factor, 2))

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query("SELECT ?::DOUBLE * ?::DOUBLE", (first, self._target.factor), digits=2)

    def needs(self) -> Needs:
        return Needs()

    def source(self) -> str:
        return f"def {self.name}(value):\n    return _rounded(value * {self._target.factor!r}, 2)\n"

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"{about} in {self._target.to}", f"{about} expressed in {self._target.to}"]
