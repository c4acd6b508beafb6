"""Tables from the package pycountry (LGPL-2.1; data of the Debian iso-codes project)."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from astra_synth.packs import geonames
from astra_synth.tables.reading import RawRow


@cache
def table(name: str) -> Sequence[RawRow]:
    """countries, subdivisions, currencies, languages. Raises KeyError for another name."""
    tables = {
        "countries": _countries,
        "subdivisions": _subdivisions,
        "currencies": _currencies,
        "languages": _languages,
    }
    return list(tables[name]())


def _name(code: str) -> str | None:
    try:
        return geonames.country_name(code)
    except KeyError:
        return None


@cache
def _currency_codes() -> dict[str, str]:
    """Country code -> ISO 4217 code."""
    return {code: country["currencycode"] for code, country in geonames.countries_by_code().items()}


@cache
def _first_languages() -> dict[str, str]:
    """Country code -> alpha-3 code of the first language listed for it."""
    import pycountry

    found = {}
    for code, country in geonames.countries_by_code().items():
        first = country["languages"].split(",")[0].split("-")[0]
        language = pycountry.languages.get(alpha_2=first) if len(first) == 2 else pycountry.languages.get(alpha_3=first)
        if language is not None:
            found[code] = language.alpha_3
    return found


def _countries() -> Iterator[RawRow]:
    import pycountry

    currencies = {row["code"]: row["name"] for row in table("currencies")}
    languages = {row["code"]: row["name"] for row in table("languages")}
    for country in pycountry.countries:
        name = _name(country.alpha_2)
        if name is None:
            continue
        yield {
            "name": name,
            "alpha2": country.alpha_2,
            "alpha3": country.alpha_3,
            "numeric": int(country.numeric),
            "currency": currencies.get(_currency_codes().get(country.alpha_2, "")),
            "language": languages.get(_first_languages().get(country.alpha_2, "")),
        }


def _currencies() -> Iterator[RawRow]:
    import pycountry

    used = set(_currency_codes().values())
    for currency in pycountry.currencies:
        if currency.alpha_3 in used:
            yield {"name": currency.name, "code": currency.alpha_3, "numeric": int(currency.numeric)}


def _languages() -> Iterator[RawRow]:
    import pycountry

    used = set(_first_languages().values())
    for language in pycountry.languages:
        if language.alpha_3 in used:
            name = language.name.partition(" (")[0]
            yield {"name": name, "code": language.alpha_3}


def _subdivisions() -> Iterator[RawRow]:
    import pycountry

    rows: list[dict[str, Any]] = [
        {
            "name": geonames.english(item.name),
            "code": item.code,
            "type": item.type.lower(),
            "country": _name(item.country_code),
        }
        for item in pycountry.subdivisions
        if item.parent_code is None and _name(item.country_code) and len(item.name) <= 40 and "[" not in item.name
    ]
    yield from geonames.with_unique_names(rows)
