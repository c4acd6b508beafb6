"""Statistics of a quantity over a group: one by the tool's name, or any by an argument."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from astra_synth.tables.groups import ColumnOperation
from astra_synth.tables.operation import Kind, Parameter, Query, Undefined, snake
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a, number_word, whole

Statistic = Literal["total", "average", "highest", "lowest"]
_SQL_STATISTIC = {"total": "sum", "average": "avg", "highest": "max", "lowest": "min"}


@dataclass(frozen=True)
class Aggregate(ColumnOperation):
    """One statistic of a quantity over a group: `country_total_city_population(country)`."""

    statistic: Statistic

    @property
    def name(self) -> str:
        return f"{self.prefix}_{self.statistic}_{snake(self.child.noun)}_{snake(self.quantity.noun)}"

    @property
    def description(self) -> str:
        unit = f", in {self.quantity.unit}" if self.quantity.unit else ""
        start = f"The {self.statistic} {self.quantity.noun}"
        rounded = f", rounded to {number_word(self.digits)} decimals" if self.statistic == "average" else ""
        return f"{start} of the {self.child.plural} {self.within(a(self.noun))}{unit}{rounded}."

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.grouping.table, self.column, self.quantity.unit)

    @property
    def digits(self) -> int:
        return max(self.quantity.digits, 2) if self.statistic == "average" else self.quantity.digits

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        role = "spread" if self.statistic in ("total", "average") else "order"
        return frozenset({(role, self.grouping.table, self.grouping.column, self.column)})

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return statistic_of(self.statistic, list(self.values(shard, first).values()), self.digits)

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        function = _SQL_STATISTIC[self.statistic]
        return Query(f"SELECT {function}({quoted(self.column)}) {self._from_group}", (first,), digits=self.digits)

    def source(self) -> str:
        values = f"[value for value, _ in {self.values_in_group}]"
        return (
            f"def {self.name}({self.parameters[0].name}):\n"
            f"    values = {values}\n"
            f"    return {PYTHON_STATISTIC[self.statistic].format(digits=self.digits)}\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        noun, plural = self.quantity.noun, f"{self.child.plural} {self.within(about)}"
        if self.statistic in ("highest", "lowest"):
            return [f"the {self.statistic} {noun} among the {plural}", f"the {self.statistic} {noun} of the {plural}"]
        word = {"total": ["total", "combined"], "average": ["average", "mean"]}[self.statistic]
        return [f"the {w} {noun} of the {plural}" for w in word]


def statistic_of(statistic: str, values: list[Any], digits: int) -> Any:
    """A statistic, rounded; whole numbers where `digits` is 0."""
    if not values:
        raise Undefined("empty-group")
    match statistic:
        case "total":
            result = math.fsum(values)  # correctly rounded: `sum` of floats differs between Python 3.11 and 3.12
        case "average":
            result = math.fsum(values) / len(values)
        case "highest":
            result = max(values)
        case _:
            result = min(values)
    return whole(round(result, digits))


PYTHON_STATISTIC = {
    "total": "_rounded(math.fsum(values), {digits})",
    "average": "_rounded(math.fsum(values) / len(values), {digits})",
    "highest": "max(values)",
    "lowest": "min(values)",
}


@dataclass(frozen=True)
class Summary(ColumnOperation):
    """Any statistic of a quantity over a group, by name: `country_city_population_summary(country, statistic)`."""

    @property
    def name(self) -> str:
        return f"{self.prefix}_{snake(self.child.noun)}_{snake(self.quantity.noun)}_summary"

    @property
    def description(self) -> str:
        return f"A statistic of the {self.quantity.noun} over the {self.child.plural} {self.within(a(self.noun))}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        schema = {"type": "string", "enum": list(self._statistics), "description": "Which statistic."}
        return (*super().parameters, Parameter("statistic", schema))

    @property
    def _statistics(self) -> tuple[str, ...]:
        return ("total", "average", "highest", "lowest") if self.quantity.sum else ("average", "highest", "lowest")

    @property
    def gives(self) -> Kind:
        return Kind("quantity", self.grouping.table, self.column, self.quantity.unit)

    @property
    def digits(self) -> int:
        return max(self.quantity.digits, 2)

    @property
    def roles(self) -> frozenset[tuple[str, ...]]:
        place = (self.grouping.table, self.grouping.column, self.column)
        return frozenset({("spread", *place), ("order", *place)})

    def sample(self, shard: Shard, first: Any, rng: Random) -> dict[str, Any]:
        return {"statistic": rng.choice(self._statistics)}

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        return statistic_of(extra["statistic"], list(self.values(shard, first).values()), self.digits)

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        function = _SQL_STATISTIC[extra["statistic"]]
        return Query(f"SELECT {function}({quoted(self.column)}) {self._from_group}", (first,), digits=self.digits)

    def source(self) -> str:
        known = "".join(
            f"    if statistic == {s!r}:\n        return {PYTHON_STATISTIC[s].format(digits=self.digits)}\n"
            for s in self._statistics
        )
        return (
            f"def {self.name}({self.parameters[0].name}, statistic):\n"
            f"    values = [value for value, _ in {self.values_in_group}]\n"
            f"{known}"
            f'    raise LookupError(f"no statistic named {{statistic!r}}")\n'
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return Aggregate(self.dataset, self.grouping, self.column, extra["statistic"]).phrases(about, {})
