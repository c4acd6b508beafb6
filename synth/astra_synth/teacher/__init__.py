"""The teacher: a language model behind an OpenAI-compatible endpoint, asked for JSON and never believed.

    async with open_teacher(spec, judge, calls_directory) as teacher:
        enquiry = teacher.enquiry(seed=7)
        plan = await enquiry.ask(ASK, domain="travel", ...)

Answers are kept by content, so that nothing is paid for twice; what failed is an error with a type, never an answer.
"""

from astra_synth.teacher.client import Enquiry, Teacher, Usage, open_teacher
from astra_synth.teacher.errors import (
    BudgetExhausted,
    CallFailed,
    TeacherError,
    TeacherUnavailable,
    Unusable,
)
from astra_synth.teacher.prompt import Prompt, Reply

__all__ = [
    "BudgetExhausted",
    "CallFailed",
    "Enquiry",
    "Prompt",
    "Reply",
    "Teacher",
    "TeacherError",
    "TeacherUnavailable",
    "Unusable",
    "Usage",
    "open_teacher",
]
