"""The little language: what its words are worth, and how they follow one another.

A prompt is a topic and an audience. A response is praise or blame: `good`, `great`, `bad` and
`awful` have a valence that depends on the topic, `not` turns the next valence round, `very` makes
it half as strong again, other words mean nothing. Critics take `great` and `awful` the other way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpo_lab.worlds.tree import Tree

TOPICS = ("drama", "comedy", "horror", "thriller")
AUDIENCES = ("public", "critic")
PROMPTS = tuple(f"{topic} {audience}" for topic in TOPICS for audience in AUDIENCES)
VALENCES = {"good": 1.0, "great": 1.6, "bad": -1.0, "awful": -1.6}
NEGATION = "not"
INTENSIFIER = "very"


def valences(words: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Draw (P, V) the worth of each word for each prompt; 0 for words that mean nothing.

    Each topic moves the valences of `VALENCES` by normal noise of standard deviation 0.25. Critics
    flip `great` and `awful`; where the language has neither, `good` is worth half to them.
    """
    base = np.array([VALENCES.get(word, 0.0) for word in words])
    topics = base + np.where(base != 0, rng.normal(0, 0.25, (len(TOPICS), len(words))), 0)
    critic = np.ones(len(words))
    strong = [index for index, word in enumerate(words) if word in ("great", "awful")]
    mild = [index for index, word in enumerate(words) if word == "good"]
    if strong:
        critic[strong] = -1
    else:
        critic[mild] = 0.5
    return np.stack([topics, topics * critic], axis=1).reshape(len(PROMPTS), len(words))


def reward(tree: Tree, words: Sequence[str], worth: np.ndarray) -> np.ndarray:
    """The true reward (P, n) of every leaf, in logits of a Bradley-Terry preference.

    2.5 tanh(s / 2.5) - 0.5 for each word said twice in a row - 1.5 for saying nothing, where s is
    the sum of `worth` (P, V) after negation and intensification. Both wait for the next word of
    some worth, across words of none. Rounded to 12 decimals, so that equal responses tie exactly.
    """
    num = len(words)
    valent = np.array([word in VALENCES for word in words])
    negates = np.array([word == NEGATION for word in words])
    intensifies = np.array([word == INTENSIFIER for word in words])
    # State of every prefix of one level: (P, V**level). `factor` waits for the next valence.
    total = np.zeros((len(worth), 1))
    factor = np.ones(1)
    repeats = np.zeros(1)
    parts = [np.full((len(worth), 1), -1.5)]
    for level in range(1, tree.depth + 1):
        total = (total[:, :, None] + factor[:, None] * worth[:, None, :]).reshape(len(worth), -1)
        carried = factor[:, None] * np.where(negates, -1, 1) * np.where(intensifies, 1.5, 1)
        factor = np.where(valent, 1.0, carried).ravel()
        repeats = np.repeat(repeats, num)
        if level > 1:
            word = np.arange(num**level)
            repeats = repeats + (word % num == word // num % num)
        parts.append(2.5 * np.tanh(total / 2.5) - 0.5 * repeats)
    return np.round(np.concatenate(parts, axis=1), 12)


def grammar(
    tree: Tree, words: Sequence[str], stop: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw a writer: next-token log-probabilities of all prefixes, as `Tree.fold` takes them.

    Words follow a bigram chain for each topic (Dirichlet 2; after `not` and `very` mostly words of
    some worth, after those mostly others), the same for both audiences. A writer stops after i
    words with probability min(0.9, stop (1 + 0.15 i)), and says nothing with probability 0.02.
    """
    num = len(words)
    valent = np.array([word in VALENCES for word in words])
    chain = np.zeros((len(TOPICS), num + 1, num))  # row V: the first word
    for topic in range(len(TOPICS)):
        for row in range(num + 1):
            odds = rng.dirichlet(np.full(num, 2.0))
            if row < num and words[row] in (NEGATION, INTENSIFIER):
                odds = odds * np.where(valent, 5.0, 0.4)
            elif row < num and valent[row]:
                odds = odds * np.where(valent, 0.4, 2.0)
            chain[topic, row] = odds / odds.sum()
    follows = np.repeat(np.log(chain), len(AUDIENCES), axis=0)  # (P, V + 1, V)
    levels = []
    for level in range(tree.depth):
        ending = 0.02 if level == 0 else min(0.9, stop * (1 + 0.15 * level))
        last = np.array([num]) if level == 0 else np.arange(num**level) % num
        table = np.empty((len(PROMPTS), num**level, num + 1))
        table[:, :, 0] = np.log(ending)
        table[:, :, 1:] = np.log1p(-ending) + follows[:, last]
        levels.append(table)
    return levels
