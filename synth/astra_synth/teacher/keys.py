"""Keys and passwords that a teacher is called with: read once, and kept out of all that is said or kept."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

import httpx2

from astra_synth.teacher.errors import Misconfigured

HIDDEN = "***"
_AROUND = (
    " \t\r\n\v\f\0\ufeff\u200b\u00a0\"'`\u2018\u2019\u201c\u201d"  # what files, editors and shells leave around a key
)
_WORD = 4  # letters; what is shorter is no secret
_PART = 8  # letters in a row that tell of a secret; what is shorter may be a word, as `none` and `EMPTY` are
_LONG = 16  # letters; a parameter of a URL that has as many may be a secret, whatever its name
_NAMES = re.compile(r"key|token|secret|sig|pass|auth|code", re.IGNORECASE)  # of parameters of a URL


def read_key(environ: Mapping[str, str], name: str) -> str | None:
    """The key that a variable holds, without line ends, quotes and byte order mark around it; None where it is empty.

    Raises Misconfigured, which does not show it, for what no HTTP header can carry.
    """
    key = environ.get(name, "").strip(_AROUND)
    if unfit := re.search(r"[^\x21-\x7e]", key):
        what = "white space" if unfit[0].isspace() else "a control character"
        what = "a letter that is not ASCII" if unfit[0] > "\x7f" else what
        raise Misconfigured(f"{name}: the key holds {what} and cannot be sent; set it to the key alone")
    return key or None


def secrets_of_url(url: httpx2.URL) -> list[str]:
    """What of a URL nobody but its server should see: a password, or a name without one, and keys among parameters."""
    found = [url.password or url.username]
    if url.username:
        found.append(base64.b64encode(f"{url.username}:{url.password}".encode()).decode())
    found += [value for name, value in url.params.multi_items() if _NAMES.search(name) or len(value) >= _LONG]
    return [secret for secret in found if secret]


def shown_url(url: httpx2.URL) -> str:
    """A URL as it may be shown: without user, password and parameters."""
    return str(httpx2.URL(scheme=url.scheme, host=url.host, port=url.port, path=url.path))


class Censor:
    """Takes secrets out of texts: whole, and the parts of them that endpoints show of a key they refuse."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = [secret for secret in secrets if len(secret) >= _WORD]
        long = [secret for secret in known if len(secret) >= _PART]
        self._whole = re.compile("|".join(_alternatives(long)))
        self._words = re.compile("|".join(_alternatives(known)), re.IGNORECASE)
        self._parts = {secret[at : at + _PART] for secret in long for at in range(len(secret) - _PART + 1)}

    def __call__(self, text: str) -> str:
        """A text without the secrets; but for these it stays as it is, for it may be an answer."""
        text = self._whole.sub(HIDDEN, text) if self._parts else text
        if not any(part in text for part in self._parts):
            return text
        starts = (start for start in range(len(text)) if text[start : start + _PART] in self._parts)
        hidden = {place for start in starts for place in range(start, start + _PART)}
        return "".join(_marked(text, hidden))

    def strictly(self, text: str) -> str:
        """A text that is told to a person, without secrets that might be words, too."""
        return self._words.sub(HIDDEN, self(text)) if self._words.pattern else text


def _alternatives(secrets: list[str]) -> list[str]:
    written = {form for secret in secrets for form in _forms(secret)}
    return [re.escape(form) for form in sorted(written, key=len, reverse=True)]


def _marked(text: str, hidden: set[int]) -> Iterator[str]:
    for place, letter in enumerate(text):
        if place not in hidden:
            yield letter
        elif place - 1 not in hidden:
            yield HIDDEN


def _forms(secret: str) -> set[str]:
    """A secret as it may be written: as it is, in a URL, in JSON, in Basic authorization."""
    return {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}
