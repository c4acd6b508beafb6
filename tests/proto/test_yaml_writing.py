"""What is written reads back as the same JSON, whatever kubectl's scalar rules make of plain text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.canonical import canonical_json
from astra_api.environment import Environment
from astra_api.yaml_documents import documents
from astra_api.yaml_writing import manifest_text, yaml_text

_TRAPS = [
    *(
        "y",
        "no",
        "1e6",
        "0777",
        "0x1F",
        "1_000",
        "2024-01-01",
        "~",
        "null",
        ".5",
        ".inf",
        "0o17",
        "+1",
        "1:30",
        "",
        "=",
    ),
    *("a: b", "- x", "# c", "|", "x\n", "x \ny", "\ty\n", "<<", "%x", "@a", "`", "&a", "*a", "!x", "'"),
]
_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(_TRAPS)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, min_value=-1e15, max_value=1e15)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
)


@given(_JSON)
def test_a_written_value_reads_back_as_itself(value: object) -> None:
    (document,) = documents(yaml_text({"value": value}))
    assert canonical_json(document.value) == canonical_json({"value": value})


@pytest.mark.parametrize("answer", [None, False, 0, "", "yes", "1e6", [], {"a": None}])
def test_a_manifest_keeps_its_digest_and_leaves_defaults_out(answer: object) -> None:
    environment = Environment.model_validate(
        {
            "metadata": {"name": "e"},
            "spec": {
                "question": "What?",
                "answer": answer,
                "domain": "d",
                "scenario": "single-hop",
                "steps": [
                    {"id": "s1", "question": "What?", "answer": answer, "call": {"tool": "f", "arguments": {"x": None}}}
                ],
                "tools": [{"name": "f", "description": "F.", "parameters": {"type": "object"}}],
                "source": "def f(x):\n    return 1\n",
            },
        }
    )
    text = manifest_text([environment, environment])
    read = [Environment.model_validate(document.value) for document in documents(text)]
    assert [again.digest for again in read] == [environment.digest] * 2
    assert text.startswith("---\napiVersion: astra.farm/v1alpha1\nkind: Environment\n")
    assert "sandbox" not in text
    assert "source: |\n" in text
