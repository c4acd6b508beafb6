"""Which environments are trained on, and which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass

from astra_api.environment import Environment
from astra_api.resource import Selector
from astra_api.training_run import Holdout
from astra_trainer.seeds import derive_seed


@dataclass(frozen=True)
class EnvironmentSplit:
    """Both sides, each in the order the environments were given."""

    train: list[Environment]
    holdout: list[Environment]


def split_environments(
    environments: Sequence[Environment], selector: Selector, holdout: Holdout, seed: int
) -> EnvironmentSplit:
    """Splits the environments that `selector` matches.

    A fraction holds out whole toolsets (their entities and tables with them), at least one, spread evenly over the
    domains; which ones depends on (digests, domains, seed) alone, not on the order of the files. A selector holds out
    exactly what it names, whether or not `selector` matches it too.
    Raises ValueError, naming the field, when either side would be empty.
    """
    selected = [env for env in environments if selector.matches(env.metadata.labels)]
    if not selected:
        raise ValueError(f"environments.selector: matchLabels {selector.match_labels} match no environment")
    if holdout.selector is not None:
        held = [env for env in environments if holdout.selector.matches(env.metadata.labels)]
        field = f"environments.holdout.selector: matchLabels {holdout.selector.match_labels}"
    else:
        toolsets = _fraction_of_toolsets(selected, holdout.fraction or 0.0, seed)
        held = [env for env in selected if env.toolset.digest in toolsets]
        field = f"environments.holdout.fraction: {holdout.fraction}"
    held_digests = {env.digest for env in held}
    train = [env for env in selected if env.digest not in held_digests]
    if not held:
        raise ValueError(f"{field} holds out no environment")
    if not train:
        raise ValueError(f"{field} leaves no environment to train on (a fraction holds out whole toolsets)")
    return EnvironmentSplit(train=train, holdout=held)


def _fraction_of_toolsets(environments: Sequence[Environment], fraction: float, seed: int) -> set[str]:
    """Digests of the held-out toolsets: the first of a seeded order in which the domains take turns."""
    by_domain: dict[str, set[str]] = {}
    home: dict[str, str] = {}
    for environment in environments:  # a toolset of several domains belongs to the first by name
        digest, domain = environment.toolset.digest, environment.spec.domain
        home[digest] = min(home.get(digest, domain), domain)
    for digest, domain in home.items():
        by_domain.setdefault(domain, set()).add(digest)
    ranked: list[tuple[float, int, str]] = []
    for digests in by_domain.values():
        shuffled = sorted(digests, key=lambda digest: (derive_seed(seed, "holdout", digest), digest))
        for rank, digest in enumerate(shuffled):
            ranked.append(((rank + 0.5) / len(shuffled), derive_seed(seed, "turn", digest), digest))
    count = max(1, round(fraction * len(ranked)))
    return {digest for _, _, digest in sorted(ranked)[:count]}
