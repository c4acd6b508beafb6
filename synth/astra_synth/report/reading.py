"""What a report is made of, read from an output directory."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astra_api.display import shortened
from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.graph import levels
from astra_api.manifests import load_manifests
from astra_api.records import Reject
from astra_synth.accounts import Accounts


@dataclass(frozen=True)
class Synthesis:
    """A run as its directory tells it, finished or not."""

    directory: Path
    run: dict[str, Any]
    environments: list[Environment]
    rejects: list[Reject]
    accounts: Accounts  # empty for a run over tables

    @property
    def hops(self) -> Counter[int]:
        return Counter(len(environment.spec.tool_steps) for environment in self.environments)

    @property
    def scenarios(self) -> Counter[str]:
        return Counter(environment.spec.scenario for environment in self.environments)

    @property
    def domains(self) -> Counter[str]:
        return Counter(environment.spec.domain for environment in self.environments)

    @property
    def languages(self) -> Counter[str]:
        return Counter(environment.spec.language for environment in self.environments)

    @property
    def widths(self) -> Counter[int]:
        """Environments by the most tool calls that may run at once."""
        return Counter(width(environment) for environment in self.environments)

    @property
    def reasons(self) -> Counter[tuple[str, str]]:
        """Rejects by stage and reason."""
        return Counter((reject.stage, reject.reason) for reject in self.rejects)

    @property
    def steps(self) -> int:
        return sum(len(environment.spec.steps) for environment in self.environments)

    @property
    def tool_steps(self) -> int:
        return sum(len(environment.spec.tool_steps) for environment in self.environments)


def width(environment: Environment) -> int:
    """The most tool calls of an environment that may run at once."""
    return max(sum(step.call is not None for step in level) for level in levels(environment.spec.steps))


def read_synthesis(directory: Path) -> Synthesis:
    """Reads an output directory. Raises BadInput when it is none, or damaged."""
    try:
        run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        _check(run)
        accounts, rejects = Accounts(), list[Reject]()
        files = list[Path]()
        for file in sorted((directory / "done").glob("*.json"), key=lambda file: int(file.stem)):
            try:
                done = json.loads(file.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue  # a run that goes on is making this batch again
            accounts.add(done.get("record") or {})
            rejects += [Reject.model_validate(reject) for reject in done["rejects"]]
            files += [made] if (made := directory / "environments" / f"{file.stem}.yaml").exists() else []
    except FileNotFoundError as error:
        raise BadInput(f"{directory}: is not the output of a synthesis run (it has no run.json)") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInput(f"{directory}: is not the output of a synthesis run: {shortened(str(error), 300)}") from None
    found = [manifest.resource for manifest in load_manifests(files)] if files else []
    return Synthesis(
        directory, run, [resource for resource in found if isinstance(resource, Environment)], rejects, accounts
    )


def _check(run: Any) -> None:
    """Raises what reading a record of another kind raises."""
    spec = run["spec"]
    if not isinstance(run["name"], str) or not isinstance(spec["count"], int) or "seed" not in spec:
        raise ValueError("run.json holds no SynthesisRun")
    str(spec["environments"]["source"]["type"])
