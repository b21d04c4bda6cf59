"""DPO with one more term: against falling likelihood (DPOP, RPO) or against length (R-DPO).

Notation as in `direct`: `logratio` is policy minus reference logp of a response, in nats, `Delta`
its chosen minus its rejected value, `n` a response's tokens. All tensors are (B,), losses
unreduced.
"""

from __future__ import annotations

from typing import Annotated

import torch

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.losses.margin import label_nll, logratios
from dpo_lab.ranges import NonNegative, Positive


def dpop(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    lambda_: Annotated[float, NonNegative],
) -> Scores:
    """DPO-Positive: a penalty while the chosen response is less likely than under the reference.

    `-logsigmoid(beta (Delta - lambda max(0, -logratio_w)))`: arXiv 2402.13228 eq. 3. The first
    version of the paper placed the penalty differently in its appendix, and ports exist with it
    outside beta or outside the sigmoid; its authors say inside both, as here.

    - `policy`, `reference`: logps of the same B pairs, in nats; `total` is used, `tokens` is not.
    - `beta`: pull towards the reference, > 0; 0.1 to 0.3.
    - `lambda_`: weight of the penalty, >= 0; 50 in the paper, whose authors found 5 to 500 much
      alike.

    Rewards are `beta logratio`, without the penalty: it depends on which response carries the
    label, so it is no reward of a response. Where `policy == reference` each loss is log 2 and
    sits on the kink of the penalty, whose gradient there is taken as 0: the first update is
    exactly DPO's.
    """
    ratio = logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    penalty = beta * lambda_ * torch.relu(-ratio.chosen)
    return Scores(label_nll(chosen - rejected - penalty), chosen.detach(), rejected.detach())


def r_dpo(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    alpha: Annotated[float, NonNegative],
) -> Scores:
    """Length-regularised DPO: preferences may be explained by length, at `alpha` a token.

    `-logsigmoid(beta Delta + alpha (n_w - n_l))`: arXiv 2403.19159 (equation number not
    verified). It follows from maximising reward minus alpha tokens minus beta KL. A chosen
    response that is longer thus starts with part of its margin, and the policy needs to learn
    less from it.

    - `policy`, `reference`: logps of the same B pairs, in nats; `tokens` is the policy's.
    - `beta`: pull towards the reference, > 0; 0.01 to 0.1.
    - `alpha`: price of a token in units of reward, >= 0; 0.01 to 1 in the literature. Far from 0,
      loss and gradient are ruled by lengths: 100 tokens at 0.1 are a margin of 10.

    Rewards are `beta logratio + alpha n`, what the labels are fitted with; the price of length is
    what separates them from DPO's. Where `policy == reference` each loss is
    `-logsigmoid(alpha (n_w - n_l))`, which is log 2 only for equal lengths.
    """
    ratio = logratios(policy, reference)
    # Counts are integers, and torch would make a number times an integer tensor float32.
    chosen = beta * ratio.chosen + alpha * policy.chosen.tokens.to(ratio.chosen.dtype)
    rejected = beta * ratio.rejected + alpha * policy.rejected.tokens.to(ratio.rejected.dtype)
    return Scores(label_nll(chosen - rejected), chosen.detach(), rejected.detach())


def rpo(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    alpha: Annotated[float, NonNegative],
    average: bool = False,
) -> Scores:
    """Regularised preference optimisation: DPO plus the chosen response's negative log-likelihood.

    `-logsigmoid(beta Delta) - alpha logp_w`: arXiv 2405.16436 (equation number not verified),
    where the weight is called eta. Three papers share the name RPO, and others weight the DPO
    term instead. Its authors publish both forms: the sum over tokens (main text) and the mean
    (appendix, and their later default).

    - `policy`, `reference`: logps of the same B pairs, in nats.
    - `beta`: pull towards the reference, > 0; the paper uses 0.01 with the sum, 0.5 with the mean.
    - `alpha`: weight of the likelihood term, >= 0; 0.005 with the sum, 0.2 with the mean.
    - `average`: likelihood per token in place of the sum.

    Rewards are `beta logratio`, as the likelihood term says nothing about a preference. Where
    `policy == reference` each loss is `log 2 - alpha logp_w`.
    """
    ratio = logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    nll = -policy.chosen.total / policy.chosen.tokens if average else -policy.chosen.total
    loss = label_nll(chosen - rejected) + alpha * nll
    return Scores(loss, chosen.detach(), rejected.detach())
