"""Log-probabilities of responses: the only place that runs a policy for training.

The decoder runs over the rows of a batch; the head runs on the hidden states that predict a
response's tokens, and on no other. A response's log-probability depends on its own tokens and those
of its prompt alone, whatever else is in the batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from dpo_lab.batch import Batch, Leaves, Logps, Pair, Prompts
from dpo_lab.head import gather_logps, linear_logps, module_logps

if TYPE_CHECKING:
    from dpo_lab.policy import Policy


@overload
def logps(policy: Policy, batch: Batch) -> Pair[Logps] | Logps: ...
@overload
def logps(policy: Policy, batch: Prompts) -> Leaves: ...
def logps(policy: Policy, batch: Batch | Prompts) -> Pair[Logps] | Logps | Leaves:
    """Log-probabilities of the batch's responses, summed over their tokens, nats, with gradient.

    `Logps` of the B chosen responses, or a `Pair` of them and the B rejected ones where the batch
    is paired; float64 where the network is, else float32. Of `Prompts`, those of every response.
    """
    if isinstance(batch, Prompts):
        from dpo_lab.worlds.enumeration import leaves  # which knows policies, and they know this

        return batch.leaves(leaves(policy, batch.world, batch.numbers))
    values = token_logps(policy, batch)
    tokens = batch.tokens.to(values.device)
    total = values.new_zeros(len(tokens)).index_add(0, batch.owners.to(values.device), values)
    if not batch.paired:
        return Logps(total, tokens)
    size = len(batch.rows)
    return Pair(Logps(total[:size], tokens[:size]), Logps(total[size:], tokens[size:]))


def token_logps(policy: Policy, batch: Batch) -> Tensor:
    """Log-probability (N,) of every target of the batch, in the order of `batch.targets`.

    Where the policy has `legal` tokens, probabilities are of these alone and sum to one over them.
    """
    targets = batch.targets.to(policy.device)
    legal, head = policy.legal_ids, policy.head
    if legal is not None:
        targets = policy.legal_places[targets]
    if head is None:
        logits = _full_logits(policy, batch)
        return gather_logps(logits if legal is None else logits[:, legal], targets)
    with policy.autocast():
        hidden = states(policy, batch)
        if type(head) is not nn.Linear:  # one that an adapter has wrapped
            return module_logps(head, hidden, targets, legal)
    weight, bias = head.weight, head.bias
    if legal is not None:
        weight = weight.index_select(0, legal)
        bias = None if bias is None else bias.index_select(0, legal)
    return linear_logps(hidden, weight, bias, targets, policy.matmul_dtype)


def step_logps(policy: Policy, batch: Batch) -> Tensor:
    """Log-probabilities (N, V) of every next token where a target of the batch is predicted.

    Of the policy's legal tokens alone where it has such: V is then their number.
    """
    logits = _full_logits(policy, batch)
    if policy.legal_ids is not None:
        logits = logits[:, policy.legal_ids]
    return logits.to(torch.float64 if policy.dtype == "float64" else torch.float32).log_softmax(-1)


def states(policy: Policy, batch: Batch) -> Tensor:
    """Hidden states (N, H) that predict the targets of the batch, before the head."""
    with _attention(policy, batch):
        out = policy.body(**_inputs(policy, batch)).last_hidden_state
    return out.flatten(0, 1).index_select(0, batch.positions.to(policy.device))


def _full_logits(policy: Policy, batch: Batch) -> Tensor:
    """Logits (N, V) as the model's own forward computes them, soft caps and scales included."""
    inputs = _inputs(policy, batch)
    positions = batch.positions.to(policy.device)
    one_row = len(batch.input_ids) == 1 and policy.takes_logits_to_keep
    with _attention(policy, batch), policy.autocast():
        if one_row:
            return policy.network(**inputs, logits_to_keep=positions).logits[0]
        return policy.network(**inputs).logits.flatten(0, 1)[positions]


def _attention(policy: Policy, batch: Batch) -> AbstractContextManager:
    return policy.plain() if batch.segments is None else policy.segmented()


def _inputs(policy: Policy, batch: Batch) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": batch.input_ids.to(policy.device), "use_cache": False}
    if policy.takes_positions:
        inputs["position_ids"] = batch.position_ids.to(policy.device)
    if batch.attention_mask is not None:
        inputs["attention_mask"] = batch.attention_mask.to(policy.device)
    if batch.segments is not None:
        inputs["segments"] = batch.segments
    return inputs
