"""What is wrong with what the user gave, as opposed to what went wrong on the way."""


class BadInput(ValueError):
    """A file, a field or an option cannot be used. The message names it and says how to mend it.

    The command line prints the message without a traceback and exits with 2.
    """


class RunFailed(RuntimeError):
    """What was asked ran, and failed for good; the message says all that a user can know of it."""
