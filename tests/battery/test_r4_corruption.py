"""R4: whatever is done to a file of the newest checkpoint is seen, and the one before is used."""

import os
import random
import shutil

import pytest
from in_one_process import LORA, Place
from survival import differences, whole

import dpo_lab
from dpo_lab.errors import Refused

ID = "R4"
SEED = random.SystemRandom().randrange(2**32)
VARIANTS = {
    "ema": ["reference=ema", "reference.decay=0.6", "reference.every=3"],
    "lora": LORA,
}
FILES = ["manifest.json", "state.json"]
FILES += [f"{name}.safetensors" for name in ("policy", "optimizer", "random", "reference")]
DAMAGES = ["flipped", "cut", "empty", "deleted", "swapped"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Place(tmp_path_factory.mktemp("corruption"), patch)


@pytest.fixture(scope="module")
def runs(place):
    """Variant -> (a run stopped after step 9 with checkpoints 8 and 9, another one, the whole)."""
    saving = ["checkpoint.every=2"]
    return {
        name: (
            place.stopped(9, *words, *saving),
            place.stopped(9, *words, *saving, "seed=1"),
            place.train(*words, *saving),
        )
        for name, words in VARIANTS.items()
    }


def spoil(file, other, damage, draw):
    content = file.read_bytes()
    if damage == "flipped":
        at = draw.randrange(len(content))
        changed = bytes([content[at] ^ draw.randrange(1, 256)])
        file.write_bytes(content[:at] + changed + content[at + 1 :])
    elif damage == "cut":
        os.truncate(file, draw.randrange(1, len(content)))
    elif damage == "empty":
        os.truncate(file, 0)
    elif damage == "deleted":
        file.unlink()
    else:
        shutil.copy(other, file)


@pytest.mark.parametrize("variant", VARIANTS)
def test_r4(runs, tally, variant, tmp_path):
    draw = random.Random(f"{SEED} {variant}")
    print(f"seed {SEED}")
    stopped, other, expected = runs[variant]
    assert whole(stopped) == [8, 9]
    files = FILES if variant == "ema" else ["policy.safetensors", "optimizer.safetensors"]
    for name in files:
        for damage in DAMAGES:
            folder = tmp_path / f"{name}-{damage}"
            shutil.copytree(stopped, folder)
            newest = folder / "checkpoints" / "step_000009"
            spoil(newest / name, other / "checkpoints" / newest.name / name, damage, draw)
            said = resumed(folder)
            found = differences(folder, expected)
            if f"{newest} is damaged" not in said or "after step 8" not in said:
                found.append(f"said {said}")
            tally(not found, f"{variant}: {name} {damage}: {found}")


def resumed(folder) -> str:
    """What the run said after it was taken up again."""
    before = (folder / "train.log").stat().st_size
    dpo_lab.train([f"train.resume={folder}"])
    return (folder / "train.log").read_bytes()[before:].decode()


def test_a_whole_checkpoint_of_another_run_is_not_taken(runs, tmp_path):
    stopped, other, expected = runs["lora"]
    folder = tmp_path / "swapped"
    shutil.copytree(stopped, folder)
    shutil.rmtree(folder / "checkpoints" / "step_000009")
    shutil.copytree(other / "checkpoints" / "step_000009", folder / "checkpoints" / "step_000009")
    assert "it belongs to another run" in resumed(folder)
    assert not differences(folder, expected)


@pytest.mark.parametrize("how", ["all damaged", "all gone"])
def test_a_run_that_lost_every_checkpoint_does_not_begin_again_in_silence(runs, tmp_path, how):
    folder = tmp_path / "lost"
    shutil.copytree(runs["lora"][0], folder)
    for path in (folder / "checkpoints").iterdir():
        shutil.rmtree(path) if how == "all gone" else (path / "state.json").unlink()
    lines = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(Refused, match="holds no whole checkpoint"):
        dpo_lab.train([f"train.resume={folder}"])
    assert (folder / "metrics.jsonl").read_bytes() == lines
