"""An item that came to nothing, and why: data, not a crash."""


class Rejected(Exception):
    """Ends an item; its stage is known to whoever runs the stages."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
