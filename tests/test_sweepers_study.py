"""What a search remembers from one command to the next, over runs that are a formula."""

import pytest
from searches import searcher

from dpo_lab.folder import RunFolder


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    return searcher(tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_the_same_command_does_nothing_and_more_trials_only_those(search):
    _, first, _, _ = search("sweeper.trials=3")
    status, again, out, err = search("sweeper.trials=3")
    assert status == 0 and again == first and "begins" not in err
    assert out.startswith("search: 3 trials: 3 done")
    status, more, _, err = search("sweeper.trials=5")
    assert status == 0 and more["trials"][:3] == first["trials"] and err.count("begins") == 2
    tried = [tuple(row["overrides"]) for row in more["trials"]]
    assert len(set(tried)) == 5, "a sampler that starts again must not repeat itself"


@pytest.mark.slow
def test_a_seed_repeats_a_search_and_another_does_not(search, tmp_path):
    def tried(*words):
        found = search("sweeper.trials=7", "sweeper.startup=3", *words)[1]
        return [row["overrides"] for row in found["trials"]]

    here = tried()
    assert tried(f"outputs_dir={tmp_path / 'again'}") == here
    assert tried("sweeper.seed=1") != here
    random = tried("sweeper.sampler=random")
    assert random[3:] != here[3:]


def test_a_search_that_was_cut_off_goes_on(search, tmp_path):
    status, before, _, _ = search("sweeper.trials=4", dies=11)
    assert status == 130
    left = len([row for row in before["trials"] if row["state"] == "done"])
    assert 0 < left < 4
    status, after, _, err = search("sweeper.trials=4")
    assert status == 0 and after["trials"][:left] == before["trials"][:left]
    lost, again = after["trials"][left], after["trials"][left + 1]
    assert lost["state"] == "lost" and again["state"] == "done"
    assert again["overrides"] == lost["overrides"]
    assert after["ended"] == {"done": 4} and err.count("begins") == 4 - left
    tried = [tuple(row["overrides"]) for row in after["trials"] if row["state"] == "done"]
    assert len(set(tried)) == 4, "new suggestions are new"
    assert search("sweeper.trials=4")[1]["trials"] == after["trials"], "tried again once"


@pytest.mark.slow
def test_a_study_may_lie_elsewhere(search, tmp_path):
    path = tmp_path / "mine.db"
    status, found, _, _ = search("sweeper.trials=2", f"sweeper.storage={path}")
    assert status == 0 and path.is_file() and not list(tmp_path.glob("*/search-*/study.db"))
    assert search("sweeper.trials=2", f"sweeper.storage={path}")[1] == found
    (tmp_path / "text.db").write_text("this is no database, whatever it is called\n" * 9)
    for name in ("text.db", "nowhere/mine.db"):
        status, _, _, err = search(f"sweeper.storage={tmp_path / name}")
        assert status == 2 and "this is no file for a study" in err and name in err


@pytest.mark.slow
def test_a_search_is_done_by_one_process(search, tmp_path):
    search("sweeper.trials=1")
    (folder,) = tmp_path.glob("*/search-*")
    held = RunFolder.existing(folder)
    status, _, _, err = search("sweeper.trials=2")
    assert status == 2 and "is in use by process" in err
    held.close()
    assert search("sweeper.trials=2")[0] == 0


def test_a_failed_run_fails_alone_and_is_tried_again_by_the_next_command(search):
    def steep(config):
        return config.nodes["loss"]["beta"] > 1

    status, found, out, _ = search("sweeper.trials=4", fails=steep)
    failed = [row for row in found["trials"] if row["state"] == "failed"]
    assert status == 1 and 0 < len(failed) < 4 and found["ended"]["done"] == 4 - len(failed)
    assert all(row["reason"] == "ArithmeticError: no" for row in failed)
    assert "the same command again runs what is missing" in out
    status, mended, _, err = search("sweeper.trials=4")
    assert status == 0 and err.count("begins") == len(failed)
    assert mended["ended"] == {"done": 4} and len(mended["trials"]) == 4 + len(failed)
    again = [row["overrides"] for row in mended["trials"][4:]]
    assert again == [row["overrides"] for row in failed]
