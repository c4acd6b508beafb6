"""What takes minutes runs last, or first where two run at a time; what is interrupted can be, whatever started them."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
    config.addinivalue_line("markers", "slow: takes minutes; runs after everything else")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    first = hasattr(config, "workerinput")  # of pytest-xdist
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None) == first)
