"""What a run with a teacher came to, stage by stage: how many items entered, how many passed, what it cost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astra_api.display import share
from astra_synth.item import ItemRecord
from astra_synth.stages import STAGE_NAMES
from astra_synth.teacher import Usage


@dataclass(frozen=True)
class StageAccount:
    """One stage."""

    name: str
    entered: int
    passed: int
    usage: Usage

    @property
    def rejected(self) -> int:
        return self.entered - self.passed

    @property
    def yielded(self) -> str:
        """The share that passed; a dash where nothing entered."""
        return share(self.passed, self.entered)


class Accounts:
    """Adds up the records of items. Empty for a run without a teacher."""

    def __init__(self) -> None:
        self.records: list[ItemRecord] = []
        self._last: Counter[str] = Counter()  # stage -> items that ended in it
        self._kept = 0
        self._usage: dict[str, Usage] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes the record of a finished batch; that of a toolset adds nothing."""
        if "stage" not in record:
            return
        item = ItemRecord.model_validate(record)
        self.records.append(item)
        if item.reason is None:
            self._kept += 1
        else:
            self._last[item.stage] += 1
        for stage, usage in item.spent.items():
            self._usage[stage] = self._usage.get(stage, Usage()) + usage

    @property
    def total(self) -> Usage:
        return sum(self._usage.values(), Usage())

    def stages(self) -> list[StageAccount]:
        """Every stage in order."""
        found, left = [], len(self.records)
        for name in STAGE_NAMES:
            passed = left - self._last[name]
            found.append(StageAccount(name, left, passed, self._usage.get(name, Usage())))
            left = passed
        return found
