"""Keys as files and shells leave them, and texts that a secret must not stay in."""

import base64
import json
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.errors import BadInput
from astra_synth.teacher import TeacherUnavailable
from astra_synth.teacher.errors import Misconfigured
from astra_synth.teacher.keys import Censor, read_key, secrets_of_url, shown_url

KEY = "sk-canary-0123456789"


@pytest.mark.parametrize(
    "value",
    ["{}", "{}\n", "{}\r\n", " {}\t", '"{}"', "'{}'\n", "\ufeff{}", "\u201c{}\u201d", "\u00a0{}", "\ufeff'{}'\n"],
)
def test_what_stands_around_a_key_is_no_part_of_it(value: str) -> None:
    assert read_key({"K": value.format(KEY)}, "K") == KEY


@pytest.mark.parametrize("value", ["", "\n", '""', "\ufeff"])
def test_no_key(value: str) -> None:
    assert read_key({"K": value}, "K") is None
    assert read_key({}, "K") is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (f"{KEY}\n{KEY}", "white space"),
        (f"Bearer {KEY}", "white space"),
        (f"sk-\u201c{KEY}\u201d-x", "not ASCII"),
        (f"ключ-{KEY}", "not ASCII"),
        (f"{KEY}\x00{KEY}", "control"),
        (f"{KEY}\x1b[0m", "control"),
        (f"a\udce4{KEY}", "not ASCII"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(value: str, what: str) -> None:
    with pytest.raises(Misconfigured, match=f"^ASTRA_KEY: the key holds .*{what}") as caught:
        read_key({"ASTRA_KEY": value}, "ASTRA_KEY")
    assert isinstance(caught.value, BadInput)
    assert isinstance(caught.value, TeacherUnavailable)
    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "secrets", "shown"),
    [
        ("http://h:8000/v1", [], "http://h:8000/v1"),
        (f"https://user:{KEY}@h/v1", [KEY, base64.b64encode(f"user:{KEY}".encode()).decode()], "https://h/v1"),
        (f"https://{KEY}@h/v1", [KEY, base64.b64encode(f"{KEY}:".encode()).decode()], "https://h/v1"),
        (f"https://h/v1?api-key={KEY}&api-version=2024-10-21", [KEY], "https://h/v1"),
        ("https://h/v1?sig=abcdefg", ["abcdefg"], "https://h/v1"),
    ],
)
def test_secrets_of_an_address(url: str, secrets: list[str], shown: str) -> None:
    assert secrets_of_url(httpx2.URL(url)) == secrets
    assert shown_url(httpx2.URL(url)) == shown


secrets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=40)


@given(secret=secrets, before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_secret_does_not_stay_however_it_is_written(secret: str, before: str, after: str) -> None:
    censor = Censor([secret])
    written = (secret, quote(secret, safe=""), json.dumps(secret), base64.b64encode(secret.encode()).decode())
    for form in written:
        for hide in (censor, censor.strictly):
            assert form.strip('"') not in hide(f"{before}{form}{after}")
    assert secret.lower() not in censor.strictly(f"{before}{secret.lower()}{after}")
    assert secret[:10] not in censor(f"{before} {secret[:10]}... {after}")


@given(text=st.text(max_size=50))
def test_without_secrets_nothing_is_taken_out(text: str) -> None:
    for censor in (Censor([]), Censor(["", "k"])):
        assert censor(text) == censor.strictly(text) == text


def test_a_key_that_is_a_word_may_stand_in_an_answer() -> None:
    censor = Censor(["EMPTY"])
    assert censor("The berth is EMPTY.") == "The berth is EMPTY."
    assert censor.strictly("a wrong key: empty") == "a wrong key: ***"
