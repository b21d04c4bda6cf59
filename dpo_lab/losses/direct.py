"""Losses of the log-ratio margin alone: DPO and what differs from it in the shape of the curve.

Notation: `logratio` of a response is its policy logp minus its reference logp, in nats; `Delta`
is the chosen one's minus the rejected one's. All tensors are (B,); every loss comes back
unreduced.
"""

from __future__ import annotations

from typing import Annotated

import torch

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.errors import Refused
from dpo_lab.losses.margin import label_nll, logratios, mean_logratios
from dpo_lab.ranges import Positive, Smoothing


def dpo(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    label_smoothing: Annotated[float, Smoothing] = 0.0,
) -> Scores:
    """Direct preference optimisation; conservative DPO where `label_smoothing` > 0.

    `-logsigmoid(beta Delta)`: arXiv 2305.18290 eq. 7. With smoothing e it is
    `-(1 - e) logsigmoid(beta Delta) - e logsigmoid(-beta Delta)`: E. Mitchell, "A note on DPO with
    noisy preferences", eq. 3. Some implementations accept the smoothing and ignore it.

    - `policy`, `reference`: logps of the same B pairs, in nats; `total` is used, `tokens` is not.
    - `beta`: pull towards the reference, > 0; 0.01 to 0.5 in practice.
    - `label_smoothing`: expected share of flipped labels e, in [0, 0.5). With e > 0 the best
      margin of a pair is finite, `beta Delta = log((1 - e) / e)`; with e = 0 there is none.

    Rewards are `beta logratio`. Where `policy == reference` each loss is log 2 and its gradient
    by the chosen logp is `-beta (1 - 2 e) / 2`, for any `beta`.
    """
    ratio = logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    loss = label_nll(chosen - rejected, label_smoothing)
    return Scores(loss, chosen.detach(), rejected.detach())


def robust_dpo(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    label_smoothing: Annotated[float, Smoothing],
) -> Scores:
    """Robust DPO (rDPO): averaged over random flips of the labels, it is the clean DPO loss.

    `[-(1 - e) logsigmoid(beta Delta) + e logsigmoid(-beta Delta)] / (1 - 2 e)`: arXiv 2403.00409.
    Unlike conservative DPO it has no best margin: it falls without bound as `beta Delta` grows
    (with e = 0.1 it is -1.25 at 10), so a negative loss is no mistake.

    - `policy`, `reference`: logps of the same B pairs, in nats; `total` is used, `tokens` is not.
    - `beta`: pull towards the reference, > 0; the paper uses 0.1.
    - `label_smoothing`: share of flipped labels e, known or guessed, in [0, 0.5); 0 is plain DPO.

    Rewards are `beta logratio`. Where `policy == reference` each loss is log 2 and the slope is
    `1 / (1 - 2 e)` times DPO's. Raises `Refused` where e >= 0.5: labels then carry no information,
    and the formula divides by zero or turns its sign.
    """
    if label_smoothing >= 0.5:
        raise Refused(
            "robust_dpo: expected label_smoothing below 0.5 (it divides by 1 - 2 label_smoothing), "
            f"got {label_smoothing:g}; type label_smoothing=0.1"
        )
    ratio = logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    kept, flipped = label_nll(chosen - rejected), label_nll(rejected - chosen)
    loss = ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    return Scores(loss, chosen.detach(), rejected.detach())


def ipo(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    tau: Annotated[float, Positive],
    average: bool = False,
) -> Scores:
    """Identity preference optimisation: regress the log-ratio margin to `1 / (2 tau)`.

    `(Delta - 1 / (2 tau))^2`: arXiv 2310.12036 eq. 17. With `average`, each log-ratio is first
    divided by its response's tokens: not in the paper, yet what TRL, HALOs and LLaMA-Factory
    compute, while the reference DPO code and OpenRLHF sum. Same target, so `average` asks far
    more of long responses.

    - `policy`, `reference`: logps of the same B pairs, in nats.
    - `tau`: pull towards the reference, > 0 (`beta` elsewhere); 0.1 is common, 0.01 to 1 tried.
    - `average`: log-ratios per token in place of sums.

    Rewards are `tau logratio` (per token with `average`). The paper maximises the probability of
    being preferred minus tau KL; at the optimum `tau logratio` is that probability up to a
    constant of the prompt, and the loss puts the reward margin of a pair at 1/2.
    Where `policy == reference` each loss is `1 / (4 tau^2)`; at `Delta = 1 / (2 tau)` it is 0.
    """
    ratio = (mean_logratios if average else logratios)(policy, reference)
    loss = (ratio.chosen - ratio.rejected - 1 / (2 * tau)) ** 2
    return Scores(loss, tau * ratio.chosen.detach(), tau * ratio.rejected.detach())


def hinge(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
) -> Scores:
    """Hinge loss on the log-ratio margin, the "hinge-norm" of RSO.

    `max(0, 1 - beta Delta)`: arXiv 2309.06657 (equation number not verified), after SLiC, arXiv
    2305.10425, which has no reference in the margin and adds a likelihood term.

    - `policy`, `reference`: logps of the same B pairs, in nats; `total` is used, `tokens` is not.
    - `beta`: 1 over the wanted log-ratio margin in nats, > 0 (`gamma` in RSO, which uses 0.05).

    Rewards are `beta logratio`. Where `policy == reference` each loss is 1, with the slope of DPO
    doubled (`-beta` by the chosen logp); from `beta Delta = 1` on, loss and gradient are 0.
    """
    ratio = logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    loss = torch.relu(1 - (chosen - rejected))
    return Scores(loss, chosen.detach(), rejected.detach())


def dpo_norm(
    policy: Pair[Logps],
    reference: Pair[Logps],
    *,
    beta: Annotated[float, Positive],
    label_smoothing: Annotated[float, Smoothing] = 0.0,
) -> Scores:
    """Length-normalised DPO: each log-ratio divided by its response's tokens.

    `-logsigmoid(beta (logratio_w / n_w - logratio_l / n_l))`: arXiv 2411.15124 (Tulu 3), after an
    ablation in the appendix of SimPO, arXiv 2405.14734 (equation numbers not verified).

    - `policy`, `reference`: logps of the same B pairs, in nats; `tokens` is the policy's.
    - `beta`: reward for one nat per token, > 0; 5 in Tulu 3, far above DPO's 0.1, as a mean is
      small.
    - `label_smoothing`: expected share of flipped labels, in [0, 0.5).

    Rewards are `beta logratio / tokens`. Where `policy == reference` each loss is log 2. With one
    token a response it is `dpo`.
    """
    ratio = mean_logratios(policy, reference)
    chosen, rejected = beta * ratio.chosen, beta * ratio.rejected
    loss = label_nll(chosen - rejected, label_smoothing)
    return Scores(loss, chosen.detach(), rejected.detach())
