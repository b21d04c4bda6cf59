"""References that never change: tables of log-probabilities."""

from __future__ import annotations

from dpo_lab.references.reference import Reference, Stage


def none(stage: Stage) -> None:
    """No reference: for losses that take none. (A loss that takes one is refused with it.)"""


def frozen(stage: Stage) -> Reference:
    """The policy as it starts, for ever: the usual reference of DPO (arXiv 2305.18290, section 4).

    With an adapter, the start includes the adapter as it is before the first step.
    """
    table = stage.score(stage.start, stage.start.digest())
    table.is_start = True
    return table


def adapter_off(stage: Stage) -> Reference:
    """The policy with its adapter switched off: the network the adapter was put on.

    For a fresh LoRA adapter, whose B matrices are zero, this is the start exactly.
    """
    with stage.start.adapter_off():
        table = stage.score(stage.start, stage.base)
    table.is_start = True
    return table


def checkpoint(stage: Stage, *, path: str) -> Reference:
    """Another network, as strong or as weak as one likes (arXiv 2407.13709), scored with this run's
    tokens and then freed.

    - `path`: a folder in Hugging Face format (for example another run's `final/`), or a hub name.

    Raises `Refused` where its tokenizer is not this run's.
    """
    other = stage.load(path)
    return stage.score(other, other.digest())


def auto(stage: Stage) -> Reference | None:
    """Chosen from the loss and the adapter before the run starts; never called itself."""
    raise AssertionError("`auto` is resolved before references are made")
