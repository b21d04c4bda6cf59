"""Signals that ask a run to end: noted, and heeded after the step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

# the exit status of a run that a signal ended
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def noted() -> Generator[list[signal.Signals]]:
    """Note SIGINT and SIGTERM instead of dying at once: the loop saves and ends after its step."""
    pressed: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed and number == signal.SIGINT:  # asked twice: now
            raise KeyboardInterrupt
        pressed.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = {number: signal.signal(number, note) for number in STATUS}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
