"""A full disk stops a run with one line that names the place; room is looked for beforehand."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dpo_lab.errors import Refused, Stopped

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFull(Stopped):
    """There is no room for a file."""


@contextmanager
def writing(path: Path, needed: int | None = None) -> Generator[None]:
    """Within, a file system that takes no more raises `DiskFull` with `path` and the bytes.

    - `path`: what is written, for errors that do not say it themselves.
    - `needed`: its size in bytes, where known.
    """
    try:
        yield
    except Exception as error:  # safetensors and pyarrow have errors of their own for it
        number = _number(error)
        if number not in _FULL:
            raise
        where = Path(getattr(error, "filename", None) or path)
        wanted = f"{needed:,} bytes were to be written, " if needed is not None else ""
        raise DiskFull(
            f"{where}: {os.strerror(number)}: {wanted}{free(where):,} bytes are free there"
            + (" (ulimit -f says how large a file may be)" if number == errno.EFBIG else "")
        ) from None


def free(path: Path) -> int:
    """Bytes that this user may still write where `path` is or would be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def refuse_unwritable(option: str, path: Path) -> None:
    """Raise `Refused` where a folder can be neither written into nor made."""
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise Refused(f"{option}={path}: {there} is no folder, so nothing can be written there")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Refused(f"{option}={path}: you may not write into {there}")


def home(path: str, option: str = "") -> Path:
    """The path with `~` and `~user` written out. Raises `Refused` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        said = f"{option}={path}" if option else path
        raise Refused(f"{said[:200]}: no user has this name; write the folder out") from None


def expect(path: Path, needed: int, what: str) -> None:
    """Raise `DiskFull` where fewer than `needed` bytes are free."""
    found = free(path)
    if found < needed:
        raise DiskFull(
            f"{path}: {what} need {needed:,} bytes, and {found:,} are free there; "
            "free some, or choose another outputs_dir"
        )


def sync(path: Path) -> None:
    """Have the file, or the names in a folder, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _number(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else 0
