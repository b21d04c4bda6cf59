"""Checkpoints are whole or are not checkpoints."""

import shutil

import pytest
import torch

from dpo_lab import checkpoint
from dpo_lab.errors import Stopped


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (5, 10, 15):
        tensors = {
            "policy": {"w": torch.full((4,), float(step))},
            "optimizer": {"m": torch.ones(2)},
        }
        checkpoint.save(
            folder, step, tensors, {"identity": "me", "meter": {"loss": [1.5, 2.0]}}, keep=2
        )
    return folder


def test_the_newest_are_kept_and_read_back_exactly(folder):
    assert [path.name for path in checkpoint.steps(folder)] == ["step_000010", "step_000015"]
    path = checkpoint.latest(folder, "me", pytest.fail)
    tensors, state = checkpoint.load(path)
    assert torch.equal(tensors["policy"]["w"], torch.full((4,), 15.0))
    assert state == {"step": 15, "identity": "me", "meter": {"loss": [1.5, 2.0]}}
    assert not list(folder.glob(".*"))


ME = {"identity": "me"}
FILES = ["policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "swap"])
def test_damage_is_seen_and_the_one_before_is_used(folder, name, damage):
    file = folder / "step_000015" / name
    content = file.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 1])
        file.write_bytes(content[:middle] + changed + content[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(content[:-3])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "delete":
        file.unlink()
    else:
        shutil.copy(folder / "step_000010" / name, file)
    said = []
    found = checkpoint.latest(folder, "me", said.append)
    if file.is_file() and file.read_bytes() == content:
        pytest.skip("both checkpoints hold the same bytes in this file")
    assert found is not None and found.name == "step_000010"
    assert len(said) == 1 and "step_000015 is damaged" in said[0]


def test_a_folder_of_another_name_is_no_checkpoint(folder):
    (folder / "step_000015").rename(folder / "step_000099")
    said = []
    assert checkpoint.latest(folder, "me", said.append).name == "step_000010"
    assert "it holds step 15" in said[0]


def test_left_over_work_is_cleared_and_never_taken(folder):
    (folder / ".step_000020.123").mkdir()
    (folder / ".step_000020.123" / "policy.safetensors").write_bytes(b"half")
    assert checkpoint.latest(folder, "me", pytest.fail).name == "step_000015"
    checkpoint.save(folder, 20, {"policy": {"w": torch.ones(1)}}, ME, keep=2)
    assert not list(folder.glob(".*"))


def test_broken_ones_do_not_count_as_kept(folder):
    (folder / "step_000015" / "state.json").write_text("{")
    checkpoint.save(folder, 20, {"policy": {"w": torch.ones(1)}}, ME, keep=2)
    valid = [path.name for path in checkpoint.steps(folder) if checkpoint.fault(path) is None]
    assert valid == ["step_000010", "step_000020"]


def test_everything_is_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    synced, sync = [], checkpoint.sync

    def watched(path):
        sync(path)
        synced.append((path.name, (tmp_path / "step_000005").exists()))

    monkeypatch.setattr(checkpoint, "sync", watched)
    checkpoint.save(tmp_path, 5, {"policy": {"w": torch.ones(1)}}, ME, keep=2)
    names = [name for name, _ in synced]
    assert names[:4] == ["policy.safetensors", "state.json", "manifest.json", names[3]]
    assert names[3].startswith(".step_000005.") and names[4:] == [tmp_path.name]
    assert [there for _, there in synced] == [False] * 4 + [True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_not_saved(folder, bad):
    tensors = {"policy": {"w": torch.tensor([1.0, bad, 2.0])}}
    with pytest.raises(Stopped, match=r"policy\.safetensors: w is not finite"):
        checkpoint.save(folder, 20, tensors, ME, keep=2)
    assert [path.name for path in checkpoint.steps(folder)] == ["step_000010", "step_000015"]
    assert not list(folder.glob(".*"))


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        checkpoint.save(tmp_path, step, {"policy": {"w": torch.ones(1)}}, ME, keep=2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step_1000000", "step_1000001"]


def test_a_checkpoint_of_another_run_is_passed_over(folder):
    said = []
    assert checkpoint.latest(folder, "somebody else", said.append) is None
    assert len(said) == 2 and "it belongs to another run" in said[0]
