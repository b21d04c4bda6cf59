"""Drawing pairs and their labels, exactly and all at once.

Every quantity of a draw has a random stream of its own, so that the first k pairs are the same
however many are drawn, and one knob changes nothing but what it names: more flips flip the same
labels and others, the responses stay.
"""

from __future__ import annotations

import numpy as np

from dpo_lab.errors import Refused
from dpo_lab.worlds.tree import Tree
from dpo_lab.worlds.truth import Recipe, Table, World

MOST_PAIRS = 1_000_000  # of one prompt, summed over
TRAIN, EVAL, SFT = range(3)
_PROMPT, _FIRST, _SECOND, _LABEL, _FLIP, _NEAR, _PLACE, _WORD = range(8)


def draw_pairs(world: World, num: int, split: int) -> Table:
    """`num` labelled pairs, ties among them.

    The prompt is uniform: over those not held out in TRAIN, over all in EVAL. Both responses come
    independently from `world.source`; in a share `near_duplicates` of the rows the second is the
    first with one of its words replaced by another (the first is not empty there). The label is
    Bernoulli with the probability of `preferred`, then flipped with probability `flips`.
    """
    assert world.source is not None
    recipe, tree = world.recipe, world.tree

    def uniform(stream: int) -> np.ndarray:
        return _uniform(recipe.seed, split, stream, num)

    prompts = np.arange(len(world.prompts))
    if split == TRAIN:
        prompts = np.setdiff1d(prompts, recipe.held_out)
    prompt = prompts[_below(len(prompts), uniform(_PROMPT))]
    first = sample(world.source, prompt, uniform(_FIRST))
    second = sample(world.source, prompt, uniform(_SECOND))
    near = np.flatnonzero(uniform(_NEAR) < recipe.near_duplicates)
    if len(near):
        said = world.source.copy()
        said[:, 0] = -np.inf  # leaf 0 is the empty response: no word to replace
        first[near] = sample(said, prompt[near], uniform(_FIRST)[near])
        words = tree.words(first[near])
        place = _below(words, uniform(_PLACE)[near])
        old = tree.digits(first[near])[np.arange(len(near)), place]
        new = (old + 1 + _below(tree.num_words - 1, uniform(_WORD)[near])) % tree.num_words
        second[near] = first[near] + (new - old) * tree.num_words ** (words - 1 - place)
    score = scores(world)
    wins = uniform(_LABEL) < preferred(recipe, score[prompt, first] - score[prompt, second])
    wins ^= uniform(_FLIP) < recipe.flips
    return Table(prompt, np.where(wins, first, second), np.where(wins, second, first))


def draw_sequences(world: World, num: int, seed: int) -> Table:
    """`num` responses of the grammar, to uniform prompts, for the SFT start."""
    prompt = _below(len(world.prompts), _uniform(seed, SFT, _PROMPT, num))
    return Table(prompt, sample(world.grammar, prompt, _uniform(seed, SFT, _FIRST, num)), None)


def sample(logps: np.ndarray, prompts: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(N,) leaves drawn from `logps` (P, n) at `prompts` (N,), by inverting the cumulative sum.

    `uniform`: (N,) random numbers in [0, 1).
    """
    leaves = np.empty(len(prompts), np.int64)
    for index in np.unique(prompts):
        rows = np.flatnonzero(prompts == index)
        cumulative = np.cumsum(np.exp(logps[index]))
        leaves[rows] = np.searchsorted(cumulative, uniform[rows] * cumulative[-1], side="right")
    return leaves


def scores(world: World) -> np.ndarray:
    """(P, n) what the annotator compares: the proxy reward and `length_bias` a scored token."""
    return world.proxy + world.recipe.length_bias * world.tree.tokens


def preferred(recipe: Recipe, margin: np.ndarray) -> np.ndarray:
    """Probability that the annotator prefers the first response, before flips.

    Bradley-Terry: sigmoid(margin / temperature); at temperature 0 the higher score wins and ties
    are decided by a coin. `margin`: difference of `scores`, any shape.
    """
    if recipe.temperature == 0:
        return (np.sign(margin) + 1) / 2
    return (np.tanh(margin / (2 * recipe.temperature)) + 1) / 2  # a sigmoid without overflow


def win_probability(world: World) -> np.ndarray:
    """(P, n) probability that each response is labelled chosen against one from `world.source`.

    Flips included. For pairs drawn independently, chosen responses have the distribution
    2 source(y) win(y) and rejected ones 2 source(y) (1 - win(y)). Costs the square of the number of
    distinct scores: seconds for the default world, minutes where `noise` makes all distinct.
    """
    assert world.source is not None
    out = np.empty_like(world.reward)
    for index, (row, logps) in enumerate(zip(scores(world), world.source, strict=True)):
        values, inverse = np.unique(row, return_inverse=True)
        mass = np.bincount(inverse, np.exp(logps))
        wins = np.empty(len(values))
        for start in range(0, len(values), 512):
            chunk = slice(start, start + 512)
            wins[chunk] = preferred(world.recipe, values[chunk, None] - values) @ mass
        out[index] = wins[inverse]
    flips = world.recipe.flips
    return (1 - flips) * out + flips * (1 - out)


def check_pairs(world: World) -> None:
    """Raise `Refused` where all pairs of responses are too many to sum over."""
    leaves = world.tree.num_leaves
    if leaves**2 > MOST_PAIRS:
        raise Refused(
            f"model=tabular sums over all pairs of {leaves:,} responses, more than "
            f"{MOST_PAIRS:,} a prompt\n"
            "type data=world_nano, or a smaller data.depth"
        )


def pair_mass(world: World, prompt: int) -> np.ndarray:
    """(n, n) probability that a training pair of a prompt has leaf i as chosen and j as rejected.

    Of everything in the recipe: source, near-duplicates, label temperature, flips, length bias and
    the annotator's error. Sums to one; the diagonal are ties.
    """
    assert world.source is not None
    recipe, tree = world.recipe, world.tree
    mass = np.exp(world.source[prompt])
    drawn = (1 - recipe.near_duplicates) * mass[:, None] * mass
    if recipe.near_duplicates:
        first, second = neighbours(tree)
        words = tree.words(first)
        each = mass[first] / (1 - mass[0]) / (words * (tree.num_words - 1))
        np.add.at(drawn, (first, second), recipe.near_duplicates * each)
    score = scores(world)[prompt]
    wins = preferred(recipe, score[:, None] - score)
    wins = (1 - recipe.flips) * wins + recipe.flips * wins.T
    return (drawn + drawn.T) * wins


def neighbours(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of leaves that differ in exactly one word: (N,) numbers each."""
    leaves = np.arange(1, tree.num_leaves)
    words, digits = tree.words(leaves), tree.digits(leaves)
    firsts, seconds = [], []
    for place in range(tree.depth):
        has = words > place
        step = tree.num_words ** (words[has] - 1 - place)
        for shift in range(1, tree.num_words):
            old = digits[has, place]
            new = (old + shift) % tree.num_words
            firsts.append(leaves[has])
            seconds.append(leaves[has] + (new - old) * step)
    return np.concatenate(firsts), np.concatenate(seconds)


def pair_means(world: World, values: np.ndarray) -> tuple[float, float]:
    """Expectation of `values` (P, n) over chosen and over rejected responses, without sampling.

    For pairs drawn independently. Of log-ratios to the source itself the two add up to exactly
    -2 KL(source || policy), whatever the policy and the labels.
    """
    assert world.source is not None and world.recipe.near_duplicates == 0
    win = win_probability(world)
    drawn = 2 * np.exp(world.source) * values
    return float((drawn * win).sum(1).mean()), float((drawn * (1 - win)).sum(1).mean())


def _uniform(seed: int, split: int, stream: int, num: int) -> np.ndarray:
    """`num` numbers in [0, 1) of one stream."""
    key = np.random.SeedSequence(seed, spawn_key=(split, stream))
    return np.random.default_rng(key).random(num)


def _below(limit: int | np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Uniform whole numbers from 0 to `limit` - 1."""
    return (uniform * limit).astype(np.int64)
