"""A text is what was typed, whatever Hydra would make of it."""

import pytest

from dpo_lab.compose import calls, compose, jobs
from dpo_lab.errors import Refused
from dpo_lab.variants import compose_all
from dpo_lab.verbatim import verbatim

TEXTS = ["2024_10", "1.10", "0.10", "1e3", "true", "+1", "007", "inf", "NaN", "1234567e8", "abc"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_as_it_is(text):
    assert compose([f"name={text}"]).name == text
    assert compose([f"outputs_dir={text}"]).outputs_dir == text
    model = compose(["model=pretrained", "model.path=a/b", f"model.revision={text}"])
    assert model.nodes["model"]["revision"] == text
    assert compose([f"logger.tags=[{text}, b]"]).nodes["logger"]["tags"] == [text, "b"]
    columns = compose(["data=file", "data.path=x", f"data.columns={{prompt: {text}}}"])
    assert columns.nodes["data"]["columns"] == {"prompt": text}


def test_numbers_and_nulls_stay_what_they_are():
    config = compose(["seed=1_0", "loss.beta=1e-1", "name=null", "train.shuffle=false"])
    assert (config.seed, config.nodes["loss"]["beta"], config.name) == (10, 0.1, "world-dpo")
    assert config.train.shuffle is False


def test_home_may_be_written_short():
    config = compose(["data=file", "data.path=~/pairs.jsonl", "outputs_dir=~/runs"])
    assert (config.nodes["data"]["path"], config.outputs_dir) == ("~/pairs.jsonl", "~/runs")
    with pytest.raises(Refused, match=r"data.path=~nobody_here/x: no user has this name"):
        compose(["data=file", "data.path=~nobody_here/x"])


def test_texts_of_a_sweep_stay_too():
    lists = jobs(["model=pretrained", "model.path=a/b", "model.revision=1.10,2_0,main"])
    revisions = [config.nodes["model"]["revision"] for config in compose_all(lists)]
    assert revisions == ["1.10", "2_0", "main"]


def test_a_yaml_that_nobody_has_chosen_is_not_asked(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text("_target_: nowhere.at_all\n")
    words = ["model=pretrained", "model.path=1.10"]
    assert compose(words, str(tmp_path)).nodes["model"]["path"] == "1.10"
    assert jobs(words, str(tmp_path)) == [["model=pretrained", "model.path='1.10'"]]


@pytest.mark.parametrize(
    "word",
    ["name='1.10'", "name=${seed}", "loss=dpo", "loss.beta=0.1,1", "data.path=a(b)", "~name", "x"],
)
def test_what_says_more_is_left_to_hydra(word):
    assert verbatim([word], calls()) == [word]
