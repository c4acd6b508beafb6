"""Whatever a manifest file holds, the loader gives a manifest or an error that names the file; it never breaks."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astra_api.manifests import Manifest, ManifestError, read_manifests

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/**/*.yaml"))
quietly = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["5Gi", "-1"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def read(folder: Path, data: bytes) -> list[Manifest | ManifestError]:
    """What the loader makes of a file; every error must name it and say something."""
    file = folder / "fuzz.yaml"
    file.write_bytes(data)
    found = list(read_manifests([file]))
    for one in found:
        if isinstance(one, ManifestError):
            assert "fuzz.yaml" in str(one)
            assert len(str(one)) < 100_000
    return found


@quietly
@given(data=st.binary(max_size=300))
def test_bytes(tmp_path: Path, data: bytes) -> None:
    read(tmp_path, data)


@quietly
@given(text=st.text(alphabet="abk: -[]{}&*!|>'\"\\n#%@,0159.eE~?\t", max_size=120))
def test_text_that_looks_like_yaml(tmp_path: Path, text: str) -> None:
    read(tmp_path, text.encode())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_manifest_with_one_value_replaced(tmp_path: Path, example: Path) -> None:
    documents = [document for document in yaml.safe_load_all(example.read_text()) if isinstance(document, dict)]

    @quietly
    @given(st.data())
    def replaced(data: st.DataObject) -> None:
        document: Any = copy.deepcopy(data.draw(st.sampled_from(documents)))
        place = document
        while True:
            key: Any = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                break
            place = inner
        place[key] = data.draw(values)
        found = read(tmp_path, yaml.safe_dump(document).encode("utf-8", "surrogatepass"))
        assert len(found) <= 50

    replaced()


@quietly
@given(depth=st.integers(50, 5000), shape=st.sampled_from("[{"))
def test_deep_nesting(tmp_path: Path, depth: int, shape: str) -> None:
    text = "[" * depth if shape == "[" else "{a: " * depth
    assert all(isinstance(one, ManifestError) for one in read(tmp_path, text.encode()))


def test_an_entity_bomb_is_refused_soon(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert all(isinstance(one, ManifestError) for one in read(tmp_path, "\n".join(lines).encode()))
