"""What can go wrong between a question to the teacher and an answer that can be used. None of it is ever an answer.

TeacherError
+-- TeacherUnavailable    the endpoint cannot be used at all: the run stops, and goes on another time
|   +-- Misconfigured     by what the user set: a key, an address, a proxy, a certificate
+-- BudgetExhausted       the next call could exceed the budget: the run stops
+-- CallFailed            this question came to nothing, after retries: the item is rejected with `reason`
    +-- RateLimited, ServerFailed, TimedOut, ConnectionLost     the endpoint's fault: `transient`, no reject
    +-- BadRequest        the endpoint does not take the request (a prompt that is too long, say)
    |   +-- NothingTaken  nor has it taken any other yet, so that it may be the endpoint's fault: `transient`
    +-- Refused           the model, or a filter, declined
    +-- CutShort          the answer ended before its end
    +-- Malformed         the answer is not the JSON that was asked for, after re-asks
    +-- Unusable          it is, and says what cannot be; the reason is the check's
"""

from typing import ClassVar

from astra_api.errors import BadInput


class TeacherError(Exception):
    """Base."""


class TeacherUnavailable(TeacherError):
    """No connection, a key that is refused, an unknown model, no chat completions, or one failed call after another."""


class Misconfigured(TeacherUnavailable, BadInput):
    """A setting that no call can be made with: bad input, and a teacher that cannot be used."""


class BudgetExhausted(TeacherError):
    """A limit of spec.teacher.budget."""


class CallFailed(TeacherError):
    """One question came to nothing. `reason` is the reject's."""

    reason: str
    transient: ClassVar[bool] = False


class RateLimited(CallFailed):
    reason = "TeacherRateLimited"
    transient = True


class ServerFailed(CallFailed):
    reason = "TeacherServerFailed"
    transient = True


class TimedOut(CallFailed):
    reason = "TeacherTimedOut"
    transient = True


class ConnectionLost(CallFailed):
    reason = "TeacherConnectionLost"
    transient = True


class BadRequest(CallFailed):
    reason = "TeacherBadRequest"


class NothingTaken(BadRequest):
    transient = True


class Refused(CallFailed):
    reason = "TeacherRefused"


class CutShort(CallFailed):
    reason = "TeacherCutShort"


class Malformed(CallFailed):
    reason = "TeacherMalformed"


class Unusable(CallFailed):
    """An answer in the right form that a check refused."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
