"""Everything that can be said, in one row: attention of the whole tree of a world's responses.

Of a tree of V words a branch and l levels, V**l tokens of level l have V**j ancestors in level j, a
block of V**(l - j) neighbours each. So who sees whom is a matter of shapes, and neither masks nor
copies of keys are needed: with a KV cache, most of an update's time goes into copying them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention as sdpa


@dataclass(frozen=True)
class WholeTree:
    """B prompts with everything that may be said after them, level by level in one row: B prompts
    of m tokens; then the B V first words; then the B V**2 second ones, and so on.

    - `prompts`: B. `length`: m. `words`: V.
    - `levels`: of words that are there; those that nothing follows need not be.
    """

    prompts: int
    length: int
    words: int
    levels: int

    @property
    def sizes(self) -> list[int]:
        """Tokens of the prompts and of each level."""
        said = [self.prompts * self.words**level for level in range(1, self.levels + 1)]
        return [self.prompts * self.length, *said]

    @property
    def tokens(self) -> int:
        """T, the tokens of the row."""
        return sum(self.sizes)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, one that is predicted after the last level included."""
        return self.length + self.levels + 1

    def places(self) -> Tensor:
        """(T,) how many tokens of its sequence stand before each."""
        parts = [torch.arange(self.length).repeat(self.prompts)]
        for level, size in enumerate(self.sizes[1:]):
            parts.append(torch.full((size,), self.length + level))
        return torch.cat(parts)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None
    ) -> Tensor:
        """`query`, `key` and `value`, (1, heads, T, d) each, to (1, T, heads, d)."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        queries, keys, values = (x[0].split(self.sizes, 1) for x in (query, key, value))
        by_prompt = [x[0].unflatten(1, (self.prompts, -1)) for x in (queries, keys, values)]
        out = [sdpa(*by_prompt, is_causal=True, dropout_p=dropout, scale=scale).flatten(1, 2)]
        for level in range(1, self.levels + 1):
            asked = scale * queries[level]
            scores = [(asked.unflatten(1, (self.prompts, -1)) @ by_prompt[1].mT).flatten(1, 2)]
            for above in range(1, level + 1):  # (heads, B V**above, V**(level - above), d)
                block = asked.unflatten(1, (len(keys[above][0]), -1))
                scores.append((block * keys[above][:, :, None]).sum(-1).flatten(1)[..., None])
            wide = torch.promote_types(asked.dtype, torch.float32)
            weights = drop(torch.cat(scores, -1).softmax(-1, wide), dropout).to(asked.dtype)
            of_prompt, *of_words = weights.split([self.length] + [1] * level, -1)
            found = (of_prompt.unflatten(1, (self.prompts, -1)) @ by_prompt[2]).flatten(1, 2)
            for above, weight in enumerate(of_words, 1):
                block = weight.unflatten(1, (len(values[above][0]), -1))
                found = found + (block * values[above][:, :, None]).flatten(1, 2)
            out.append(found)
        return torch.cat(out, 1).transpose(0, 1)[None]
