"""A world: everything that can be said, how good it is, and how its pairs are made.

Nothing here needs torch. Arrays of P prompts and n leaves are float64; log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from dpo_lab.batch import Example
from dpo_lab.errors import Refused
from dpo_lab.worlds.tree import Tree


@dataclass(frozen=True)
class Recipe:
    """How the pairs of a world are drawn and labelled; meanings and ranges as in `worlds.world`.

    `held_out` are the numbers of the prompts without training pairs.
    """

    pairs: int = 20_000
    eval_pairs: int = 1_000
    pair_source: str = "grammar"
    off_policy: float = 0.0
    near_duplicates: float = 0.0
    temperature: float = 1.0
    flips: float = 0.0
    length_bias: float = 0.0
    length_neutral_beta: float | None = None
    held_out: tuple[int, ...] = ()
    seed: int = 0


class Table(NamedTuple):
    """N rows as numbers: (N,) each. `rejected` is None where there is one response a row."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray | None


class Groups(NamedTuple):
    """Leaves of equal reward, over all prompts, in rising order of reward within a prompt.

    - `of`: (P, n) the group of each leaf, numbered from 0 to G - 1 across prompts.
    - `values`: (G,) its reward.
    - `starts`: (P,) the first group of each prompt, as `np.add.reduceat` takes it.
    - `prompt`: (G,) the prompt of each group.
    """

    of: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    prompt: np.ndarray


@dataclass(frozen=True, eq=False)
class World:
    """P prompts, the n responses that each may get, and what is true of them.

    - `words`, `prompts`: as text; a prompt is words joined by one space, none of them in `words`.
    - `tree`: the numbering of responses.
    - `reward`: (P, n) the true reward.
    - `grammar`: (P, n) log-probabilities of the writer of the SFT sequences.
    - `recipe`: how pairs are made.
    - `source`: (P, n) log-probabilities of the responses in pairs; None until the start is known.
    - `other`: (P, n) a second writer, for pairs that are off-policy.
    - `noise`: (P, n) what the annotator adds to the true reward by mistake, fixed; None: nothing.
    """

    words: tuple[str, ...]
    prompts: tuple[str, ...]
    tree: Tree
    reward: np.ndarray
    grammar: np.ndarray
    recipe: Recipe
    source: np.ndarray | None = None
    other: np.ndarray | None = None
    noise: np.ndarray | None = None

    pad: ClassVar[str] = "<pad>"
    eos: ClassVar[str] = "<eos>"
    bos: ClassVar[str] = "<bos>"

    @property
    def proxy(self) -> np.ndarray:
        """(P, n) the reward that the annotator sees: the true one plus `noise`."""
        return self.reward if self.noise is None else self.reward + self.noise

    # ------------------------------------------------------------------------------------ tokens

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token, its place is its id: pad, EOS, BOS, words of responses, words of prompts."""
        prompt_words = dict.fromkeys(word for prompt in self.prompts for word in prompt.split())
        return [self.pad, self.eos, self.bos, *self.words, *prompt_words]

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Token to id."""
        return {token: index for index, token in enumerate(self.vocabulary)}

    @property
    def legal_ids(self) -> list[int]:
        """The ids a policy may say: EOS, then the words in the order of the tree's digits."""
        return [self.token_ids[token] for token in (self.eos, *self.words)]

    @cached_property
    def prompt_ids(self) -> np.ndarray:
        """(P, L) every prompt as ids, BOS first."""
        rows = [[self.bos, *prompt.split()] for prompt in self.prompts]
        return np.array([[self.token_ids[token] for token in row] for row in rows])

    # -------------------------------------------------------------------------- text and numbers

    def texts(self, leaves: np.ndarray) -> list[str]:
        """The responses of N leaves as text; equal leaves share one string."""
        distinct, inverse = np.unique(leaves, return_inverse=True)
        words = np.array([*self.words, ""], dtype=object)[self.tree.digits(distinct)]
        texts = [
            " ".join(row[:count])
            for row, count in zip(words.tolist(), self.tree.words(distinct).tolist(), strict=True)
        ]
        return [texts[index] for index in inverse.tolist()]

    def examples(self, table: Table, name: str) -> list[Example]:
        """Rows as text; row i is named `name:i`."""
        prompts = [self.prompts[index] for index in table.prompt.tolist()]
        chosen = self.texts(table.chosen)
        chosen_ends = self.tree.ends(table.chosen).tolist()
        if table.rejected is None:
            return [
                Example(f"{name}:{index}", *row, rejected=None, chosen_ends=ends)
                for index, (*row, ends) in enumerate(zip(prompts, chosen, chosen_ends, strict=True))
            ]
        rejected = self.texts(table.rejected)
        rejected_ends = self.tree.ends(table.rejected).tolist()
        rows = zip(prompts, chosen, rejected, chosen_ends, rejected_ends, strict=True)
        return [Example(f"{name}:{index}", *row) for index, row in enumerate(rows)]

    def locate(self, examples: Sequence[Example]) -> Table:
        """Rows back as numbers: the inverse of `examples`.

        Raises `Refused` for a prompt or a response that this world does not have.
        """
        prompts = {prompt: index for index, prompt in enumerate(self.prompts)}
        for example in examples:
            if example.prompt not in prompts:
                raise Refused(
                    f"{example.row}: this world has no prompt {example.prompt!r}\n"
                    f"it has {', '.join(self.prompts)}"
                )
        chosen = self._leaves([(row.row, row.chosen, row.chosen_ends) for row in examples])
        rejected = None
        if examples and examples[0].rejected is not None:
            rejected = self._leaves(
                [(row.row, row.rejected, row.rejected_ends) for row in examples]
            )
        return Table(
            np.array([prompts[str(row.prompt)] for row in examples], int), chosen, rejected
        )

    def leaf(self, ids: Sequence[int]) -> int:
        """The leaf that consists of these legal token ids, with EOS where it has one."""
        first = self.token_ids[self.words[0]]
        eos = self.token_ids[self.eos]
        return self.tree.leaf([token - first for token in ids if token != eos])

    def _leaves(self, rows: list[tuple]) -> np.ndarray:
        """The leaf of each (row name, response, whether it ends)."""
        digit = {word: index for index, word in enumerate(self.words)}
        leaves: dict[tuple, int] = {}
        for name, text, ends in rows:
            if (text, ends) in leaves:
                continue
            words = text.split()
            if len(words) > self.tree.depth or not all(word in digit for word in words):
                raise Refused(
                    f"{name}: this world has no response {text!r}\n"
                    f"it has up to {self.tree.depth} words of {', '.join(self.words)}"
                )
            if ends != (len(words) < self.tree.depth):
                raise Refused(
                    f"{name}: a response of this world ends before {self.tree.depth} words "
                    f"and is cut at {self.tree.depth}; {text!r} is not"
                )
            leaves[text, ends] = self.tree.leaf([digit[word] for word in words])
        return np.array([leaves[text, ends] for _, text, ends in rows], int)

    # ---------------------------------------------------------------------------- equal rewards

    @cached_property
    def groups(self) -> Groups:
        """Leaves of equal reward, found once: what ranks and sums over rewards stand on."""
        values, of, starts = [], np.empty(self.reward.shape, np.int64), []
        for index, row in enumerate(self.reward):
            distinct, inverse = np.unique(row, return_inverse=True)
            starts.append(sum(map(len, values)))
            of[index] = inverse + starts[-1]
            values.append(distinct)
        prompt = np.repeat(np.arange(len(values)), [len(row) for row in values])
        return Groups(of, np.concatenate(values), np.array(starts), prompt)

    def group_mass(self, logps: np.ndarray) -> np.ndarray:
        """(G,) the probability of each group of equal reward under `logps` (P, n)."""
        groups = self.groups
        return np.bincount(groups.of.ravel(), np.exp(logps).ravel(), len(groups.values))
