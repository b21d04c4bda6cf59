"""Responses drawn from a policy, token by token, from its probabilities as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from dpo_lab.policy import Policy
from dpo_lab.ranges import Count, NonNegative, Positive
from dpo_lab.templates import stop_ids


@dataclass(frozen=True, slots=True)
class Drawn:
    """N responses drawn from `policy`.

    - `prompts`: token ids of the prompts; `of`: (N,) which prompt each response is to.
    - `responses`: their token ids, with the end where there is one; the others were cut.
    - `temperature`: that they were drawn at. `stops`: the ids that end a response.
    """

    policy: Policy
    prompts: list[list[int]]
    of: list[int]
    responses: list[list[int]]
    temperature: float
    stops: list[int]


def draw(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    each: Annotated[int, Count],
    max_tokens: Annotated[int, Count],
    seed: Annotated[int, NonNegative],
    temperature: Annotated[float, Positive] = 1.0,
    at_once: Annotated[int, Count] = 256,
) -> Drawn:
    """Draw `each` responses to every prompt, independently.

    Without top-k, top-p or penalties, whatever a model's folder asks for: at temperature 1 a
    response comes with the probability that `scoring` gives it. In eval mode, with a KV cache and
    prompts padded on the left. The policy's legal tokens only, where it has such.

    - `max_tokens`: a response of so many tokens is cut, and has no end.
    - `seed`: of these draws alone; the global random state stays as it is.
    - `at_once`: responses in one forward pass; changes which responses are drawn.
    """
    stops = stop_ids(policy.tokenizer)
    texts = [list(prompt) for prompt in prompts]
    of = [index for index in range(len(texts)) for _ in range(each)]
    generator = torch.Generator().manual_seed(seed)
    training = policy.model.training
    policy.eval()
    responses: list[list[int]] = []
    try:
        with torch.no_grad(), policy.plain(), policy.autocast():
            for at in range(0, len(of), at_once):
                part = [texts[index] for index in of[at : at + at_once]]
                responses += _continue(policy, part, stops, max_tokens, temperature, generator)
    finally:
        policy.model.train(training)
    return Drawn(policy, texts, of, responses, temperature, stops)


def _continue(
    policy: Policy,
    prompts: list[list[int]],
    stops: list[int],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    pad = policy.tokenizer.pad_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    ids, mask = ids.to(policy.device), mask.to(policy.device)
    ends = torch.tensor(stops, device=policy.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=policy.device)
    said: list[Tensor] = []
    cache: Any = None
    for _ in range(max_tokens):
        inputs = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        if policy.takes_positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out: Any = policy.model(input_ids=ids, **inputs)
        cache = out.past_key_values
        token = _choose(policy, out.logits[:, -1], temperature, generator)
        said.append(token.masked_fill(ended, -1))
        ended |= torch.isin(token, ends)
        if bool(ended.all()):
            break
        ids = token[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    rows = torch.stack(said, 1).tolist()
    return [[token for token in row if token >= 0] for row in rows]


def _choose(
    policy: Policy, logits: Tensor, temperature: float, generator: torch.Generator
) -> Tensor:
    """One token a row."""
    legal = policy.legal_ids
    logits = logits if legal is None else logits[:, legal]
    # On the CPU, whose generator repeats everywhere.
    probability = (logits.double() / temperature).softmax(-1).cpu()
    place = torch.multinomial(probability, 1, generator=generator)[:, 0].to(policy.device)
    return place if legal is None else legal[place]
