"""How far a policy has moved, sounded with responses of its own at every evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab import estimates
from dpo_lab.errors import Refused
from dpo_lab.policy import Policy
from dpo_lab.sampling import draw


class Soundings:
    """KL(policy || start) from responses to held-out prompts.

    - `start`: the policy as training begins; a copy of what is trained is kept.
    - `prompts`: token ids; the first distinct ones are taken, as many as `samples`. Where they are
      fewer, each gets several responses.
    - `max_tokens`: responses are cut there.
    - `seed`: of the draws, the same at every evaluation.

    Raises `Refused` where there are too few responses to know an error.
    """

    def __init__(
        self,
        start: Policy,
        prompts: Sequence[Sequence[int]],
        samples: int,
        max_tokens: int,
        seed: int,
    ):
        distinct = list(dict.fromkeys(map(tuple, prompts)))[:samples]
        self.each = samples // max(len(distinct), 1)
        if not distinct or samples < 2 or (len(distinct) < 2 and self.each < 2):
            raise Refused(
                f"eval.samples={samples} with {len(distinct)} held-out prompts gives no standard "
                "error\ntype eval.samples=64, and hold prompts out"
            )
        self.prompts = [list(prompt) for prompt in distinct]
        self.start = start.twin()
        self.max_tokens = max_tokens
        self.seed = seed

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Metrics of the policy as it is now.

        - `sampled/kl`: KL(policy || start), per-step full distributions; `sampled/kl_log_ratio`:
          from log-ratios. Each with `_error`, its standard error, over prompts (over the responses
          to them where each got several).
        - `sampled/tokens`: mean tokens of a response; `sampled/cut`: share that were cut.
        """
        limit = self.max_tokens
        drawn = draw(policy, self.prompts, each=self.each, max_tokens=limit, seed=self.seed)
        found = estimates.kl(self.start, drawn, drawn_prompts=self.each < 2)
        lengths = [len(response) for response in drawn.responses]
        ends = set(drawn.stops)
        cut = [response[-1] not in ends for response in drawn.responses]
        return {
            "sampled/kl": found["per_step"].mean,
            "sampled/kl_error": found["per_step"].error,
            "sampled/kl_log_ratio": found["log_ratio"].mean,
            "sampled/kl_log_ratio_error": found["log_ratio"].error,
            "sampled/tokens": sum(lengths) / len(lengths),
            "sampled/cut": sum(cut) / len(cut),
        }
