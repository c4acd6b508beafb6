"""The table holds what kubectl 1.35 prints for each scalar (`kubectl label --local -o json`)."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.yaml_documents import YamlError, documents

KUBECTL: dict[str, Any] = {
    "5e-6": 5e-6, "1e6": 1000000, "1E5": 100000, "1.0": 1, "1.5e3": 1500, ".5": 0.5, "5.": 5, "+.5e3": 500,
    "1.e3": 1000, "0.1e-7": 1e-8, "-0": 0, "-0.0": 0, "1e21": 1e21, "1e3_0": 1e30,
    "0777": 511, "+0777": 511, "0o17": 15, "0O17": 15, "0o8": "0o8", "08": 8, "00": 0, "0_7": 7, "0x1F": 31,
    "-0x1F": -31, "0x": "0x", "0x_1F": 31, "0b11": 3, "-0b11": -3, "0b2": "0b2", "1_000": 1000, "1__0": 10, "1_": 1,
    "_1": "_1", "+5": 5, "123456789012": 123456789012, "12:30:45": "12:30:45", "+": "+",
    "2024-01-01": "2024-01-01", "2024-01-01T00:00:00Z": "2024-01-01T00:00:00Z", "=": "=",
    "no": False, "n": False, "off": False, "OFF": False, "yes": True, "y": True, "Y": True, "on": True, "TRUE": True,
    "tRUE": "tRUE", "~": None, "": None, "Null": None, "null": None,
    "!!str 5": "5", "!!int '7'": 7, "!!float 3": 3, "!!bool yes": True, "'5'": "5", '"no"': "no",
}  # fmt: skip


@pytest.mark.parametrize("text", KUBECTL)
def test_scalars_resolve_as_under_kubectl(text: str) -> None:
    (document,) = documents(f"v: {text}\n")
    assert document.value == {"v": KUBECTL[text]}
    assert type(document.value["v"]) is type(KUBECTL[text])


@pytest.mark.parametrize(("text", "key"), [("no: x", "false"), ("1: x", "1"), ("1.5: x", "1.5"), ("a b: x", "a b")])
def test_keys_become_strings(text: str, key: str) -> None:
    assert next(iter(documents(text))).value == {key: "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v: .nan", "not a JSON number"),
        ("v: -.inf", "not a JSON number"),
        ("v: 9007199254740993", "beyond 2^53"),
        ("v: 1e400", "too large"),
        ("v: 1\nv: 2", "line 2, column 1: duplicate key"),
        ("v: !!binary aGk=", "binary"),
        ("v: !custom x", "custom"),
        ("v: !!python/object/apply:os.system [true]", "no JSON value"),
        ("v: &a [*a]", "refers to what contains it"),
        ("v: *missing", "undefined alias"),
        ("? [1]\n: 2", "key must be a scalar"),
        ("~: 2", "must not be null"),
        ("v: [", "line 2"),
        ("a: " + "[" * 5000, "line 2"),
        ("v: {" + "a: {" * 200 + "}" * 201, "nested deeper"),
        ("\x07", "not"),
    ],
)
def test_what_json_cannot_hold_is_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=re.escape(message)):
        list(documents(text))


def test_aliases_cannot_multiply() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(YamlError, match="multiply"):
        list(documents("\n".join(lines)))


def test_merge_keys() -> None:
    (document,) = documents("base: &b {x: 1, z: 2}\nv: {<<: *b, z: 3}\n")
    assert document.value["v"] == {"x": 1, "z": 3}


def test_documents_are_numbered_as_written_and_empty_ones_passed_over() -> None:
    found = [(d.number, d.line, d.value) for d in documents("---\n---\na: 1\n---\n# only a comment\n---\nb: 2\n")]
    assert [(number, value) for number, _, value in found] == [(2, {"a": 1}), (4, {"b": 2})]


@given(st.text())
def test_no_text_escapes_as_another_error(text: str) -> None:
    with contextlib.suppress(YamlError):
        assert all(document.value is not None for document in documents(text))
