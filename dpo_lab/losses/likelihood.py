"""Losses linear in log-probabilities: supervised fine-tuning and the unlikelihood baseline."""

from __future__ import annotations

from typing import Annotated

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.ranges import Share


def sft(policy: Logps) -> Scores:
    """Supervised fine-tuning: the negative log-likelihood of each response.

    - `policy`: logps of B responses, `total` in nats, summed over tokens.

    Returns B losses in nats, summed over each response's tokens: divide their sum by the batch's
    tokens for the usual mean per token, which weights long responses more than a mean of means
    would. There are no rewards. The gradient by each `total` is -1.
    """
    return Scores(-policy.total)


def unlikelihood(policy: Pair[Logps], *, alpha: Annotated[float, Share]) -> Scores:
    """Raise the chosen response's likelihood and lower the rejected one's.

    `-logp_w + alpha logp_l`, summed over tokens: the baseline of arXiv 2305.18290 section 6. It
    has no lower bound, and with alpha near 1 it soon produces noise, as that paper shows. The
    unlikelihood of Welleck et al., arXiv 1908.04319, is another: `-log(1 - p)` of each unwanted
    token, bounded below.

    - `policy`: logps of B pairs, in nats; `total` is used, `tokens` is not.
    - `alpha`: weight of the rejected response, in [0, 1]; 0 is `sft` on the chosen ones.

    It models no preference, so there are no rewards. The gradients are -1 and alpha everywhere.
    """
    return Scores(-policy.chosen.total + alpha * policy.rejected.total)
