"""Preference losses of the policy alone: SimPO, ORPO and DPO without its reference.

None of them is log 2 at the start: there is nothing that the policy equals. `logp` of a response
is summed over its tokens, in nats; `mean logp` is that divided by its tokens. All tensors are
(B,).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.errors import Refused
from dpo_lab.losses.margin import label_nll, mean_logps
from dpo_lab.ranges import NonNegative, Positive, Smoothing, exclusive


@exclusive("gamma", "gamma_beta_ratio")
def simpo(
    policy: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    gamma: Annotated[float | None, NonNegative] = None,
    gamma_beta_ratio: Annotated[float | None, NonNegative] = None,
    label_smoothing: Annotated[float, Smoothing] = 0.0,
) -> Scores:
    """Simple preference optimisation: length-normalised likelihood with a target margin.

    `-logsigmoid(beta (mean logp_w - mean logp_l) - gamma)`: arXiv 2405.14734 (equation number not
    verified). The paper's gamma is a reward; its authors' code tunes gamma / beta. Both names are
    offered; both null mean a ratio of 0.5, both set are refused.

    With `label_smoothing` e it is `-(1 - e) logsigmoid(z) - e logsigmoid(-z)`, z the whole
    argument above: the form of the authors' code, TRL and open-instruct, kept for parity. A label
    truly flipped would keep `-gamma`; here it gets `+gamma`, so the best reward margin is
    `gamma + log((1 - e) / e)`.

    - `policy`: logps of B pairs, in nats.
    - `beta`: reward for one nat per token, > 0; released models use 2 to 10.
    - `gamma`: target reward margin, >= 0. `gamma_beta_ratio`: the same over beta, 0 to 1 in
      practice.
    - `label_smoothing`: expected share of flipped labels, in [0, 0.5).

    Rewards are `beta mean logp`; gamma is a target for their margin and no part of them. With
    gamma 0 and one token a response it is `reference_free_dpo`.
    """
    if gamma is not None and gamma_beta_ratio is not None:
        raise Refused(
            "simpo: expected one of gamma and gamma_beta_ratio, "
            f"got {gamma:g} and {gamma_beta_ratio:g}; set one of them to null"
        )
    if gamma is None:
        gamma = beta * (0.5 if gamma_beta_ratio is None else gamma_beta_ratio)
    mean = mean_logps(policy)
    chosen, rejected = beta * mean.chosen, beta * mean.rejected
    loss = label_nll(chosen - rejected - gamma, label_smoothing)
    return Scores(loss, chosen.detach(), rejected.detach())


def orpo(policy: Pair[Logps], *, lambda_: Annotated[float, NonNegative]) -> Scores:
    """Odds ratio preference optimisation: SFT on the chosen response plus a log odds ratio.

    `-mean logp_w - lambda logsigmoid(o_w - o_l)` with log odds `o = log(p / (1 - p))` of
    `p = exp(mean logp)`: arXiv 2403.07691 eq. 6, with the SFT term as a mean over the response's
    tokens. TRL takes that mean over the prompt too, LLaMA-Factory over the response, as here.

    - `policy`: logps of B pairs, in nats.
    - `lambda_`: weight of the preference term, >= 0; 0.1 in the paper.

    Rewards are the log odds `o`, in nats and without lambda: `sigmoid(o_w - o_l)` is the
    probability that the loss gives the label, and lambda only weights that term. A mean logp of
    0, probability one, counts as one rounding step below it, so that odds stay finite.
    """
    mean = mean_logps(policy)
    chosen, rejected = _log_odds(mean.chosen), _log_odds(mean.rejected)
    loss = -mean.chosen + lambda_ * label_nll(chosen - rejected)
    return Scores(loss, chosen.detach(), rejected.detach())


def _log_odds(logp: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of p = exp(logp)."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    # expm1 keeps 1 - p exact where p is near one; `log(1 - exp(logp))` would round it to log(0).
    return logp - torch.log(-torch.expm1(logp))


def reference_free_dpo(policy: Pair[Logps], *, beta: Annotated[float, Positive]) -> Scores:
    """DPO against a reference that finds every response equally likely.

    `-logsigmoid(beta (logp_w - logp_l))`: an ablation of DPO, arXiv 2305.18290; studied in arXiv
    2407.13709 (equation numbers not verified). That reference is uniform over whole responses. One
    that is uniform over next tokens adds `beta log(vocabulary) (n_w - n_l)` to the margin, which
    is the length term of `r_dpo`.

    - `policy`: logps of B pairs, in nats; `total` is used, `tokens` is not.
    - `beta`: > 0. Without a reference it is no pull towards anything: it scales how much a nat
      counts.

    Rewards are `beta logp`: the shorter response starts ahead, as sums fall with length.
    """
    chosen, rejected = beta * policy.chosen.total, beta * policy.rejected.total
    return Scores(label_nll(chosen - rejected), chosen.detach(), rejected.detach())
