"""Operations on one row: a column by key (walking up a relation is one of these), and the key by a unique column."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Kind, Needs, Operation, Parameter, Query, Undefined, key_parameter, snake
from astra_synth.tables.pack import Column, TableSpec
from astra_synth.tables.reading import quoted
from astra_synth.tables.shard import Shard
from astra_synth.tables.wording import a

_FORMS = {
    "boolean": ", yes or no",
    "date": ", as year-month-day",
    "time": ", as hours:minutes:seconds",
    "datetime": ", as year-month-day hours:minutes:seconds",
}


@dataclass(frozen=True)
class Lookup(Operation):
    """A column of the row with a key: `city_population(city)`, `city_country(city)`."""

    dataset: Dataset = field(repr=False, compare=False)
    table: str
    column: str

    @property
    def _spec(self) -> Column:
        return self.dataset.spec(self.table, self.column)

    @property
    def _noun(self) -> str:
        return self.dataset.pack.tables[self.table].noun

    @property
    def name(self) -> str:
        return f"{snake(self._noun)}_{snake(self._spec.noun)}"

    @property
    def description(self) -> str:
        form = f", in {self._spec.unit}" if self._spec.unit else _FORMS.get(self._spec.type, "")
        return f"The {self._spec.noun} of {a(self._noun)}{form}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (key_parameter(self.dataset, self.table),)

    @property
    def takes(self) -> Kind:
        return Kind("entity", self.table)

    @property
    def gives(self) -> Kind:
        if self._spec.references:
            return Kind("entity", self._spec.references)
        if self._spec.is_quantity:
            return Kind("quantity", self.table, self.column, self._spec.unit)
        return Kind("label", self.table, self.column)

    @property
    def digits(self) -> int:
        return self._spec.digits

    def domain(self, shard: Shard) -> list[Any]:
        return [key for key, row in shard.rows.get(self.table, {}).items() if row[self.column] is not None]

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        row = shard.rows[self.table].get(first)
        if row is None or row[self.column] is None:
            raise Undefined("missing-value")
        return row[self.column]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        sql = f"SELECT {quoted(self.column)} FROM {quoted(self.table)} WHERE lower(key::VARCHAR) = lower(?::VARCHAR)"
        return Query(sql, (first,))

    def needs(self) -> Needs:
        return Needs(columns=frozenset({(self.table, self.column)}))

    def source(self) -> str:
        parameter = self.parameters[0].name
        return (
            f"def {self.name}({parameter}):\n"
            f"    row = _row(_{self.table.upper()}, {self._noun!r}, {parameter})\n"
            f"    return _known(row[{self.column!r}], {self._spec.noun!r})\n"
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [phrase.format(about) for phrase in self._spec.phrases or [f"the {self._spec.noun} of {{}}"]]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        found = [ask.format(about) for ask in self._spec.asks]
        if self._spec.unit:
            found += [f"What is {phrase} in {self._spec.unit}?" for phrase in self.phrases(about, extra)]
        return found


@dataclass(frozen=True)
class Reverse(Operation):
    """The key of the row with a value in a unique column: `element_by_symbol(symbol)`."""

    dataset: Dataset = field(repr=False, compare=False)
    table: str
    column: str

    @property
    def _table(self) -> TableSpec:
        return self.dataset.pack.tables[self.table]

    @property
    def _word(self) -> str:
        return self.dataset.spec(self.table, self.column).noun

    @property
    def name(self) -> str:
        return f"{snake(self._table.noun)}_by_{snake(self._word)}"

    @property
    def description(self) -> str:
        return f"The {self._table.noun} with a given {self._word}."

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter(snake(self._word), {"type": "string", "description": f"The {self._word}."}),)

    @property
    def takes(self) -> Kind:
        return Kind("label", self.table, self.column)

    @property
    def gives(self) -> Kind:
        return Kind("entity", self.table)

    def domain(self, shard: Shard) -> list[Any]:
        return [v for row in shard.rows.get(self.table, {}).values() if (v := row[self.column]) is not None]

    def answer(self, shard: Shard, first: Any, extra: Mapping[str, Any]) -> Any:
        found = [key for key, row in shard.rows[self.table].items() if row[self.column] == first]
        if len(found) != 1:
            raise Undefined("ambiguous-value" if found else "missing-value")
        return found[0]

    def query(self, first: Any, extra: Mapping[str, Any]) -> Query:
        return Query(f"SELECT key FROM {quoted(self.table)} WHERE lower({quoted(self.column)}) = lower(?)", (first,))

    def needs(self) -> Needs:
        return Needs(columns=frozenset({(self.table, self.column)}))

    def source(self) -> str:
        parameter = self.parameters[0].name
        return (
            f"def {self.name}({parameter}):\n"
            f"    wanted = _folded({parameter})\n"
            f"    for key, row in _{self.table.upper()}.items():\n"
            f"        if _folded(row[{self.column!r}]) == wanted:\n"
            f"            return key\n"
            f'    raise LookupError(f"no {self._table.noun} with the {self._word} {{{parameter}!r}}")\n'
        )

    def phrases(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [
            f"the {self._table.noun} with the {self._word} {about}",
            f"the {self._table.noun} whose {self._word} is {about}",
        ]

    def asks(self, about: str, extra: Mapping[str, Any]) -> list[str]:
        return [f"Which {self._table.noun} has the {self._word} {about}?"]
