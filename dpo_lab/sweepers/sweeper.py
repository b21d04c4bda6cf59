"""What a sweep asks of its sweeper: which runs there are, one after the other."""

from __future__ import annotations

from typing import Protocol

from dpo_lab.launchers.job import Job


class Sweeper(Protocol):
    """Says which runs a sweep has. An option of the group `sweeper` returns one.

    - `jobs`: the runs known so far, each once; the list may grow. `most`: how many there may be.
    - `ready`: the jobs to get ready for, whose data and tokens are those of all; empty where
      nothing is missing.
    - `same`: how many more were typed that are runs of `jobs`.
    """

    jobs: list[Job]
    most: int
    ready: list[Job]
    same: int

    def more(self, room: int) -> list[Job]:
        """Jobs to start now, at most `room`; those that are not `waiting` have ended already.

        With nothing running, none means that there are no more.
        """

    def ended(self, job: Job) -> None:
        """A job has ended, or will not begin."""

    def unwanted(self) -> list[tuple[Job, str]]:
        """Jobs that run and need not go on, and why; each is named once."""

    def words(self) -> list[str]:
        """Lines for the end of the sweep, below what became of the jobs."""

    def close(self) -> None:
        """Let another process continue this sweep."""
