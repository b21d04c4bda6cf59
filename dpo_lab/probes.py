"""What an architecture does, found out by running it on a few tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpo_lab.attention import Unsupported
from dpo_lab.batch import Encoded
from dpo_lab.errors import Refused
from dpo_lab.layouts import LAYOUTS, lay_out
from dpo_lab.scoring import states
from dpo_lab.segments import Segments

if TYPE_CHECKING:
    from dpo_lab.policy import Policy

# Two pairs, short enough for any model. Their sequences differ in length and in every token.
PAIRS = [([3, 1, 4], [1, 5, 9, 2], [6, 5, 3]), ([5, 8], [9, 7], [9, 3, 2, 3])]
SAME = (
    1e-4  # hidden states that differ by less, relative to the largest, differ by float32 rounding
)
LARGE = 100.0  # states scaled up so far that a soft cap bends the logits of an untrained model too


def plain_head(network: PreTrainedModel, body: nn.Module) -> nn.Module | None:
    """The module that makes logits of the body's states, or None where it does not do so alone.

    Gemma 2 caps its logits, Cohere and Granite scale them: there the head is not to be used by
    itself.
    """
    head = network.get_output_embeddings()
    if head is None or body is network:
        return None
    seen: list[Tensor] = []

    def enlarge(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * LARGE
        seen.append(output.last_hidden_state)
        return output

    training = network.training
    network.eval()
    hook = body.register_forward_hook(enlarge)
    try:
        with torch.no_grad():
            ids = torch.tensor([PAIRS[0][0]], device=network.device)
            logits = network(input_ids=ids, use_cache=False).logits
            same = len(seen) == 1 and torch.allclose(head(seen[0]), logits, rtol=1e-4, atol=1e-4)
    finally:
        hook.remove()
        network.train(training)
    return head if same else None


def choose_layout(policy: Policy, wanted: str, longest: int) -> tuple[str, str | None]:
    """The first of `wanted` and the layouts after it in shared, packed, padded that gives the right
    hidden states, and why it is not `wanted` (None where it is).

    - `longest`: tokens of the longest prompt with its response in the data.

    Raises `Refused` where sequences are longer than the model can tell positions apart.
    """
    _refuse_beyond(policy, longest)
    names = list(LAYOUTS)
    reason = None
    for layout in names[names.index(wanted) :]:
        fault = None if layout == "padded" else _fault(policy, layout, longest)
        if fault is None:
            return layout, reason
        reason = reason or fault
    raise AssertionError("padded is always honoured")


def _fault(policy: Policy, layout: str, longest: int) -> str | None:
    """What is wrong with a layout that needs `Segments` on this architecture, if anything."""
    size = min(10, policy.config.vocab_size)
    rows = [Encoded(*([token % size for token in part] for part in pair)) for pair in PAIRS]
    batch = lay_out(rows, [0, 1], layout, pad_id=0, paired=True)
    assert isinstance(batch.segments, Segments)
    batch = replace(batch, segments=replace(batch.segments, allow_for=longest))
    training = policy.model.training
    policy.eval()
    try:
        with torch.no_grad():
            ours = states(policy, batch)
            theirs = [_alone(policy, row, side) for side in (1, 2) for row in rows]
    except (Unsupported, TypeError) as error:
        return f"{type(policy.network).__name__} asks for {error}"
    finally:
        policy.model.train(training)
    expected = torch.cat(theirs)
    if (ours - expected).abs().max() > SAME * expected.abs().max():
        return f"{type(policy.network).__name__} lets sequences of one row see each other"
    return None


def _alone(policy: Policy, row: Encoded, side: int) -> Tensor:
    """Hidden states that predict one response, its sequence alone in a batch."""
    single = Encoded(row.prompt, row[side] or [], None)
    return states(policy, lay_out([single], [0], "padded", pad_id=0, paired=False))


def _refuse_beyond(policy: Policy, longest: int) -> None:
    limit = getattr(policy.config, "max_position_embeddings", None)
    # These stretch all positions of a batch once one sequence in it is long, so that a sequence's
    # log-probability would depend on its neighbours.
    rope = getattr(policy.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        limit = rope.get("original_max_position_embeddings", limit)
    if limit is not None and longest > limit:
        raise Refused(
            f"the longest prompt with its response has {longest} tokens; "
            f"{type(policy.network).__name__} tells {limit} positions apart\n"
            f"type tokens.max_length={limit} (or model.max_positions={longest}, for one made from "
            "a config)"
        )
