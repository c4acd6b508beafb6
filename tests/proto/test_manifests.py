from pathlib import Path
from typing import Any

import pytest
import yaml

from astra_api.environment import Environment
from astra_api.manifests import Manifest, ManifestError, load_manifests, read_manifests

ENVIRONMENT: dict[str, Any] = {
    "apiVersion": "astra.farm/v1alpha1",
    "kind": "Environment",
    "metadata": {"name": "a", "labels": {"astra.farm/domain": "d"}},
    "spec": {
        "question": "?",
        "answer": 1,
        "domain": "d",
        "scenario": "single-hop",
        "steps": [{"id": "s1", "question": "?", "answer": 1, "call": {"tool": "t", "arguments": {}}}],
        "tools": [{"name": "t", "description": "d", "parameters": {"type": "object"}}],
        "source": "def t():\n    return 1\n",
    },
}
RUN: dict[str, Any] = {
    "apiVersion": "astra.farm/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "r"},
    "spec": {"model": {"preset": "tiny"}, "sft": {"dataset": {"type": "gold"}}, "rl": {}},
}
SYNTHESIS: dict[str, Any] = {
    "apiVersion": "astra.farm/v1alpha1",
    "kind": "SynthesisRun",
    "metadata": {"name": "s"},
    "spec": {"count": 1, "environments": {"source": {"type": "tables", "pack": "geography"}}},
}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field replaced (`...` removes it)."""
    copy = yaml.safe_load(yaml.safe_dump(document))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target = copy
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return copy


def load(tmp_path: Path, *values: Any) -> list[Manifest | ManifestError]:
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump_all(values))
    return list(read_manifests([file]))


@pytest.mark.parametrize(
    ("document", "path", "value", "field", "message"),
    [
        (ENVIRONMENT, "metadata.name", ..., "metadata.name", "missing: add it"),
        (ENVIRONMENT, "metadata.name", "Not_A_Name", "metadata.name", "pattern"),
        (ENVIRONMENT, "metadata.lables", {}, "metadata.lables", "did you mean labels?"),
        (ENVIRONMENT, "metadata.labels", {"a": "b c"}, "metadata.labels", "not a Kubernetes label value"),
        (ENVIRONMENT, "spec.answer", ..., "spec.answer", "missing"),
        (ENVIRONMENT, "spec.scenario", "loop", "spec.scenario", "single-hop"),
        (ENVIRONMENT, "spec.steps", [], "spec.steps", "at least 1"),
        (ENVIRONMENT, "spec.steps.0.dependOn", [], "spec.steps[0].dependOn", "did you mean dependsOn?"),
        (ENVIRONMENT, "spec.steps.0.tolerance", 0.5, "spec.steps[0]", "needs match: numeric"),
        (ENVIRONMENT, "spec.tools.0.name", "1x", "spec.tools[0].name", "pattern"),
        (ENVIRONMENT, "spec.source", ..., "spec", "exactly one of source and sourceRef"),
        (ENVIRONMENT, "spec.source", "x" * (128 * 1024 + 1), "spec", "128 KiB"),
        (ENVIRONMENT, "spec.sourceRef", {"configMap": "c", "key": "k"}, "spec", "exactly one"),
        (ENVIRONMENT, "spec.sandbox", {"isolation": "pod"}, "spec.sandbox", "replicas of at least 1"),
        (ENVIRONMENT, "spec.sandbox", {"memory": "lots"}, "spec.sandbox.memory", "not a quantity"),
        (ENVIRONMENT, "apiVersion", "astra.farm/v1", "apiVersion", "must be astra.farm/v1alpha1"),
        (ENVIRONMENT, "kind", "Enviroment", "kind", "did you mean Environment?"),
        (RUN, "spec.model.path", "x", "spec.model", "exactly one of name, path, gguf and preset"),
        (RUN, "spec.model.preset", "huge", "spec.model.preset", "tiny"),
        (RUN, "spec.rl.groupSize", 1, "spec.rl.groupSize", "greater than or equal to 2"),
        (RUN, "spec.rl.groupSize", "8", "spec.rl.groupSize", "not the string '8'"),
        (RUN, "spec.rl.groupSize", 7, "spec.rl", "multiple of groupSize"),
        (RUN, "spec.rl.steps", True, "spec.rl.steps", "not the boolean true"),
        (RUN, "spec.rl.learningRate", 0, "spec.rl.learningRate", "greater than 0"),
        (RUN, "spec.rl.irrelevantTools", {"bands": {"medium": 0.9}}, "spec.rl.irrelevantTools.bands", "less than high"),
        (RUN, "spec.sft.dataset.limt", 4, "spec.sft.dataset.limt", "did you mean limit?"),
        (RUN, "spec.sft.dataset.type", "golden", "spec.sft.dataset", "golden"),
        (RUN, "spec.trainer", {"nodes": 2}, "spec", "engine: verl"),
        (
            RUN,
            "spec.environments",
            {"holdout": {}},
            "spec.environments.holdout",
            "exactly one of fraction and selector",
        ),
        (SYNTHESIS, "spec.environments.source.path", "x", "spec.environments.source", "exactly one of pack and path"),
        (SYNTHESIS, "spec.environments.hops", {"min": 3, "max": 2}, "spec.environments.hops", "more than max"),
        (SYNTHESIS, "spec.kind", "trajectories", "spec", "not built yet"),
        (SYNTHESIS, "spec.count", 0, "spec.count", "greater than or equal to 1"),
        (SYNTHESIS, "spec.environments.source", {"type": "questions", "path": "q"}, "spec", "needs a teacher"),
    ],
)
def test_a_bad_document_names_file_document_field_and_fix(
    tmp_path: Path, document: dict[str, Any], path: str, value: Any, field: str, message: str
) -> None:
    (good, error) = load(tmp_path, ENVIRONMENT, changed(document, path, value))
    assert isinstance(good, Manifest)
    assert isinstance(error, ManifestError)
    assert (error.file, error.document) == (tmp_path / "m.yaml", 2)
    assert error.field.startswith(field)
    assert message in error.message
    assert "m.yaml: document 2: " in str(error)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (ENVIRONMENT, "metadata.labels"),
        (ENVIRONMENT, "metadata.annotations"),
        (ENVIRONMENT, "metadata.finalizers"),
        (ENVIRONMENT, "metadata.ownerReferences"),
        (ENVIRONMENT, "metadata.creationTimestamp"),
        (ENVIRONMENT, "spec.language"),
        (ENVIRONMENT, "spec.sandbox"),
        (ENVIRONMENT, "spec.state"),
        (ENVIRONMENT, "spec.steps.0.dependsOn"),
        (ENVIRONMENT, "spec.steps.0.match"),
        (ENVIRONMENT, "status"),
        (RUN, "spec.rl.steps"),
        (RUN, "spec.rl.irrelevantTools"),
        (RUN, "spec.sandboxes"),
        (changed(RUN, "spec.sandboxes", {}), "spec.sandboxes.resources"),
        (changed(RUN, "spec.trainer", {"resources": {}}), "spec.trainer.resources.limits"),
        (changed(RUN, "spec.trainer", {"podTemplate": {"spec": {}}}), "spec.trainer.podTemplate.spec.tolerations"),
        (SYNTHESIS, "spec.seed"),
        (SYNTHESIS, "spec.environments.hops"),
        (SYNTHESIS, "spec.environments.source.toolset"),
    ],
)
def test_a_field_left_empty_is_absent(tmp_path: Path, document: dict[str, Any], path: str) -> None:
    absent = changed(changed(document, path, None), path, ...)
    (with_null, without) = load(tmp_path, changed(document, path, None), absent)
    assert isinstance(with_null, Manifest)
    assert isinstance(without, Manifest)
    assert with_null.resource == without.resource


@pytest.mark.parametrize(
    ("document", "path", "value", "field", "message"),
    [
        (ENVIRONMENT, "metadata", None, "metadata", "missing: add it"),
        (ENVIRONMENT, "spec.question", None, "spec.question", "missing: add it"),
        (ENVIRONMENT, "spec.steps", None, "spec.steps", "missing: add it"),
        (ENVIRONMENT, "spec.steps.0.call.tool", None, "spec.steps[0].call.tool", "missing: add it"),
        (SYNTHESIS, "spec.environments.source.type", None, "spec.environments.source", "type"),
        (ENVIRONMENT, "spec.langauge", None, "spec.langauge", "did you mean language?"),
        (ENVIRONMENT, "spec.steps", [None], "spec.steps[0]", "not null"),
        (ENVIRONMENT, "spec.steps.0.dependsOn", [None], "spec.steps[0].dependsOn[0]", "not null"),
        (ENVIRONMENT, "metadata.labels", {"team": None}, "metadata.labels.team", "not null"),
        (RUN, "spec.environments", {"selector": {"matchLabels": {"a": None}}}, "spec.environments", "not null"),
    ],
)
def test_a_null_elsewhere_is_refused(
    tmp_path: Path, document: dict[str, Any], path: str, value: Any, field: str, message: str
) -> None:
    (error,) = load(tmp_path, changed(document, path, value))
    assert isinstance(error, ManifestError)
    assert error.field.startswith(field)
    assert message in error.message


def test_a_null_that_is_data_stays(tmp_path: Path) -> None:
    arguments = {"tool": "t", "arguments": {"city": None, "more": {"a": None, "b": [None]}}}
    document = changed(changed(ENVIRONMENT, "spec.answer", None), "spec.steps.0.answer", None)
    document = changed(document, "spec.steps.0.call", arguments)
    document = changed(document, "spec.tools.0.parameters", {"type": "object", "default": None})
    (manifest,) = load(tmp_path, document)
    assert isinstance(manifest, Manifest)
    assert isinstance(manifest.resource, Environment)
    spec = manifest.resource.spec
    assert (spec.answer, spec.steps[0].answer) == (None, None)
    assert spec.steps[0].call is not None
    assert spec.steps[0].call.arguments == arguments["arguments"]
    assert spec.tools[0].parameters == {"type": "object", "default": None}
    template = {"spec": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "optional": None}}}]}}
    (run,) = load(tmp_path, changed(RUN, "spec.trainer", {"podTemplate": template}))
    assert isinstance(run, Manifest)
    assert "'optional': None" in str(run.resource.model_dump())


@pytest.mark.parametrize(
    "teacher",
    [
        {"baseUrl": "user:sk-canary-0123456789@host/v1", "model": "m"},
        {"baseUrl": "ftp://sk-canary-0123456789@host/v1", "model": "m"},
        {"baseUrl": "http://h/v1", "model": "m", "apiKeySecret": "sk-canary-0123456789"},
        {"baseUrl": "http://h/v1", "model": "m", "apiKeySecret": {"name": ["sk-canary-0123456789"], "key": "k"}},
        {"baseUrl": "http://h/v1", "model": "m", "apiKey": "sk-canary-0123456789"},
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(tmp_path: Path, teacher: dict[str, Any]) -> None:
    found = load(tmp_path, changed(SYNTHESIS, "spec.teacher", teacher))
    assert found
    assert all(isinstance(error, ManifestError) for error in found)
    assert not any("canary" in str(error) for error in found)


def test_every_error_of_a_document_is_reported(tmp_path: Path) -> None:
    errors = load(tmp_path, changed(changed(ENVIRONMENT, "spec.answer", ...), "spec.domain", 5))
    assert {error.field for error in errors if isinstance(error, ManifestError)} == {"spec.answer", "spec.domain"}


def test_a_folder_is_read_in_order_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.yml").write_text(yaml.safe_dump(RUN))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([ENVIRONMENT, SYNTHESIS]))
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / "bookkeeping.json").write_text('{"produced": 3}')
    assert [manifest.resource.kind for manifest in load_manifests([tmp_path])] == [
        "Environment",
        "SynthesisRun",
        "TrainingRun",
    ]


def test_broken_json_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"kind": "Environment",')
    with pytest.raises(ManifestError, match=r"broken.json"):
        load_manifests([tmp_path])


def test_lists_as_kubectl_get_prints_them(tmp_path: Path) -> None:
    live = changed(ENVIRONMENT, "metadata.resourceVersion", "7")
    live["status"] = {"phase": "Verified", "conditions": []}
    (manifest, error) = load(
        tmp_path, {"apiVersion": "v1", "kind": "List", "items": [live, changed(live, "spec.answer", ...)]}
    )
    assert isinstance(manifest, Manifest)
    assert isinstance(error, ManifestError)
    assert error.field == "items[1].spec.answer"


def test_documents_of_other_groups_are_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}) == []


def test_a_config_map_gives_the_source(tmp_path: Path) -> None:
    by_reference = changed(changed(ENVIRONMENT, "spec.source", ...), "spec.sourceRef", {"configMap": "c", "key": "k"})
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"k": "def t():\n    return 1\n"},
    }
    (with_map,) = load(tmp_path, by_reference, config_map)
    (inline,) = load(tmp_path, ENVIRONMENT)
    assert isinstance(with_map, Manifest)
    assert isinstance(inline, Manifest)
    assert isinstance(with_map.resource, Environment)
    assert isinstance(inline.resource, Environment)
    assert with_map.resource.toolset.digest == inline.resource.toolset.digest
    (missing,) = load(tmp_path, by_reference)
    assert isinstance(missing, ManifestError)
    assert missing.field == "spec.sourceRef"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "no document"),
        (b"a: [", "line 2"),
        (b"- 1", "must be an object"),
        (b"kind: 3", "apiVersion"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        load_manifests([file])


def test_missing_paths_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        load_manifests([tmp_path / "nowhere.yaml"])
    with pytest.raises(ManifestError, match="holds no manifest"):
        load_manifests([tmp_path])


def test_digest_ignores_replicas_and_number_spelling(tmp_path: Path) -> None:
    def environment_digest(document: dict[str, Any]) -> str:
        (manifest,) = load(tmp_path, document)
        assert isinstance(manifest, Manifest)
        assert isinstance(manifest.resource, Environment)
        return manifest.resource.digest

    base = environment_digest(ENVIRONMENT)
    assert environment_digest(changed(ENVIRONMENT, "spec.answer", 1.0)) == base
    assert environment_digest(changed(ENVIRONMENT, "spec.sandbox", {"replicas": 3})) == base
    assert environment_digest(changed(ENVIRONMENT, "metadata.name", "b")) == base
    assert environment_digest(changed(ENVIRONMENT, "spec.answer", True)) != base
    assert environment_digest(changed(ENVIRONMENT, "spec.sandbox", {"timeoutSeconds": 6})) != base
