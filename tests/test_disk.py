"""Full disks, said in one line with path and bytes."""

import errno
import os

import pytest
from safetensors import SafetensorError

from dpo_lab.disk import DiskFull, expect, free, writing

FULL = {
    "python": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "limit": OSError(errno.EFBIG, "File too large"),
    "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_one_line_with_path_and_bytes(tmp_path, error):
    place = tmp_path / "not" / "there" / "yet"
    with pytest.raises(DiskFull) as full, writing(place, needed=12345):
        raise error
    said = str(full.value)
    assert "\n" not in said and str(place) in said and "12,345 bytes" in said and "are free" in said


def test_the_file_that_an_error_names_is_the_one_that_is_named(tmp_path):
    with pytest.raises(DiskFull, match=str(tmp_path / "inner")), writing(tmp_path / "outer"):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "inner"))


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), ValueError("os err 28")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)) as same, writing(tmp_path):
        raise error
    assert same.value is error


def test_room_is_looked_for_where_the_folder_would_be(tmp_path):
    found = os.statvfs(tmp_path)
    assert free(tmp_path / "a" / "b") == pytest.approx(found.f_bavail * found.f_frsize, rel=0.1)
    expect(tmp_path, 1, "two checkpoints")
    with pytest.raises(DiskFull, match="two checkpoints need 10,000,000,000,000,000 bytes"):
        expect(tmp_path, 10**16, "two checkpoints")
