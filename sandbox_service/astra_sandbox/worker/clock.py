"""A clock that is off by a fixed amount, for the variants that verification compares with production.

The source sees it through `time` and `datetime`; both are patched before it loads. Nothing else is touched: the
interpreter and the server keep the real clock.
"""

import datetime
import time
from typing import Any


def shift(seconds: float) -> None:
    """Moves every clock of this process by `seconds`."""
    offset_ns = int(seconds * 1e9)
    for name in ("time", "monotonic", "perf_counter"):
        _shift_reading(name, seconds)
        _shift_reading(name + "_ns", offset_ns)
    for name in ("localtime", "gmtime", "ctime"):
        _default_to_now(name)
    _default_to_today("strftime", 1)
    _default_to_today("asctime", 0)
    _replace_datetime()


def _shift_reading(name: str, offset: float) -> None:
    real = getattr(time, name)

    def reading() -> Any:
        return real() + offset

    setattr(time, name, reading)


def _default_to_now(name: str) -> None:
    real = getattr(time, name)

    def reading(seconds: float | None = None) -> Any:
        return real(time.time() if seconds is None else seconds)

    setattr(time, name, reading)


def _default_to_today(name: str, position: int) -> None:
    real = getattr(time, name)

    def reading(*arguments: Any) -> Any:
        return real(*arguments) if len(arguments) > position else real(*arguments, time.localtime())

    setattr(time, name, reading)


def _replace_datetime() -> None:
    class ShiftedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class ShiftedDate(datetime.date):
        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(time.time())

    for name, shifted in (("datetime", ShiftedDatetime), ("date", ShiftedDate)):
        shifted.__name__ = shifted.__qualname__ = name
        shifted.__module__ = "datetime"
        setattr(datetime, name, shifted)
