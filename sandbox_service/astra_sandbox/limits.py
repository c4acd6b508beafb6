"""Limits of a session: what a server gives when nothing is asked, and the most it gives."""

from dataclasses import asdict, dataclass

from astra_api.records import SessionLimits


@dataclass(frozen=True)
class Limits:
    """Every limit of one session, as SessionLimits names them."""

    call_seconds: float = 5.0
    cpu_seconds: float = 60.0
    memory_bytes: int = 256 << 20
    processes: int = 1  # threads too: a tool's work is its own
    open_files: int = 32
    file_bytes: int = 16 << 20
    output_bytes: int = 256 << 10

    def for_session(self, asked: SessionLimits | None, maximum: "Limits") -> "Limits":
        """These limits, overridden by what was asked, lowered to the maximum. Non-positive values ask for nothing."""
        wanted = asked.model_dump(exclude_none=True) if asked else {}
        values = {
            name: min(wanted[name] if wanted.get(name, 0) > 0 else default, getattr(maximum, name))
            for name, default in asdict(self).items()
        }
        return Limits(**values)


DEFAULT = Limits()
MAXIMUM = Limits(
    call_seconds=300,
    cpu_seconds=3600,
    memory_bytes=2 << 30,
    processes=1,
    open_files=200,
    file_bytes=256 << 20,
    output_bytes=4 << 20,
)
