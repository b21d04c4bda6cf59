"""What `worlds.exact` knows, estimated from drawn responses, each with its standard error.

For policies whose responses nobody can enumerate. In a world the estimates agree with the exact
values: that is their test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dpo_lab.batch import Encoded
from dpo_lab.errors import Refused
from dpo_lab.layouts import lay_out, split
from dpo_lab.policy import Policy
from dpo_lab.sampling import Drawn
from dpo_lab.scoring import step_logps

NUMBERS_AT_ONCE = 2**25  # log-probabilities of next tokens in memory


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


def kl(other: Policy, drawn: Drawn, *, drawn_prompts: bool = True) -> dict[str, Estimate]:
    """KL(policy || other) of whole responses in nats, `drawn` being the policy's, in two ways.

    - `per_step`: the KL of the two full next-token distributions, summed over the steps of each
      response, that of its end included; the mean over responses (arXiv 2305.18290, section 6.1).
      Unbiased, since given a prefix each term is the expectation of the log-ratio of what follows.
    - `log_ratio`: the mean log-ratio of the responses: the same value, several times noisier.

    A response that was cut counts with the tokens it has: the KL is that of responses cut there.
    For KL(other || policy), draw from `other`. `drawn_prompts`: see `mean`.

    Raises `Refused` where the responses do not have the policy's own probabilities (a temperature
    other than 1), or the two have different tokens.
    """
    policy = drawn.policy
    if drawn.temperature != 1:
        raise Refused(
            f"KL is estimated from responses drawn at temperature 1, got {drawn.temperature:g}\n"
            "draw them anew at temperature 1, without top-k and top-p"
        )
    mine, theirs = policy.tokenizer, other.tokenizer
    if mine is not theirs and mine.digest != theirs.digest:
        raise Refused("KL needs two policies of one tokenizer; these have different ones")
    if policy.legal != other.legal:
        raise Refused("KL needs two policies that may say the same tokens; these may not")
    steps, ratios = _sums(policy, other, drawn)
    return {
        "per_step": mean(steps, drawn.of, drawn_prompts=drawn_prompts),
        "log_ratio": mean(ratios, drawn.of, drawn_prompts=drawn_prompts),
    }


def win_rate(
    ours: Sequence[float], theirs: Sequence[float], of: Sequence[int], *, drawn_prompts: bool = True
) -> Estimate:
    """P(our reward is higher) + P(equal) / 2, response i of ours against response i of theirs.

    - `of`: (N,) the prompt of both. `drawn_prompts`: see `mean`.
    """
    margin = np.asarray(ours, float) - np.asarray(theirs, float)
    return mean((np.sign(margin) + 1) / 2, of, drawn_prompts=drawn_prompts)


def mean(values: Sequence[float], of: Sequence[int], *, drawn_prompts: bool = True) -> Estimate:
    """The mean over prompts of the means of their responses.

    - `values`: (N,) one a response; `of`: (N,) its prompt.
    - `drawn_prompts`: whether the prompts are themselves a sample; the error is then that of the
      mean over all prompts there might be. False: the mean is meant over these very prompts, as in
      a world, and each needs two responses or more.

    Raises `Refused` where there are too few to know an error.
    """
    rows, prompts = np.asarray(values, float), np.asarray(of)
    parts = [rows[prompts == prompt] for prompt in np.unique(prompts)]
    means = np.array([part.mean() for part in parts])
    if drawn_prompts:
        if len(parts) < 2:
            raise Refused("an error over prompts needs two prompts or more; there is one")
        return Estimate(float(means.mean()), float(means.std(ddof=1) / len(parts) ** 0.5))
    if min(map(len, parts)) < 2:
        raise Refused("an error for each prompt needs two responses to it or more")
    variances = [part.var(ddof=1) / len(part) for part in parts]
    return Estimate(float(means.mean()), float(np.sum(variances) ** 0.5 / len(parts)))


def _sums(policy: Policy, other: Policy, drawn: Drawn) -> tuple[list[float], list[float]]:
    """Per-step KL and log-ratio of every response, each summed over its steps."""
    rows = [
        Encoded(drawn.prompts[index], response, None)
        for index, response in zip(drawn.of, drawn.responses, strict=True)
    ]
    budget = max(1, NUMBERS_AT_ONCE // policy.config.vocab_size)
    steps: list[float] = []
    ratios: list[float] = []
    policy.eval()
    other.eval()
    for part in split(rows, range(len(rows)), policy.layout, budget, False):
        batches = [
            lay_out(rows, part, one.layout, pad_id=one.tokenizer.pad_id, paired=False).to(
                one.device
            )
            for one in (policy, other)
        ]
        with torch.no_grad():
            ours, theirs = (
                step_logps(one, batch).double()
                for one, batch in zip((policy, other), batches, strict=True)
            )
        theirs = theirs.to(ours.device)
        places = batches[0].targets
        if policy.legal_ids is not None:
            places = policy.legal_places[places]
        gap = ours - theirs
        of_token = gap.gather(1, places[:, None])[:, 0]
        for found, values in ((steps, (ours.exp() * gap).sum(1)), (ratios, of_token)):
            total = values.new_zeros(len(part)).index_add(0, batches[0].owners, values)
            found += total.tolist()
    return steps, ratios
