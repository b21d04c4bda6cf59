"""Every combination: the runs are known from the start."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.jobs import Desk, expand
from dpo_lab.launchers.job import Job
from dpo_lab.sweepers.sweeper import Sweeper


def grid(overrides: Sequence[str], config_dir: str | None, desk: Desk) -> Sweeper:
    """Run every combination of the values that the overrides give.

    Raises `Refused` for config or data that are not acceptable.
    """
    typed = expand(overrides, config_dir)
    jobs = desk.identify(typed)
    return Grid(jobs, len(typed) - len(jobs))


class Grid:
    """The runs of `sweeper=grid`; those that are not finished yet are done, in order."""

    def __init__(self, jobs: Sequence[Job], same: int = 0):
        self.jobs = list(jobs)
        self.most = len(self.jobs)
        self.ready = [job for job in jobs if job.state == "waiting"]
        self.same = same
        self._waiting = list(self.ready)

    def more(self, room: int) -> list[Job]:
        """The next jobs in order."""
        now, self._waiting = self._waiting[:room], self._waiting[room:]
        return now

    def ended(self, job: Job) -> None:
        """Nothing depends on how a job has ended."""

    def unwanted(self) -> list[tuple[Job, str]]:
        """Every run goes on to its end."""
        return []

    def words(self) -> list[str]:
        """The jobs speak for themselves."""
        return []

    def close(self) -> None:
        """Nothing is held."""
