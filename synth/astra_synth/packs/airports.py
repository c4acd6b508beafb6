"""Tables from the package airportsdata (MIT)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from astra_synth.packs import geonames
from astra_synth.tables.reading import RawRow


@cache
def table(name: str) -> Sequence[RawRow]:
    """airports (with an IATA code), regions (states, provinces), countries. Raises KeyError for another name."""
    return list({"airports": _airports, "regions": _regions, "countries": _countries}[name]())


@cache
def _records() -> list[dict[str, Any]]:
    """Airports whose names and regions mean one place each."""
    import airportsdata

    found: list[dict[str, Any]] = [
        dict(record) | {key: geonames.english(record[key]) for key in ("name", "city", "subd")}
        for record in airportsdata.load("IATA").values()
    ]
    found = [record for record in found if record["subd"] and record["name"] and record["city"]]
    names = Counter(record["name"].casefold() for record in found)
    countries: dict[str, set[str]] = {}
    for record in found:
        countries.setdefault(record["subd"].casefold(), set()).add(record["country"])
    return [
        record
        for record in found
        if names[record["name"].casefold()] == 1 and len(countries[record["subd"].casefold()]) == 1
    ]


def _airports() -> Iterator[RawRow]:
    for record in _records():
        yield {
            "name": record["name"],
            "iata": record["iata"],
            "icao": record["icao"] or None,
            "city": record["city"],
            "region": record["subd"],
            "elevation": round(record["elevation"] * 0.3048),  # feet to metres
            "time_zone": record["tz"] or None,
        }


def _regions() -> Iterator[RawRow]:
    for name, country in sorted({(record["subd"], record["country"]) for record in _records()}):
        yield {"name": name, "country": geonames.country_name(country)}


def _countries() -> Iterator[RawRow]:
    named = {row["country"] for row in _regions()}
    for country in geonames.countries():
        if country["name"] in named:
            yield {"name": country["name"], "continent": country["continent"], "capital": country["capital"]}
