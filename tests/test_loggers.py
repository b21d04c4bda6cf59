"""metrics.jsonl: every step once, whole lines only, whatever its follower does."""

import errno
import json
from types import SimpleNamespace

import pytest

from dpo_lab.disk import DiskFull
from dpo_lab.errors import Refused
from dpo_lab.loggers import MetricsLog, follow


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", pytest.fail)
    yield log
    log.handle.close()


def steps(log):
    return [json.loads(line)["step"] for line in log.path.read_text().splitlines()]


def test_what_came_after_the_checkpoint_is_cut(log):
    log.write("train", 1, {"loss": 1.0})
    log.write("train", 2, {"loss": 0.5})
    offset = log.offset()
    log.write("train", 3, {"loss": 0.25})
    again = MetricsLog(log.path, pytest.fail)
    again.cut(offset)
    assert steps(again) == [1, 2]
    again.write("train", 3, {"loss": 0.2})
    again.close()
    assert (
        steps(log) == [1, 2, 3] and json.loads(log.path.read_text().splitlines()[2])["loss"] == 0.2
    )


def test_lines_that_were_lost_are_said(log):
    log.write("train", 1, {"loss": 1.0})
    with pytest.raises(Refused, match="lines were lost"):
        log.cut(log.offset() + 1)


def test_a_line_is_written_whole_or_not_at_all(log):
    log.write("train", 1, {"loss": 1.0})
    handle, parts = log.handle, []

    def full(line):  # takes some bytes, then none
        if parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        parts.append(line)
        return handle.write(line[:7])

    log.handle = SimpleNamespace(write=full, seek=handle.seek, truncate=handle.truncate)
    with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
        log.write("train", 2, {"loss": 0.5})
    log.handle = handle
    log.write("train", 3, {"loss": 0.25})
    assert steps(log) == [1, 3]


class Follower:
    def __init__(self, fails_at=None):
        self.fails_at, self.seen, self.end = fails_at, [], None

    def log(self, step, metrics):
        if step == self.fails_at:
            raise BrokenPipeError("the service is gone")
        self.seen.append((step, metrics))

    def finish(self, summary, failed):
        self.end = summary, failed


def test_a_follower_gets_the_numbers_and_the_last_of_each(log):
    log.follower = follower = Follower()
    log.write("train", 1, {"loss": 1.0, "rows": ["a"]})
    log.write("eval", 1, {"eval/loss": 2.0})
    log.write("train", 2, {"loss": 0.5})
    log.close(failed=True)
    assert follower.seen == [(1, {"loss": 1.0}), (1, {"eval/loss": 2.0}), (2, {"loss": 0.5})]
    assert follower.end == ({"loss": 0.5, "eval/loss": 2.0}, True)


def test_a_follower_that_fails_is_dropped_once_and_nothing_is_lost(log):
    said = []
    log.say = said.append
    log.follower = follower = Follower(fails_at=2)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 1.0})
    log.close()
    assert steps(log) == [1, 2, 3] and len(follower.seen) == 1 and follower.end is None
    assert len(said) == 1 and "BrokenPipeError" in said[0]


def test_a_follower_that_cannot_start_is_no_follower():
    said = []
    assert follow(lambda run: {}[run["name"]], {"name": "x"}, said.append) is None
    assert len(said) == 1 and "KeyError" in said[0]
