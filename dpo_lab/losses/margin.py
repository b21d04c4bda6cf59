"""What most losses are made of: log-ratios, averages per token, and the likelihood of a label."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_lab.batch import Logps, Pair


def logratios(policy: Pair[Logps], reference: Pair[Logps]) -> Pair[Tensor]:
    """Return log policy / reference of both responses, summed over tokens: (B,) each, in nats."""
    return Pair(
        policy.chosen.total - reference.chosen.total,
        policy.rejected.total - reference.rejected.total,
    )


def mean_logps(policy: Pair[Logps]) -> Pair[Tensor]:
    """Return the average logp of a token of both responses: (B,) each, in nats per token."""
    return Pair(
        policy.chosen.total / policy.chosen.tokens,
        policy.rejected.total / policy.rejected.tokens,
    )


def mean_logratios(policy: Pair[Logps], reference: Pair[Logps]) -> Pair[Tensor]:
    """Return the average log-ratio of a token of both responses: (B,) each, in nats per token."""
    ratio = logratios(policy, reference)
    return Pair(ratio.chosen / policy.chosen.tokens, ratio.rejected / policy.rejected.tokens)


def label_nll(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the negative log-likelihood of "chosen wins", which has probability sigmoid(margin).

    With `label_smoothing` it is the cross-entropy to a label that is wrong with that probability:
    `-(1 - e) logsigmoid(margin) - e logsigmoid(-margin)`, least at `margin = log((1 - e) / e)`.

    - `margin`: (B,), of any size: value and gradient stay finite as long as the margin does.
    """
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
