"""A pack: a short YAML that tells tables, keys, relations and how people speak of them.

Everything a question says comes from here; nothing is guessed from column names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from astra_api.errors import BadInput
from astra_api.yaml_documents import YamlError, documents
from astra_synth.tables.values import FORMATTED, MOMENTS, QUANTITIES, ColumnType, FormatError, Notation, tidy

Word = Annotated[str, Field(pattern=r'^[^"{}\\\x00-\x1f]+$', max_length=80)]  # stands in generated source
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
Phrase = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", max_length=200)]  # text with one {} for what it is about
Names = Annotated[  # of columns that make one value together; one name stands for a list of it
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class PackError(BadInput):
    """A pack or one of its tables is unusable; the message names the file, the field and what to do."""


class Part(BaseModel):
    """Base of what a pack is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Part = TypeVar("_Part", bound=Part)


class Column(Part):
    """One readable column.

    `integer`, `number`, `money` and `percent` are quantities that can be ranked, compared and, where `sum` says so,
    added up. `date`, `time` and `datetime` can be ranked. `text` and `boolean` are labels. A column with `references`
    holds keys of another table. `group: true` makes a text column a way to pick rows ("books of the genre poetry");
    `unique: true` lets rows be found by it. `format` tells how the table writes the values, where that is not the
    plain way.
    """

    type: ColumnType = "text"
    references: Identifier | None = None
    noun: Word
    phrases: list[Phrase] = Field(default_factory=list)  # "the country where {} lies"; default "the <noun> of {}"
    asks: list[Phrase] = Field(default_factory=list)  # "How many people live in {}?"
    within: Phrase | None = None  # with references or group: "in {}", put after the plural of this table
    column: Names | None = None  # its name in the table, where that is not the field's
    format: Annotated[str, Field(min_length=1, max_length=60)] | None = None  # "1.234,50 €", "%d.%m.%Y", "ja/nein"
    unit: Word | None = None  # plural: "square kilometres"
    decimals: Annotated[int, Field(ge=0, le=6)] | None = None  # of a quantity; more digits are rounded away
    high: Word | None = None  # superlatives: "most populous", "largest"
    low: Word | None = None
    sum: bool = False  # does adding it up mean anything?
    group: bool = False
    unique: bool = False

    @model_validator(mode="before")
    @classmethod
    def _percent(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "percent":
            return {"unit": "percent"} | data
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if mistakes := list(self._mistakes()):
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.references and (self.type != "text" or self.group or self.unique):
            yield "a column with references takes its type from that key: leave out type, group and unique"
        elif self.type != "text" and (self.group or self.unique):
            yield "group and unique belong to a column of type text"
        if not self.is_quantity and (self.unit or self.sum or self.decimals is not None):
            yield "unit, decimals and sum belong to a column of type integer or number, or money or percent"
        if not self.is_ordered and (self.high or self.low):
            yield "high and low belong to a quantity, or to a column of type date, time or datetime"
        if self.type == "integer" and self.decimals:
            yield "an integer has no decimals: use type number"
        if self.within and not (self.references or self.group):
            yield "within needs references or group: true"
        if self.column and len(self.column) > 1 and not self.references:
            yield "several columns make one value only with references, to a table whose key has as many"
        if self.format is not None:
            yield from self._format_mistakes(self.format)

    def _format_mistakes(self, format: str) -> Iterator[str]:
        if self.references or self.type not in FORMATTED:
            yield "format belongs to a quantity, or to a column of type boolean, date, time or datetime"
            return
        try:
            Notation(self.type, self.digits, format)
        except FormatError as error:
            yield f"format: {error}"

    def names(self, field: str) -> list[str]:
        """The columns of the file that hold it; `field` is its own name."""
        return self.column or [field]

    @property
    def is_quantity(self) -> bool:
        return self.type in QUANTITIES

    @property
    def is_moment(self) -> bool:
        """Whether it is a date, a time or both."""
        return self.type in MOMENTS

    @property
    def is_ordered(self) -> bool:
        """Whether rows can be ranked by it."""
        return self.is_quantity or self.is_moment

    @property
    def digits(self) -> int:
        """Decimals kept: 0 for integers, 2 for other quantities unless told."""
        return 0 if self.type == "integer" else 2 if self.decimals is None else self.decimals

    @property
    def notation(self) -> Notation:
        return Notation(self.type, self.digits, self.format, self.decimals is not None)


class Origin(Part):
    """Where a table comes from: a file beside the pack (csv, parquet, sqlite, db, duckdb), or a shipped loader."""

    file: Annotated[str, Field(min_length=1)] | None = None
    delimiter: Annotated[str, Field(pattern=r"^[^\r\n\"]$")] | None = (
        None  # of a .csv or .tsv: a comma or a tab unless given
    )
    quote: Annotated[str, Field(pattern=r"^[^\r\n]?$")] | None = None  # of a .csv or .tsv: " unless given, '' for none
    package: Annotated[str, Field(min_length=1)] | None = None
    table: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.package is None):
            raise ValueError("give exactly one of file and package")
        if self.package is not None and self.table is None:
            raise ValueError("package needs table")
        if (self.delimiter or self.quote is not None) and not str(self.file).lower().endswith((".csv", ".tsv")):
            raise ValueError("delimiter and quote belong to a .csv or .tsv file")
        if self.quote and self.quote == self.delimiter:
            raise ValueError("delimiter and quote must differ")
        return self


class TableSpec(Part):
    """One table: a row is an entity, named by its key."""

    origin: Annotated[Origin, Field(alias="from")]
    key: Names  # the column that names a row, or several that do so together; unique
    key_type: Literal["text", "integer"] = "text"
    noun: Word
    plural: Word
    called: Phrase = "{}"  # how a question calls a row: "period {}"
    the: list[Annotated[Any, BeforeValidator(lambda key: tidy(key) if isinstance(key, str) else key)]] = Field(
        default_factory=list
    )  # keys that take the article: Bahamas
    columns: Annotated[dict[Identifier, Column], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if len(self.key) > 1 and self.key_type != "text":
            raise ValueError("key_type: several columns that name a row together make a text; leave key_type out")
        return self


class Shards(Part):
    """What toolsets divide among themselves: the rows of a table, or the values of `table.column`."""

    by: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$")]


class Pack(Part):
    """Tables and the words for them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
    domain: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    title: Word
    licence: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    shards: Shards
    tables: Annotated[dict[Identifier, TableSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _connected(self) -> Self:
        if ends := list(_loose_ends(self.model_dump(by_alias=True))):
            raise ValueError("\n".join(ends))
        return self


@dataclass(frozen=True)
class Draft:
    """What a text holds of a pack: the whole where it is sound, else its sound tables; and every mistake in it."""

    where: str
    pack: Pack | None
    tables: Mapping[str, TableSpec]
    mistakes: tuple[str, ...] = ()


def parse_pack(text: str, where: str) -> Draft:
    """The pack that a YAML text describes, with its mistakes. Raises PackError where it is no pack at all."""
    try:
        found = list(documents(text))
    except YamlError as error:
        raise PackError(f"{where}: {error}") from None
    if len(found) != 1 or not isinstance(found[0].value, dict):
        raise PackError(f"{where}: a pack is one YAML document with the fields name, domain, shards, tables, ...")
    raw = found[0].value
    try:
        pack = Pack.model_validate(raw)
    except ValidationError as error:
        mistakes = [line for item in error.errors(include_context=False) for line in _lines(item)]
    else:
        return Draft(where, pack, pack.tables)
    mistakes += [end for end in _loose_ends(raw) if end not in mistakes]
    return Draft(where, None, dict(_sound_tables(raw)), tuple(f"{where}: {mistake}" for mistake in mistakes))


def read_pack(path: Path) -> Draft:
    """The pack in a file. Raises PackError."""
    try:
        return parse_pack(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: cannot be read as text: {error}") from None


def _sound_tables(raw: Mapping[str, Any]) -> Iterator[tuple[str, TableSpec]]:
    for name, table in _mapping(raw.get("tables")).items():
        columns = _mapping(_mapping(table).get("columns")).items()
        sound = {column: spec for column, spec in columns if _valid(Column, spec) is not None}
        if (spec := _valid(TableSpec, {**_mapping(table), "columns": sound})) is not None:
            yield str(name), spec


def _valid(kind: type[_Part], raw: Any) -> _Part | None:
    try:
        return kind.model_validate(raw)
    except ValidationError:
        return None  # its mistakes are among those of the whole


def _loose_ends(raw: Mapping[str, Any]) -> Iterator[str]:
    """What refers to nothing, in a pack that may be unsound otherwise."""
    tables = _mapping(raw.get("tables"))
    known = ", ".join(map(str, tables))
    for name, table in tables.items():
        columns = _mapping(_mapping(table).get("columns"))
        if "key" in columns:
            yield f"tables.{name}.columns.key: the name is taken; choose another and say column: key"
        for column, spec in columns.items():
            target = _mapping(spec).get("references")
            if isinstance(target, str) and target not in tables:
                yield f"tables.{name}.columns.{column}.references: no table {target!r}; tables are {known}"
            elif isinstance(target, str):
                yield from _narrow_reference(f"tables.{name}.columns.{column}", column, spec, _mapping(tables[target]))
    by = _mapping(raw.get("shards")).get("by")
    if isinstance(by, str):
        root, _, column = by.partition(".")
        if root not in tables:
            yield f"shards.by: no table {root!r}; tables are {known}"
        elif column:
            spec = _mapping(_mapping(_mapping(tables[root]).get("columns")).get(column))
            if not (spec.get("group") or spec.get("references")):
                yield f"shards.by: {by} must be a column with group: true or references"


def _narrow_reference(where: str, column: str, spec: Mapping[str, Any], target: Mapping[str, Any]) -> Iterator[str]:
    """A reference has as many columns as the key that it means."""
    mine, theirs = _listed(spec.get("column") or column), _listed(target.get("key"))
    if len(mine) != len(theirs):
        wanted = "one column" if len(theirs) == 1 else f"{len(theirs)} columns ({', '.join(map(str, theirs))})"
        yield f"{where}.column: the key of {spec['references']} is {wanted}; name as many"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _lines(item: Any) -> Iterator[str]:
    field = ".".join(str(part) for part in item["loc"]) or "pack"
    if item["type"] == "extra_forbidden":
        yield f"{field}: unknown field"
        return
    for message in str(item["msg"]).removeprefix("Value error, ").split("\n"):
        yield message if message.startswith(("tables.", "shards.")) and field == "pack" else f"{field}: {message}"
