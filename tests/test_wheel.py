"""The built wheel is complete: installed elsewhere, it composes and trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_trains_from_another_folder(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    words = (
        "data=world_nano data.pairs=100 data.eval_pairs=20 data.sft_rows=100 start.steps=2 "
        "train.steps=2 train.batch_size=8 logger=none"
    ).split()
    done = subprocess.run(
        [sys.executable, "-m", "dpo_lab", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "dpo_lab", "reproduce"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert "dpo_frontier" in listed.stdout and (site / "dpo_lab" / "experiments").is_dir()
    where = "import dpo_lab.compose as c; print(c.conf_dir())"
    found = subprocess.run(
        [sys.executable, "-c", where],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert Path(found.stdout.strip()) == site / "dpo_lab" / "conf"
