"""R2: stopped after every step, with every reference, full and LoRA: bit for bit the same run."""

import pytest
from in_one_process import LORA, Place
from survival import STEPS, differences

ID = "R2"
FULL: list[str] = []
MATRIX = {
    "full frozen": [*FULL, "reference=frozen"],
    "full checkpoint": [*FULL, "reference=checkpoint"],
    "full ema": [*FULL, "reference=ema", "reference.decay=0.6", "reference.every=3"],
    "lora frozen": [*LORA, "reference=frozen"],
    "lora adapter_off": [*LORA, "reference=adapter_off"],
    "lora checkpoint": [*LORA, "reference=checkpoint"],
    "lora ema": [*LORA, "reference=ema", "reference.decay=0.6", "reference.every=3"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Place(tmp_path_factory.mktemp("matrix"), patch)


@pytest.fixture(scope="module")
def other(place):
    """Another network that reads the same tokens."""
    return place.train("model.seed=7") / "final"


@pytest.mark.parametrize("kind", MATRIX)
def test_r2(place, other, tally, kind):
    words = MATRIX[kind]
    if "reference=checkpoint" in words:
        words = [*words, f"reference.path={other}"]
    expected = place.train(*words)
    for step in range(1, STEPS):
        folder = place.resumed(place.stopped(step, *words))
        found = differences(folder, expected)
        tally(not found, f"{kind}, stopped after step {step}: {found}")
