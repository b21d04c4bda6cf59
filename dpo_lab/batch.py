"""The nouns every module speaks.

A *pair* is one prompt with a *chosen* and a *rejected* response. A *logp* is the natural logarithm
of a probability, in nats; a response's logp is the sum over its tokens, the end-of-sequence token
included. A *log-ratio* is a policy's logp minus a reference's; a *reward* is what a loss itself
implies (for DPO beta times the log-ratio); a *margin* is chosen minus rejected.

Shapes: B pairs, N scored tokens of a batch, R rows of T positions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dpo_lab.attention import Row
    from dpo_lab.worlds.truth import World

T = TypeVar("T")


class Message(NamedTuple):
    """One turn of a chat. `role` is system, user, assistant or tool."""

    role: str
    content: str


Text = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data, as text.

    - `row`: where it came from, for messages and evaluation files (`pairs.jsonl:17`).
    - `prompt`: plain text, or the turns before the response.
    - `chosen`, `rejected`: the responses, plain text or turns. `rejected` is None in SFT data.
    - `chosen_ends`, `rejected_ends`: False where a response was cut off: no end may be scored.
    """

    row: str
    prompt: Text
    chosen: Text
    rejected: Text | None = None
    chosen_ends: bool = True
    rejected_ends: bool = True


class Encoded(NamedTuple):
    """One row as token ids: the prompt once, each response with its end; `rejected` may be None."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of data laid out for one forward pass.

    Response i < B is the chosen one of row i; where `paired`, response B + i is its rejected one.

    - `rows`: the B positions of these rows in their set.
    - `input_ids`, `position_ids`: (R, T).
    - `attention_mask`: (R, T), only in the padded layout.
    - `segments`: who sees whom, in the packed and shared layouts.
    - `positions`: (N,) index into the R * T hidden states of the state that predicts each target.
    - `targets`: (N,) the scored token ids.
    - `owners`: (N,) which response each target belongs to.
    - `tokens`: (responses,) scored tokens of each response.
    """

    rows: list[int]
    paired: bool
    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: Row | None
    positions: Tensor
    targets: Tensor
    owners: Tensor
    tokens: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        moved = {
            item.name: value.to(device)
            for item in fields(self)
            if hasattr(value := getattr(self, item.name), "to")
        }
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Prompts:
    """B prompts of an enumerable world, each with all n responses that it may get.

    - `rows`: the B positions of these prompts among the rows of the run.
    - `numbers`: the B numbers of these prompts in `world`.
    - `reward`: (B, n) the true reward of every response.
    - `leaf_tokens`: (n,) scored tokens of every response.
    - `tokens`: (B,) tokens that a network computes for each prompt: the prefixes of its tree.
    """

    rows: list[int]
    world: World
    numbers: list[int]
    reward: Tensor
    leaf_tokens: Tensor
    tokens: Tensor

    def leaves(self, total: Tensor) -> Leaves:
        """Log-probabilities (B, n) of the responses, with what else is known of them."""
        return Leaves(total, self.leaf_tokens, self.reward)


@dataclass(frozen=True, slots=True)
class Leaves:
    """Log-probabilities of every response to B prompts: `total` (B, n) nats, which sum to one over
    the n; `tokens` (n,) scored, EOS included; `reward` (B, n) the world's true reward.
    """

    total: Tensor
    tokens: Tensor
    reward: Tensor


@dataclass(frozen=True, slots=True)
class Logps:
    """Log-probabilities of B responses: `total` (B,) nats, `tokens` (B,) scored, EOS included."""

    total: Tensor
    tokens: Tensor


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """The same quantity for both sides of B pairs."""

    chosen: T
    rejected: T


@dataclass(frozen=True, slots=True)
class Scores:
    """What a loss returns for B rows, unreduced: each (B,).

    `chosen_reward` and `rejected_reward` are the loss's own implicit rewards, detached; None where
    a loss implies none.
    """

    loss: Tensor
    chosen_reward: Tensor | None = None
    rejected_reward: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one batch gave: each tensor (B,).

    `policy` carries the gradient; None where a loss looks at no response in particular. `reference`
    is what the loss compared with, if anything; `start` are the log-probabilities before training,
    for log-ratios, if known. With `weights`, the B values are parts of fewer rows, as many and in
    order for each, and their sums with these weights are the rows' values.
    """

    scores: Scores
    policy: Pair[Logps] | Logps | None
    reference: Pair[Logps] | Logps | None
    start: Pair[Logps] | Logps | None
    weights: Tensor | None = None

    def total(self) -> Tensor:
        """The sum of the rows' losses."""
        loss = self.scores.loss
        return loss.sum() if self.weights is None else (loss * self.weights).sum()
