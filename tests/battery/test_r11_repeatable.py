"""The same seed gives the same weights wherever, and however, a run is started."""

import hashlib
import os
import pty
import subprocess
import sys

import pytest

ID = "R11"
WORDS = (
    "data=world_nano data.pairs=200 data.eval_pairs=50 data.sft_rows=200 start.steps=5 "
    "start.batch_size=32 train.steps=12 train.batch_size=16 schedule.warmup_steps=1 "
    "model.dropout=0.1 logger=none train.threads=1"
).split()
WAYS = {
    "plain": {},
    "hash seed": {"PYTHONHASHSEED": "1"},
    "locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "2"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONHASHSEED": "random"},
    "terminal": {"TERM": "xterm", "COLUMNS": "40"},
}


def weights(tmp_path, way, *words):
    """Train in a folder, with a cache and temporary files of its own; the digest of the weights."""
    place = tmp_path / f"{way} {' '.join(words)}"
    (place / "temporary").mkdir(parents=True)
    own = {"TMPDIR": str(place / "temporary"), "DPO_LAB_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "dpo_lab", *WORDS, *words]
    options = {"cwd": place, "env": {**os.environ, **own, **WAYS[way]}}
    if way == "terminal":
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **options)
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(ours)
        status = process.wait()
    else:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, **options)
        status, said = done.returncode, done.stderr
    assert status == 0, said.decode()
    (file,) = place.glob("outputs/*/*/final/*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("expected"), "plain", "seed=1")


@pytest.mark.parametrize("way", WAYS)
def test_same_seed_same_weights(tmp_path, tally, expected, way):
    found = weights(tmp_path, way, "seed=1")
    tally(found == expected, f"{way}: {found[:12]} instead of {expected[:12]}")


def test_another_seed_gives_others(tmp_path, tally, expected):
    tally(weights(tmp_path, "plain", "seed=2") != expected, "seed=2 gives the weights of seed=1")
