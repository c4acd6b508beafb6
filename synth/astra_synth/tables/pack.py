"""A pack: a short YAML that tells tables, keys, relations and how people speak of them.

Everything a question says comes from here; nothing is guessed from column names.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astra_api.errors import BadInput
from astra_api.yaml_documents import YamlError, documents

Word = Annotated[str, Field(pattern=r'^[^"{}\\\x00-\x1f]+$', max_length=80)]  # stands in generated source
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
Phrase = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", max_length=200)]  # text with one {} for what it is about


class PackError(BadInput):
    """A pack or one of its tables is unusable; the message names the file, the field and what to do."""


class Part(BaseModel):
    """Base of what a pack is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Part):
    """One readable column.

    `integer` and `number` are quantities that can be ranked and compared. `text` is a label. A column with
    `references` holds keys of another table. `group: true` makes a text column a way to pick rows ("books of the
    genre poetry"); `unique: true` lets rows be found by it.
    """

    type: Literal["integer", "number", "text"] = "text"
    references: Identifier | None = None
    noun: Word
    phrases: list[Phrase] = Field(default_factory=list)  # "the country where {} lies"; default "the <noun> of {}"
    asks: list[Phrase] = Field(default_factory=list)  # "How many people live in {}?"
    within: Phrase | None = None  # with references or group: "in {}", put after the plural of this table
    column: Annotated[str, Field(min_length=1)] | None = None  # its name in the table, where that is not the field's
    unit: Word | None = None  # plural: "square kilometres"
    decimals: Annotated[int, Field(ge=0, le=6)] | None = None  # of a number; more digits are rounded away
    high: Word | None = None  # superlatives: "most populous", "largest"
    low: Word | None = None
    sum: bool = False  # does adding it up mean anything?
    group: bool = False
    unique: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.references and (self.type != "text" or self.group or self.unique):
            raise ValueError("a column with references takes its type from that key: leave out type, group and unique")
        if self.type == "text" and (self.unit or self.high or self.low or self.sum or self.decimals is not None):
            raise ValueError("unit, decimals, high, low and sum belong to a column of type integer or number")
        if self.type != "text" and (self.group or self.unique):
            raise ValueError("group and unique belong to a column of type text")
        if self.type == "integer" and self.decimals:
            raise ValueError("an integer has no decimals: use type number")
        if self.within and not (self.references or self.group):
            raise ValueError("within needs references or group: true")
        return self

    @property
    def is_quantity(self) -> bool:
        return self.type != "text"

    @property
    def digits(self) -> int:
        """Decimals kept: 0 for integers, 2 for numbers unless told."""
        return 0 if self.type == "integer" else 2 if self.decimals is None else self.decimals


class Origin(Part):
    """Where a table comes from: a file beside the pack (csv, parquet, sqlite, db, duckdb), or a shipped loader."""

    file: Annotated[str, Field(min_length=1)] | None = None
    package: Annotated[str, Field(min_length=1)] | None = None
    table: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.package is None):
            raise ValueError("give exactly one of file and package")
        if self.package is not None and self.table is None:
            raise ValueError("package needs table")
        return self


class TableSpec(Part):
    """One table: a row is an entity, named by its key."""

    origin: Annotated[Origin, Field(alias="from")]
    key: Annotated[str, Field(min_length=1)]  # column that names a row, unique
    key_type: Literal["text", "integer"] = "text"
    noun: Word
    plural: Word
    called: Phrase = "{}"  # how a question calls a row: "period {}"
    the: list[Any] = Field(default_factory=list)  # keys that take the article: Bahamas
    columns: Annotated[dict[Identifier, Column], Field(min_length=1)]


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
        for name, table in self.tables.items():
            if "key" in table.columns:
                raise ValueError(f"tables.{name}.columns.key: the name is taken; choose another and say column: key")
            for column, spec in table.columns.items():
                if spec.references and spec.references not in self.tables:
                    known = ", ".join(self.tables)
                    raise ValueError(
                        f"tables.{name}.columns.{column}.references: no table {spec.references!r}; tables are {known}"
                    )
        root, _, column = self.shards.by.partition(".")
        if root not in self.tables:
            raise ValueError(f"shards.by: no table {root!r}; tables are {', '.join(self.tables)}")
        if column:
            target = self.tables[root].columns.get(column)
            if target is None or not (target.group or target.references):
                raise ValueError(f"shards.by: {self.shards.by} must be a column with group: true or references")
        return self


def parse_pack(text: str, where: str) -> Pack:
    """The pack that a YAML text describes. Raises PackError naming `where`, the field and the trouble."""
    try:
        found = list(documents(text))
    except YamlError as error:
        raise PackError(f"{where}: {error}") from None
    if len(found) != 1 or not isinstance(found[0].value, dict):
        raise PackError(f"{where}: a pack is one YAML document with the fields name, domain, shards, tables, ...")
    try:
        return Pack.model_validate(found[0].value)
    except ValidationError as error:
        lines = [f"{where}: {_line(item)}" for item in error.errors(include_context=False)]
    raise PackError("\n".join(lines))


def read_pack(path: Path) -> Pack:
    """The pack in a file. Raises PackError."""
    try:
        return parse_pack(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: cannot be read as text: {error}") from None


def _line(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "pack"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown field"
    return message if message.startswith(("tables.", "shards.")) and field == "pack" else f"{field}: {message}"
