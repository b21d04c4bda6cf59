"""The one error a user is meant to see."""

from __future__ import annotations


class Refused(ValueError):
    """Config or data that the lab does not accept: at most three lines, or a list of rows.

    The message says what was expected, what came, and what to type instead. The command line
    prints it without a traceback and ends with status 2.
    """


class InUse(Refused):
    """A run folder that another process works in."""


class Stopped(RuntimeError):
    """A run that cannot go on: a failed step-0 check, a loss that is not finite, a full disk.

    The command line prints the message without a traceback, marks the run folder as failed and ends
    with status 1.
    """


class Interrupted(RuntimeError):
    """A run that a signal ended, saved and ready to be continued; `status` is the exit status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
