"""Tells what an assistant thinks from what it says: `<think>...</think>` at the beginning of a turn's text."""

import re
from dataclasses import dataclass

from astra_trainer.tool_calls import THINK, THOUGHT

_LEADING = re.compile(rf"\s*{THINK}(.*?){THOUGHT}", re.DOTALL)


@dataclass(frozen=True)
class Thought:
    """What an assistant thinks before it speaks."""

    text: str
    in_text: bool = False  # written into the text of its turn, not into a field of its own
    begun: bool = True  # written with its beginning; False where only its end was, as after a prompt that opens it

    def before(self, said: str) -> str:
        """The turn as one text: as it was written, or with the line breaks that are usual around a thought."""
        if self.in_text and self.begun:
            return f"{THINK}{self.text}{THOUGHT}{said}"
        return f"{THINK}\n{self.text.strip()}\n{THOUGHT}\n\n{said.lstrip()}"


def split_thought(text: str) -> tuple[Thought | None, str]:
    """A turn's thought, if it has one, and what is said after it.

    Text that only ends a thought (`... </think> ...`) has one that the prompt opened. Raises ValueError for a thought
    that does not end, for a second one, and for one that begins later: no template writes those.
    """
    found = _LEADING.match(text)
    if found:
        thought, said = Thought(found[1], in_text=True), text[found.end() :]
    elif THOUGHT in text and THINK not in text:
        before, said = text.split(THOUGHT, 1)
        thought = Thought(before, in_text=True, begun=False)
    else:
        thought, said = None, text
    rest = said + (thought.text if thought else "")
    if marker := next((marker for marker in (THINK, THOUGHT) if marker in rest), None):
        raise ValueError(
            f"{marker} stands where no chat template writes it; write one thought, at the beginning, as "
            f"{THINK}...{THOUGHT}, or put it into reasoning_content"
        )
    return thought, said
