"""An admin's lists of what runs may use."""

from typing import Any

import pytest
from farms import NAMESPACE, census, owner, synthesis_run, training_run
from hypothesis import given
from hypothesis import strategies as st

from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.admission import admit
from astra_operator.farm import Farm
from astra_operator.policy import admits_image, admits_secret
from astra_operator.settings import OperatorSettings
from astra_operator.training import training_plan

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
OTHER = f"sha256:{'f' * 64}"


@pytest.mark.parametrize(
    ("pattern", "admitted", "refused"),
    [
        (
            "registry.example/team/*",
            ["registry.example/team/x", "registry.example/team/x:v1", f"registry.example/team/x@{DIGEST}",
             f"registry.example/team/x:v1@{DIGEST}"],
            ["registry.example/team/x/y", "registry.example/team/../x", "registry.example/team/", "registry.example/x",
             "registry.example.evil/team/x", "evil/registry.example/team/x", "registry.example/teams/x",
             "registry.example/team/x:v1\n", "registry.example/team/x y", "registry.example/team/X",
             "registry.example/team/x@sha256:abc", "registry.example:5000/team/x", "registry.example/team//x",
             "registry.example/team/x:", "registry.example/team/x@", "registry.example/team/%2e%2e", "team/x"],
        ),
        (
            "registry.example/**",
            ["registry.example/a", "registry.example/a/b/c:v1"],
            ["registry.example/../a", "registry.example", "evil.example/a", "registry.example/a/../../b"],
        ),
        ("registry.example/*/trainer", ["registry.example/a/trainer:v2"], ["registry.example/a/b/trainer"]),
        (
            "registry.example/team/trainer:v*",
            ["registry.example/team/trainer:v1", "registry.example/team/trainer:v"],
            ["registry.example/team/trainer", "registry.example/team/trainer:latest",
             f"registry.example/team/trainer@{DIGEST}", f"registry.example/team/trainer:v1@{DIGEST}"],
        ),
        ("trainer:latest", ["trainer", "trainer:latest"], ["trainer:v1", f"trainer@{DIGEST}", "a/trainer"]),
        (
            f"registry.example/team/trainer@{DIGEST}",
            [f"registry.example/team/trainer@{DIGEST}", f"registry.example/team/trainer:v1@{DIGEST}"],
            ["registry.example/team/trainer", "registry.example/team/trainer:v1",
             f"registry.example/team/trainer@{OTHER}", f"registry.example/team/other@{DIGEST}"],
        ),
        ("localhost:5000/*", ["localhost:5000/x:v1"], ["localhost/x", "localhost:5001/x", "localhost:5000/a/b"]),
        ("registry.example/te.m/x", ["registry.example/te.m/x"], ["registry.example/team/x"]),
        ("x@y@z", [], ["x", "x@y"]),
        ("", [], ["x", "a/b"]),
    ],
)  # fmt: skip
def test_images(pattern: str, admitted: list[str], refused: list[str]) -> None:
    for image in admitted:
        assert admits_image([pattern], image), image
        assert admits_image(["nothing", pattern], image), image
    for image in refused:
        assert not admits_image([pattern], image), image


letters = st.text(st.sampled_from("abt.:@/*_-\n\\ %é") | st.characters(), max_size=40)
near = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(
        ["reg.io", "reg.io/team", "reg.io/team/x", "reg.io/team/x/y", "evil/reg.io/team/x", "", "reg.io:1/team/x"]
    ),
    st.sampled_from(["", "/", "/..", "/../x", "/./x", "//x", "/x", "\n", "/x\n", "%2f..", "@", ":", "\x00", "/x@y/z"]),
    st.sampled_from(["", ":v1", f"@{DIGEST}", f":v1@{DIGEST}", "@sha256:1", ":v1/../x", f"@{DIGEST}/x"]),
)  # fmt: skip


@given(st.lists(st.sampled_from(["reg.io/team/*", "reg.io/team/x", "reg.io/team/x:v*", f"reg.io/team/*@{DIGEST}"]),
                min_size=1), letters | near)  # fmt: skip
def test_nothing_outside_the_list_gets_through(patterns: list[str], image: str) -> None:
    """Held against what a runtime would pull: the folder of the registry that the reference names."""
    if admits_image(patterns, image):
        name, _, digest = image.partition("@")
        place, _, tagged = name.rpartition("/")
        assert place == "reg.io/team"
        repository, _, tag = tagged.partition(":")
        assert repository.isascii()
        assert repository.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert ".." not in image
        assert not set(image) & set(" \n\\%*\x00")
        assert repository == "x" or any("*" in each.rpartition("/")[2].partition(":")[0] for each in patterns)
        if patterns == ["reg.io/team/x:v*"]:
            assert tag.startswith("v")
            assert not digest
        if all(DIGEST in each for each in patterns):
            assert digest == DIGEST


@given(image=letters | near)
def test_no_list_is_no_restriction(image: str) -> None:
    assert admits_image([], image)
    assert admits_secret([], image)


@pytest.mark.parametrize(
    ("pattern", "admitted", "refused"),
    [("run-*", ["run-", "run-a"], ["arun-a", "run", "x", ""]), ("hub", ["hub"], ["hub2", "a-hub", "hub\n"]),
     ("*", ["a", "b-c.d"], [])],
)  # fmt: skip
def test_secrets(pattern: str, admitted: list[str], refused: list[str]) -> None:
    assert [name for name in admitted if not admits_secret([pattern], name)] == []
    assert [name for name in refused if admits_secret([pattern], name)] == []


# in runs

LIMITED = Farm(OperatorSettings("astra", allowed_images=("registry.example/team/*",), allowed_secrets=("run-*",)))


def refused(run: TrainingRun | SynthesisRun, farm: Farm = LIMITED) -> dict[str, str]:
    """The message of each field that is refused."""
    body = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = admit(type(run), body, None, farm)
    assert (found.run is None) == bool(found.problems)
    return {problem.field: problem.message for problem in found.problems}


def test_an_image_outside_the_list_is_refused_and_the_list_is_named() -> None:
    assert refused(training_run()) == {}, "the farm's own images need no permission"
    assert refused(training_run(trainer={"image": "registry.example/team/mine:v1"})) == {}
    found = refused(training_run(trainer={"image": "registry.example/team/../evil/x"}))
    assert list(found) == ["spec.trainer.image"]
    assert "policy.allowedImages: registry.example/team/*" in found["spec.trainer.image"]
    assert "'registry.example/team/../evil/x'" in found["spec.trainer.image"]


def _secrets(name: str) -> dict[str, Any]:
    """A pod template that names a Secret in each place that can."""
    return {
        "spec": {
            "imagePullSecrets": [{"name": name}],
            "env": [
                {"name": "PLAIN", "value": "hub"},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": name, "key": "token"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "other"}}, {"secretRef": {"name": name}}],
            "volumes": [
                {"name": "a", "secret": {"secretName": name}},
                {"name": "b", "csi": {"driver": "d", "nodePublishSecretRef": {"name": name}}},
                {"name": "c", "csi": {"driver": "d", "volumeAttributes": {"secretName": name, "share": "s"}}},
                {"name": "d", "configMap": {"name": "other"}},
            ],
        }
    }


PLACES = [
    "spec.imagePullSecrets[0].name", "spec.env[1].valueFrom.secretKeyRef.name", "spec.envFrom[1].secretRef.name",
    "spec.volumes[0].secret.secretName", "spec.volumes[1].csi.nodePublishSecretRef.name",
    "spec.volumes[2].csi.volumeAttributes.secretName",
]  # fmt: skip


@pytest.mark.parametrize("part", ["trainer", "sandboxes"])
def test_every_secret_that_a_training_run_names_is_looked_at(part: str) -> None:
    assert refused(training_run(**{part: {"podTemplate": _secrets("run-key")}})) == {}
    found = refused(training_run(**{part: {"podTemplate": _secrets("database")}}))
    assert sorted(found) == sorted(f"spec.{part}.podTemplate.{place}" for place in PLACES)
    assert all("policy.allowedSecrets: run-*" in message and "'database'" in message for message in found.values())
    assert refused(training_run(**{part: {"podTemplate": _secrets("database")}}), Farm(OperatorSettings("astra"))) == {}


def test_a_secret_without_a_name_is_in_no_list() -> None:
    template = {"spec": {"envFrom": [{"secretRef": {}}], "volumes": [{"name": "a", "secret": {"optional": True}}]}}
    found = refused(training_run(trainer={"podTemplate": template}))
    prefix = "spec.trainer.podTemplate.spec"
    assert sorted(found) == [f"{prefix}.envFrom[0].secretRef.name", f"{prefix}.volumes[0].secret.name"]


def test_the_secret_of_an_object_store_is_looked_at() -> None:
    def run(name: str) -> TrainingRun:
        return training_run(checkpoint={"objectStore": {"url": "s3://bucket/x", "secret": name}})

    assert refused(run("run-bucket")) == {}
    assert list(refused(run("bucket"))) == ["spec.checkpoint.objectStore.secret"]


def test_every_secret_that_a_synthesis_names_is_looked_at() -> None:
    def run(name: str) -> SynthesisRun:
        endpoint = {"baseUrl": "http://vllm:8000/v1", "model": "m", "apiKeySecret": {"name": name, "key": "k"}}
        source = {"source": {"type": "knowledge", "domains": ["rivers"]}, "hops": {"min": 1, "max": 2}}
        return synthesis_run(environments=source, teacher=endpoint, judge=endpoint, podTemplate=_secrets(name))

    assert refused(run("run-key")) == {}
    keys = ["spec.teacher.apiKeySecret.name", "spec.judge.apiKeySecret.name"]
    assert sorted(refused(run("key"))) == sorted([*keys, *(f"spec.podTemplate.{place}" for place in PLACES)])


def test_what_the_farm_s_defaults_name_needs_no_permission() -> None:
    told = {"ASTRA_NAMESPACE": NAMESPACE, "ASTRA_ALLOWED_SECRETS": "run-*"}
    defaults = '{"trainer": {"spec": {"imagePullSecrets": [{"name": "pull"}]}}}'
    farm = Farm(OperatorSettings.of_environment({**told, "ASTRA_POD_DEFAULTS": defaults}))
    assert refused(training_run(), farm) == {}
    plan = training_plan(training_run(), owner(), farm, census())
    assert plan.work.template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
