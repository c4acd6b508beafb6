from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_api.environment import Environment
from astra_api.resource import Selector
from astra_api.training_run import Holdout
from astra_trainer.split import split_environments

EVERYTHING = Selector()
MakeEnvironment = Callable[..., Environment]


def farm(make: MakeEnvironment, toolsets: int, per_toolset: int = 2) -> list[Environment]:
    return [
        make(
            name=f"t{toolset}-q{question}",
            labels={"astra.farm/split": "holdout" if toolset == 0 else "train", "pack": "a"},
            question=f"Question {question}?",
            domain=f"domain{toolset % 3}",
            source=f"# {toolset}",
        )
        for toolset in range(toolsets)
        for question in range(per_toolset)
    ]


@settings(max_examples=40, deadline=None)
@given(toolsets=st.integers(2, 12), fraction=st.floats(0.01, 0.6), seed=st.integers(0, 99), data=st.data())
def test_a_fraction_holds_out_whole_toolsets_whatever_the_order(
    make_environment: MakeEnvironment, toolsets: int, fraction: float, seed: int, data: st.DataObject
) -> None:
    environments = farm(make_environment, toolsets)
    split = split_environments(environments, EVERYTHING, Holdout(fraction=fraction), seed)
    held = {env.toolset.digest for env in split.holdout}
    assert len(held) == max(1, round(fraction * toolsets))
    assert held.isdisjoint(env.toolset.digest for env in split.train)
    assert Counter(env.name for env in split.train + split.holdout) == Counter(env.name for env in environments)
    shuffled = data.draw(st.permutations(environments))
    again = split_environments(shuffled, EVERYTHING, Holdout(fraction=fraction), seed)
    assert {env.name for env in again.holdout} == {env.name for env in split.holdout}


def test_domains_take_turns(make_environment: MakeEnvironment) -> None:
    environments = farm(make_environment, 30)
    for seed in range(5):
        split = split_environments(environments, EVERYTHING, Holdout(fraction=0.1), seed)
        assert sorted(env.spec.domain for env in split.holdout) == [f"domain{d}" for d in (0, 0, 1, 1, 2, 2)]


def test_another_seed_holds_out_others(make_environment: MakeEnvironment) -> None:
    environments = farm(make_environment, 30)
    holdouts = {
        tuple(env.name for env in split_environments(environments, EVERYTHING, Holdout(fraction=0.2), seed).holdout)
        for seed in range(5)
    }
    assert len(holdouts) == 5


def test_selectors_choose_both_sides_by_label(make_environment: MakeEnvironment) -> None:
    environments = [*farm(make_environment, 3), make_environment(name="stranger", source="# other")]
    train = Selector(match_labels={"pack": "a"})
    holdout = Holdout(selector=Selector(match_labels={"astra.farm/split": "holdout"}))
    split = split_environments(environments, train, holdout, 0)
    assert [env.name for env in split.holdout] == ["t0-q0", "t0-q1"]
    assert [env.name for env in split.train] == ["t1-q0", "t1-q1", "t2-q0", "t2-q1"]


@pytest.mark.parametrize(
    ("selector", "holdout", "message"),
    [
        ({"pack": "b"}, Holdout(fraction=0.1), r"environments\.selector: .*'b'.* match no environment"),
        ({}, Holdout(selector=Selector(match_labels={"x": "y"})), r"environments\.holdout\.selector: .* holds out no"),
        ({}, Holdout(selector=Selector(match_labels={"pack": "a"})), r"holdout\.selector: .* leaves no environment"),
        ({}, Holdout(fraction=0.9), r"environments\.holdout\.fraction: 0\.9 leaves no environment to train on"),
    ],
)
def test_an_empty_side_is_refused_by_its_field(
    make_environment: MakeEnvironment, selector: dict[str, str], holdout: Holdout, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_environments(farm(make_environment, 2), Selector(match_labels=selector), holdout, 0)
