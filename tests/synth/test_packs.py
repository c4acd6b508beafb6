"""The shipped packs: real data, stated licences."""

import pytest

from astra_synth.packs import chemistry, pack_names
from astra_synth.tables import open_tables


@pytest.mark.parametrize("name", pack_names())
def test_a_pack_states_its_licence_and_source(name: str) -> None:
    pack = open_tables(name).pack
    assert pack.name == name
    assert len(pack.licence) > 10
    assert len(pack.source) > 10
    assert len(pack.tables) >= 2


def test_there_are_packs_of_at_least_four_domains() -> None:
    assert len({open_tables(name).pack.domain for name in pack_names()}) >= 4


@pytest.mark.parametrize(
    ("name", "table", "key", "expected"),
    [
        ("geography", "country", "France", {"capital": "Paris", "continent": "Europe", "domain": ".fr"}),
        ("geography", "city", "Zurich", {"country": "Switzerland"}),
        ("united-states", "city", "Chicago", {"state": "Illinois"}),
        ("aviation", "airport", "Heathrow Airport", None),
        ("chemistry", "element", "iron", {"symbol": "Fe", "number": 26, "period": 4, "family": "transition metal"}),
        ("chemistry", "isotope", "carbon-13", {"element": "carbon", "neutrons": 7}),
        ("administration", "country", "Japan", {"alpha3": "JPN", "currency": "Yen", "language": "Japanese"}),
        ("administration", "subdivision", "Bavaria", None),
    ],
)
def test_tables_hold_what_everyone_knows(name: str, table: str, key: str, expected: dict[str, object] | None) -> None:
    rows = open_tables(name).tables[table].rows
    if expected is None:
        assert len(rows) > 1000
    else:
        assert {column: rows[key][column] for column in expected} == expected


@pytest.mark.parametrize(
    ("number", "period", "group"),
    [(1, 1, 1), (2, 1, 18), (3, 2, 1), (5, 2, 13), (10, 2, 18), (13, 3, 13), (26, 4, 8), (31, 4, 13), (54, 5, 18),
     (57, 6, None), (71, 6, 3), (72, 6, 4), (80, 6, 12), (86, 6, 18), (92, 7, None), (104, 7, 4), (118, 7, 18)],
)  # fmt: skip
def test_elements_stand_where_they_belong(number: int, period: int, group: int | None) -> None:
    assert chemistry.period(number) == period
    assert chemistry.group(number) == group
