"""The built-in world: its responses, its language, and text as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpo_lab.batch import Example
from dpo_lab.errors import Refused
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.tokens import encode
from dpo_lab.worlds import judged, language, world
from dpo_lab.worlds.tree import Tree


@pytest.fixture(scope="module")
def default():
    return world()


# ------------------------------------------------------------------------------------------ tree


@pytest.mark.parametrize(
    ("words", "depth", "leaves"), [(4, 4, 341), (8, 5, 37_449), (4, 8, 87_381), (8, 7, 2_396_745)]
)
def test_the_presets_have_the_leaves_they_say(words, depth, leaves):
    assert Tree(words, depth).num_leaves == leaves


def test_leaves_are_numbered_by_level_then_in_lexicographic_order():
    tree = Tree(2, 2)
    assert tree.digits(np.arange(7)).tolist() == [
        [-1, -1],
        [0, -1],
        [1, -1],
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]
    assert tree.tokens.tolist() == [1, 2, 2, 2, 2, 2, 2]  # one word and EOS, or two words cut
    assert tree.ends(np.arange(7)).tolist() == [True] * 3 + [False] * 4
    assert [tree.leaf(word) for word in ([], [1], [1, 0])] == [0, 2, 5]


def test_fold_multiplies_along_the_path_and_gather_takes_it_apart():
    tree, rng = Tree(3, 3), np.random.default_rng(0)
    tables = [np.log(rng.dirichlet(np.ones(4), size=(2, 3**level))) for level in range(3)]
    logps = tree.fold(tables)
    assert logps.shape == (2, tree.num_leaves)
    np.testing.assert_allclose(np.exp(logps).sum(1), 1, atol=1e-14)
    cut = tree.leaf([2, 0, 1])
    by_hand = tables[0][1, 0, 3] + tables[1][1, 2, 1] + tables[2][1, 6, 2]
    assert logps[1, cut] == pytest.approx(by_hand, abs=1e-14)
    short = tree.leaf([2])
    assert logps[1, short] == pytest.approx(tables[0][1, 0, 3] + tables[1][1, 2, 0], abs=1e-14)
    prompts = np.repeat([0, 1], tree.num_leaves)
    leaves = np.tile(np.arange(tree.num_leaves), 2)
    tokens, counts = tree.gather(tables, prompts, leaves)
    np.testing.assert_allclose(tokens.sum(1), logps.ravel(), atol=1e-14)
    assert counts.tolist() == [*tree.tokens, *tree.tokens]
    assert np.count_nonzero(tokens) == counts.sum()


# -------------------------------------------------------------------------------------- language


def score_by_hand(words: list[str], worth: dict[str, float]) -> float:
    """The reward again, a word at a time."""
    if not words:
        return -1.5
    total, sign, gain, repeats = 0.0, 1, 1.0, 0
    for place, word in enumerate(words):
        if word in language.VALENCES:
            total += sign * gain * worth[word]
            sign, gain = 1, 1.0
        sign = -sign if word == "not" else sign
        gain = gain * 1.5 if word == "very" else gain
        repeats += place > 0 and word == words[place - 1]
    return 2.5 * math.tanh(total / 2.5) - 0.5 * repeats


def test_reward_is_that_of_the_sentence_read_word_by_word():
    words = ("good", "awful", "not", "very", "film")
    tree = Tree(len(words), 4)
    worth = np.array([[1.1, -1.7, 0, 0, 0], [0.9, 1.3, 0, 0, 0]])
    reward = language.reward(tree, words, worth)
    for prompt, row in enumerate(worth):
        for leaf, digits in enumerate(tree.digits(np.arange(tree.num_leaves))):
            sentence = [words[digit] for digit in digits if digit >= 0]
            by_hand = score_by_hand(sentence, dict(zip(words, row, strict=True)))
            assert reward[prompt, leaf] == pytest.approx(by_hand, abs=1e-11)


def test_critics_take_strong_words_the_other_way_round():
    rng = np.random.default_rng
    public, critic = language.valences(("good", "great", "film"), rng(0))[:2]
    assert critic.tolist() == [public[0], -public[1], 0]
    public, critic = language.valences(("good", "bad"), rng(0))[:2]
    assert critic.tolist() == [public[0] / 2, public[1]]


def test_the_default_world_is_in_bradley_terry_units(default):
    truth = default.world
    grammar, reward = np.exp(truth.grammar), truth.reward
    np.testing.assert_allclose(grammar.sum(1), 1, atol=1e-12)
    mean = (grammar * reward).sum(1)
    spread = np.sqrt((grammar * reward**2).sum(1) - mean**2)
    assert abs(mean.mean()) < 0.01
    assert spread.min() > 1.1 and spread.max() < 1.41
    assert (grammar @ truth.tree.tokens).mean() == pytest.approx(3.5907, abs=1e-4)


def test_sentences_worth_the_same_tie_exactly(default):
    truth = default.world
    table = truth.locate([Example("", "drama public", "film good", "good film")])
    assert truth.reward[0, table.chosen[0]] == truth.reward[0, table.rejected[0]]
    distinct = [len(np.unique(row)) for row in truth.reward]
    assert distinct == [1338] * 8


# ------------------------------------------------------------------------------ text and numbers


def test_text_and_numbers_are_inverse_to_each_other(default):
    truth = default.world
    for rows in (default.train, default.eval, default.sft[:5000]):
        table = truth.locate(rows)
        name = rows[0].row.split(":")[0]
        assert truth.examples(table, name) == rows
    everything = np.arange(truth.tree.num_leaves)
    assert len(set(truth.texts(everything))) == len(everything)


def test_rows_say_what_they_are(default):
    truth = default.world
    assert len(default.train) == 20_000 and len(default.eval) == 1000 and len(default.sft) == 65_536
    for row in default.train[:2000]:
        assert row.prompt in truth.prompts
        assert row.chosen_ends == (len(row.chosen.split()) < 5)
        assert row.rejected_ends == (len(row.rejected.split()) < 5)
    assert all(row.rejected is None for row in default.sft)


def test_ids_are_those_of_the_tokenizer(default):
    truth = default.world
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    assert tokenizer.vocab_size == len(truth.vocabulary) == 3 + 8 + 4 + 2
    ids = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert ids == [truth.token_ids[token] for token in (truth.bos, truth.eos, truth.pad)]
    rows = default.train[:200]
    encoded = encode(rows, tokenizer, max_length=32, truncation="keep_start").rows
    table = truth.locate(rows)
    for row, tokens, prompt in zip(rows, encoded, table.prompt, strict=True):
        assert tokens.prompt == truth.prompt_ids[prompt].tolist()
        end = [truth.eos] if row.chosen_ends else []
        assert [truth.vocabulary[index] for index in tokens.chosen] == [*row.chosen.split(), *end]
        assert set(tokens.chosen) <= set(truth.legal_ids)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Example("a:1", "drama nobody", "good", "bad"), "no prompt 'drama nobody'"),
        (Example("a:1", "drama public", "good", "fine"), "no response 'fine'"),
        (Example("a:1", "drama public", "good good good good good good", "bad"), "up to 5 words"),
        (Example("a:1", "drama public", "good", "bad", chosen_ends=False), "ends before 5 words"),
        (Example("a:1", "drama public", "good", "bad bad bad bad bad"), "cut at 5"),
    ],
)
def test_what_the_world_does_not_have_is_refused(default, row, said):
    with pytest.raises(Refused, match="a:1") as error:
        default.world.locate([row])
    assert said in str(error.value)


# -------------------------------------------------------------------------- a reward of one's own


def test_a_reward_of_ones_own_is_the_true_one():
    small = {"words": "good bad", "depth": 2, "pairs": 400, "sft_rows": 10}
    truth = judged(lambda prompt, text: len(text) + 10 * prompt.startswith("drama"), **small).world
    texts = ["", "good", "bad", "good good", "good bad", "bad good", "bad bad"]
    for prompt, row in zip(truth.prompts, truth.reward.tolist(), strict=True):
        assert row == [len(text) + 10 * prompt.startswith("drama") for text in texts]
    plain, short = world(**small), judged(lambda prompt, text: -len(text), temperature=0, **small)
    assert plain.digest != short.digest and plain.sft == short.sft
    assert all(len(row.chosen) <= len(row.rejected) for row in short.train)


def test_a_reward_that_is_no_number_is_refused():
    with pytest.raises(Refused, match="the reward of 'good' to 'drama public' is inf"):
        judged(lambda prompt, text: math.inf if text == "good" else 0.0, words="good bad", depth=1)
    with pytest.raises(Refused, match="did you mean depth"):
        judged(lambda prompt, text: 0.0, dept=1)
