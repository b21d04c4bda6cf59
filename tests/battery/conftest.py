"""The battery prints a table of what was tried: ID, passed / tried."""

from collections import Counter
from pathlib import Path

import pytest

_passed: Counter[str] = Counter()
_tried: Counter[str] = Counter()
_HERE = Path(__file__).parent


class Tally:
    """Counts the trials of one ID. Every trial is counted before its test can fail."""

    def __init__(self, name: str):
        self.name = name
        self.failures: list[str] = []

    def __call__(self, passed: bool, what: str) -> None:
        """One trial: whether it passed, and what it was, for the message."""
        _tried[self.name] += 1
        _passed[self.name] += bool(passed)
        if not passed:
            self.failures.append(what)


@pytest.fixture
def tally(request):
    """`tally(passed, what)` of the module's `ID`; failures fail the test at its end."""
    counted = Tally(request.module.ID)
    yield counted
    assert not counted.failures, "\n".join(counted.failures)


def pytest_collection_modifyitems(items):
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.battery)


def pytest_terminal_summary(terminalreporter):
    if not _tried:
        return
    terminalreporter.section("battery")
    for name in sorted(_tried, key=lambda name: (len(name), name)):
        terminalreporter.write_line(f"{name:<5} {_passed[name]:>5} / {_tried[name]}")
