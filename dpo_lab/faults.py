"""A testing aid: kill the process at a named place, as power cuts and schedulers do.

`DPO_LAB_FAULT=checkpoint.written:3` sends SIGKILL to the run when it comes to that place for the
third time (`:1` may be left out). Without the variable a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

PLACES = (
    "record.written",  # the run folder knows who it is; nothing is trained yet
    "metrics.append",  # half a line is in metrics.jsonl
    "eval.written",  # the rows of an evaluation are written, not yet in their place
    "checkpoint.writing",  # half a file is written
    "checkpoint.written",  # all files but the manifest are, none is synced
    "checkpoint.synced",  # files, manifest and folder are; not yet renamed
    "checkpoint.aside",  # what stood in its place is out of the way
    "checkpoint.renamed",  # it is in its place; the folder above is not synced
    "checkpoint.committed",  # it is safe; nothing is pruned, status.json does not know it yet
    "checkpoint.pruning",  # an old one is half removed
    "export.writing",  # after the last step, before final/ is written
    "export.written",  # final/ is in its place, the run is not yet marked as done
)

_place, _, _times = os.environ.get("DPO_LAB_FAULT", "").partition(":")
_left = int(_times or 1)


def place(name: str, first: Callable[[], object] = lambda: None) -> None:
    """Die here where `DPO_LAB_FAULT` says so; `first` then does the half that a crash leaves."""
    global _left
    if name != _place:
        return
    assert name in PLACES, name
    _left -= 1
    if _left == 0:
        first()
        os.kill(os.getpid(), signal.SIGKILL)
