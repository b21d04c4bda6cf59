"""The places where a test may kill a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dpo_lab
from dpo_lab.faults import PLACES

CODE = """
from dpo_lab import faults
for name in ("metrics.append", "checkpoint.written", "checkpoint.written"):
    faults.place(name, lambda: print("half", flush=True))
    print(name, flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ["metrics.append", "checkpoint.written", "checkpoint.written"]),
        ("metrics.append", ["half"]),
        ("checkpoint.written:2", ["metrics.append", "checkpoint.written", "half"]),
        ("checkpoint.written:3", ["metrics.append", "checkpoint.written", "checkpoint.written"]),
    ],
)
def test_a_process_dies_at_the_place_that_is_asked_for(monkeypatch, fault, said):
    monkeypatch.setenv("DPO_LAB_FAULT", fault)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.split() == said
    assert done.returncode == (-9 if "half" in said else 0)


def test_every_place_is_in_the_code_once():
    sources = [path.read_text() for path in Path(dpo_lab.__file__).parent.rglob("*.py")]
    found = re.findall(r'faults\.place\(\s*"([\w.]+)"', "\n".join(sources))
    assert sorted(found) == sorted(PLACES)
