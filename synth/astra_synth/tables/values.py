"""What the text of a table means: values of the types that a pack can name, and the ways they are written.

Nothing is guessed. Each type has one plain way; a `format` states another; what could be read in two ways is refused.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from typing import Any, Literal

from astra_api.canonical import MAX_INTEGER
from astra_synth.tables.wording import whole

Value = str | int | float | None
ColumnType = Literal["integer", "number", "money", "percent", "text", "boolean", "date", "time", "datetime"]

QUANTITIES = frozenset({"integer", "number", "money", "percent"})
MOMENTS = frozenset({"date", "time", "datetime"})
FORMATTED = QUANTITIES | MOMENTS | {"boolean"}
YES = ("true", "t", "yes", "y", "1")
NO = ("false", "f", "no", "n", "0")

_MAX_TEXT = 120
_NOTHING = {"NULL", "\\N", "NaN", "#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NULL!", "#NUM!"}
_INVISIBLE = "\u00ad\u200b\u2060\ufeff"  # letters that no one sees: two names would look alike
_PLAIN = (str, int, float, Decimal, date, time)  # datetime is a date, bool an int
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_EXAMPLE = re.compile(
    r"(?P<prefix>\D*?)1(?P<thousands>[^\w+-]?)234(?:(?P<point>[^\w\s+-])\d+)?(?P<suffix>\D*)", re.ASCII
)
_MONEY = re.compile(
    r"(?P<sign>[+-]?)(?P<before>[^\d\s+.,-]{0,4}\.?)\s?(?P<inner>-?)"
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)\s?(?P<after>[^\d\s+.,-]{0,4}\.?)",
    re.ASCII,
)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_MIDNIGHT = re.compile(r"[ T]00:00(:00(\.0+)?)?(Z|\+00(:?00)?)?", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(\.\d{1,6})?)?", re.ASCII)
_UTC = re.compile(r"(Z|[+]00(:?00)?)$")
_PARTS = {"%Y": "y", "%y": "y", "%m": "m", "%B": "m", "%b": "m", "%d": "d", "%j": "md", "%H": "h", "%I": "i",
          "%p": "p", "%M": "n", "%S": "", "%f": "", "%A": "", "%a": "", "%%": ""}  # fmt: skip


class Misread(ValueError):
    """A value that its column's type does not cover; the message says what to do."""


class FormatError(ValueError):
    """A format that says nothing for its type."""


def tidy(text: str) -> str:
    """The text with its letters composed (NFC) and every white space a single space."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def folded(text: str) -> str:
    """What two names share that are one to the tools: capitals, white space and composition aside."""
    return unicodedata.normalize("NFC", tidy(text).casefold())


def as_text(raw: Any) -> str | None:
    """A value of a typed file as text; None for a missing one. Raises Misread for what is no plain value."""
    if raw is None or raw != raw:
        return None
    if isinstance(raw, str):
        return raw
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, datetime):
        raw = raw.astimezone(UTC).replace(tzinfo=None) if raw.tzinfo else raw
        return _short(raw.isoformat(sep=" "))
    if isinstance(raw, time):
        return _short(raw.isoformat())
    if isinstance(raw, Decimal):
        return format(raw, "f")
    if type(raw).__name__ == "UUID" or isinstance(raw, _PLAIN):
        return str(raw)
    raise Misread(f"holds {type(raw).__name__}, which is no plain value; leave the column out or store text in it")


def _short(moment: str) -> str:
    return moment.rstrip("0") if "." in moment else moment


@dataclass(frozen=True)
class NumberStyle:
    """How numbers are written: what stands before and after them, between thousands, and before the decimals."""

    prefix: str
    thousands: str
    point: str
    suffix: str


def number_style(example: str) -> NumberStyle:
    """The style in which somebody wrote the number 1234 or 1234.5. Raises FormatError for another text."""
    found = _EXAMPLE.fullmatch(tidy(example))
    if found is None or (found["thousands"] and found["thousands"] == found["point"]):
        raise FormatError(f"{example!r} must be the number 1234.5 as the table would write it, like '1.234,50 €'")
    return NumberStyle(found["prefix"].strip(), found["thousands"], found["point"] or "", found["suffix"].strip())


def boolean_words(format: str) -> tuple[str, str]:
    """The words for yes and for no. Raises FormatError."""
    words = [folded(word) for word in format.split("/")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise FormatError(f"{format!r} must be the word for yes, a slash and the word for no, like 'ja/nein'")
    return words[0], words[1]


def _check_moment(type: str, format: str) -> None:
    found = re.findall(r"%.?", format)
    if unknown := sorted(set(found) - set(_PARTS)):
        raise FormatError(f"{unknown[0]!r} is not known; use {' '.join(_PARTS)}")
    parts = "".join(_PARTS[directive] for directive in found)
    has_date = "y" in parts and "m" in parts and "d" in parts
    has_time = "n" in parts and ("h" in parts or ("i" in parts and "p" in parts))
    if type in ("date", "datetime") and not has_date:
        raise FormatError(f"{format!r} must say year, month and day, like '%d.%m.%Y'")
    if type in ("time", "datetime") and not has_time:
        raise FormatError(f"{format!r} must say hours and minutes, like '%H:%M' or '%I:%M %p'")
    if (type == "date" and "n" in parts) or (type == "time" and "y" in parts):
        raise FormatError(f"{format!r} says a date and a time: make the column datetime")


@dataclass(frozen=True)
class Notation:
    """How a column's values are written, and so what they mean."""

    type: ColumnType = "text"
    digits: int = 0  # decimals kept
    format: str | None = None
    told: bool = False  # whether the pack says how many decimals there are

    def __post_init__(self) -> None:
        """Raises FormatError for a format that says nothing."""
        if self.format is None:
            return
        if self.type in QUANTITIES:
            number_style(self.format)
        elif self.type == "boolean":
            boolean_words(self.format)
        else:
            _check_moment(self.type, self.format)

    def value(self, raw: Any) -> Value:
        """What a raw value means; None for a missing one. Raises Misread."""
        text = as_text(raw)
        if text is None or not (text := tidy(text)):
            return None
        if self.type == "text":
            return _checked_text(text)
        if self.format is not None and not isinstance(raw, str):
            raise Misread(f"{text!r} is stored as {type(raw).__name__}, not written as text; leave format out")
        if self.type in QUANTITIES:
            if isinstance(raw, bool):
                raise Misread(f"{raw!r} is not a number; make the column boolean")
            return self._number(text, isinstance(raw, str))
        if self.type == "boolean":
            return self._boolean(text)
        return self._moment(text)

    def doubts(self, raws: Iterable[Any]) -> str | None:
        """What speaks against a whole column of readable values: it could as well mean something else."""
        if self.format is not None:
            return None
        texts = [text for raw in raws if isinstance(raw, str) and (text := tidy(raw))]
        if self.type == "money":
            signs = {_sign_of(text) for text in texts}
            if len(signs) > 1:
                shown = ", ".join(repr(sign) for sign in sorted(signs)[:4])
                return f"amounts carry different currency signs ({shown}); a column has one"
        if self.type == "number" and not (self.told and self.digits >= 3):
            dotted = [text for text in texts if "." in text]
            if dotted and all(_thousands_or_decimals(text) for text in dotted):
                return (
                    f"{dotted[0]!r} could be thousands or three decimals, as all values with a dot could; "
                    "say format: '1.234' or format: '1234.567'"
                )
        return None

    @cached_property
    def _style(self) -> NumberStyle:
        return number_style(self.format or "")

    def _number(self, text: str, written: bool) -> Value:
        """A quantity; `written` where a person or program wrote it as text, so that it could mean something else."""
        plain = text.replace("_", "") if written else text
        if self.format is not None:
            plain = self._styled(text)
        elif self.type == "percent":
            plain = self._percentage(text)
        elif written and self.type == "money":
            plain = self._amount(text)
        elif written:
            self._unambiguous(text)
        if not _NUMBER.fullmatch(plain):
            raise Misread(f"{text!r} is not a number; {_number_fix(text)}")
        number = Decimal(plain)
        if number.copy_abs() > MAX_INTEGER:
            raise Misread(f"{text!r} is beyond 2^53, which JSON cannot hold exactly")
        rounded = number.quantize(Decimal(1).scaleb(-self.digits), ROUND_HALF_UP)
        if self.type == "integer":
            if rounded != number:
                raise Misread(f"{text!r} is not whole; make the column type number")
            return int(rounded)
        return whole(float(rounded))

    def _unambiguous(self, text: str) -> None:
        if re.fullmatch(r"[+-]?0\d+", text, re.ASCII):
            raise Misread(f"{text!r} begins with a zero, which a number loses; make it text, or take the zeros off")
        if self.type == "integer" and _thousands_or_decimals(text):
            raise Misread(
                f"{text!r} could be thousands or three decimals; say format: '1.234' for thousands, or write it whole"
            )

    def _styled(self, text: str) -> str:
        style = self._style
        sign, rest = _signed(text.replace("\u2212", "-"))
        if not (rest.startswith(style.prefix) and rest.endswith(style.suffix)):
            raise Misread(f"{text!r} is not written like {self.format!r}")
        rest = rest[len(style.prefix) : len(rest) - len(style.suffix)].strip()
        if not sign:
            sign, rest = _signed(rest)
        thousands, point = re.escape(style.thousands), re.escape(style.point)
        whole_part = rf"\d{{1,3}}(?:{thousands}\d{{3}})+|\d+" if thousands else r"\d+"
        decimals = rf"(?:{point}\d+)?" if point else ""
        if not re.fullmatch(rf"(?:{whole_part}){decimals}", rest, re.ASCII):
            raise Misread(f"{text!r} is not written like {self.format!r}")
        if style.thousands:
            rest = rest.replace(style.thousands, "")
        return sign.strip("+") + (rest.replace(style.point, ".") if style.point else rest)

    def _amount(self, text: str) -> str:
        found = _MONEY.fullmatch(text.replace("\u2212", "-"))
        if found is None or (found["before"] and found["after"]):
            raise Misread(f"{text!r} is not an amount of money like $1,234.50; {_money_fix(text)}")
        decimals = found["number"].partition(".")[2]
        if len(decimals) == 3 and self.digits < 3:
            raise Misread(f"{text!r} could be thousands or three decimals; say format: '1.234 €' or decimals: 3")
        return ("-" if "-" in (found["sign"], found["inner"]) else "") + found["number"].replace(",", "")

    def _percentage(self, text: str) -> str:
        number = text.removesuffix("%").strip()
        if number == text:
            raise Misread(f"{text!r} has no %; write 45%, or make the column type number with unit: percent")
        self._unambiguous(number)
        return number

    def _boolean(self, text: str) -> str:
        yes, no = (YES, NO) if self.format is None else ((word,) for word in boolean_words(self.format))
        word = folded(text)
        if word in yes or word in no:
            return "yes" if word in yes else "no"
        fix = "say format: with the table's words, like 'ja/nein'" if self.format is None else "correct or clear it"
        raise Misread(f"{text!r} is neither {yes[0]} nor {no[0]}; {fix}")

    def _moment(self, text: str) -> str:
        try:
            found = self._parsed(text)
        except (ValueError, OverflowError):
            example = {"date": "2024-01-05", "time": "14:05", "datetime": "2024-01-05 14:05:00"}[self.type]
            fix = f"say format: with %d, %m, %Y, %H, %M where it is another than {example}"
            like = self.format if self.format is not None else example
            raise Misread(f"{text!r} is no {self.type} like {like}; {fix}") from None
        if isinstance(found, datetime):
            return found.isoformat(sep=" ")
        return found.isoformat()

    def _parsed(self, text: str) -> date | time | datetime:
        if self.format is not None:
            moment = datetime.strptime(text, tidy(self.format))
            return moment.date() if self.type == "date" else moment.time() if self.type == "time" else moment
        if self.type == "date":
            return _iso_date(text)
        if self.type == "time":
            return _iso_time(text)
        text = _UTC.sub("", text)
        if len(text) == 10:
            return datetime.combine(_iso_date(text), time())
        return datetime.combine(_iso_date(text[:10]), _iso_time(text[11:] if text[10] in " T" else ""))


def _signed(text: str) -> tuple[str, str]:
    sign = text[:1] if text[:1] in ("+", "-") else ""
    return sign, text[len(sign) :].strip()


def _iso_date(text: str) -> date:
    found = _DATE.fullmatch(text[:10])
    if found is None or (text[10:] and not _MIDNIGHT.fullmatch(text[10:])):
        raise ValueError
    return date(*map(int, found.groups()))


def _iso_time(text: str) -> time:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError
    hour, minute, second, fraction = found.groups()
    return time(int(hour), int(minute), int(second or 0), int((fraction or ".0")[1:].ljust(6, "0")))


def _checked_text(text: str) -> str:
    if text in _NOTHING:
        raise Misread(f"{text!r} is how programs write that there is no value; clear it")
    if len(text) > _MAX_TEXT:
        raise Misread(f"text of {len(text)} letters; at most {_MAX_TEXT} can be asked about")
    if text.isprintable() and "\ufffd" not in text:
        return text
    for letter in text:
        if letter == "\ufffd":
            raise Misread(f"{text!r} has lost letters (U+FFFD); export it again as UTF-8")
        if letter in _INVISIBLE or unicodedata.category(letter) in ("Cc", "Cs"):
            raise Misread(f"{text!r} has an invisible letter (U+{ord(letter):04X}); take it out")
    return text


def _thousands_or_decimals(text: str) -> bool:
    return re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", text, re.ASCII) is not None


def _sign_of(text: str) -> str:
    found = _MONEY.fullmatch(text.replace("\u2212", "-"))
    return (found["before"] or found["after"]) if found else ""


def _number_fix(text: str) -> str:
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text, re.ASCII):
        return "say format: '1,234.5' where commas part thousands"
    if re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})*(,\d+)|[+-]?\d+,\d+|[+-]?\d{1,3}(\.\d{3}){2,}", text, re.ASCII):
        return "say format: '1.234,5' where a comma comes before the decimals"
    if re.fullmatch(r"[+-]?\d{1,3}( \d{3})+(,\d+)?", text, re.ASCII):
        return "say format: '1 234,5' where spaces part thousands"
    if text.endswith("%"):
        return "make the column percent"
    if any(unicodedata.category(letter) == "Sc" for letter in text):
        return "make the column money"
    if text.startswith("\u2212"):
        return "write the minus as -"
    return "make the column text or clear the value"


def _money_fix(text: str) -> str:
    if "," in text or text.count(".") > 1 or " " in text:
        return "say format: '1.234,50 €' with the table's own way"
    return "correct or clear it, or make the column text"
