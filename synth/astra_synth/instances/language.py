"""Is a text in the language it should be in? By letter statistics; short texts get the benefit of the doubt."""

from py3langid import langid

from astra_api.errors import BadInput

_MARGIN = 12.0  # nats by which another language must be likelier: about a clause
_NEAR = {"zh": ("wuu", "yue", "gan", "hak", "nan"), "no": ("nb", "nn", "da"), "id": ("ms",), "ms": ("id",)}


def language_of(text: str) -> str:
    """The likeliest language of a text, as ISO 639-1 where it has such a code."""
    found = str(langid.classify(text)[0])
    return next((code for code, near in _NEAR.items() if len(found) > 2 and found in near), found)


def is_in(text: str, language: str) -> bool:
    """Whether a text may well be in `language`: no unrelated language is much likelier."""
    scores = dict(langid.rank(text))
    mine = [scores[code] for code in (language, *_NEAR.get(language, ())) if code in scores]
    return bool(mine) and max(scores.values()) - max(mine) <= _MARGIN


def require_known(language: str, field: str) -> None:
    """Raises BadInput for a language that could not be checked."""
    if language not in dict(langid.rank("")):
        raise BadInput(f"{field}: {language} cannot be told from other languages; give an ISO 639-1 code such as en")
