"""The answers of a teacher on disk, by content: the cache, the transcript and the accounts are one thing.

    <directory>/ab/abcdef....json    one answered call: the request, the answer, the seconds it took

A file is written whole or not at all, before its answer is used: a call that was answered is never paid for again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from astra_api.errors import BadInput
from astra_api.records import Record
from astra_synth.teacher.endpoint import Answer


class Call(Record):
    """One answered call."""

    prompt: str  # the prompt's name
    request: dict[str, Any]
    answer: Answer
    seconds: float


class Calls:
    """The answered calls in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{directory}: cannot keep the teacher's answers: {error.strerror}") from None

    @staticmethod
    def key(request: Mapping[str, Any]) -> str:
        """What names a request: all that decides its answer, not where it is sent."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> Call | None:
        """The answered call, or None. Raises BadInput when its file is damaged."""
        file = self._file(key)
        try:
            return Call.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            problem = str(error).splitlines()[0]
            raise BadInput(f"{file}: cannot be read back: {problem}; remove the file to ask again") from None

    def put(self, key: str, call: Call) -> None:
        file = self._file(key)
        file.parent.mkdir(exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.part")
        draft.write_text(call.model_dump_json(), encoding="utf-8")
        os.replace(draft, file)

    def __iter__(self) -> Iterator[Call]:
        """Every answered call. What another process is writing, or removes, is passed over."""
        for file in sorted(self.directory.glob("??/*.json")):
            with contextlib.suppress(FileNotFoundError):
                yield Call.model_validate_json(file.read_bytes())

    def _file(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.json"
