"""What a run cannot be, though each of its options is fine alone. Loads no torch."""

from __future__ import annotations

from dpo_lab.config import Config
from dpo_lab.errors import Refused
from dpo_lab.options import signature


def needs_reference(config: Config) -> bool:
    """Whether the loss takes a `reference`."""
    return "reference" in signature(config.nodes["loss"]["_target_"]).inputs


def takes_pairs(config: Config) -> bool:
    """Whether the loss compares two responses; else it sees the chosen one only."""
    return "Pair" in signature(config.nodes["loss"]["_target_"]).inputs["policy"]


def reference_kind(config: Config) -> str:
    """The reference in use: `auto` as none, adapter_off or frozen; else the choice itself."""
    kind = config.nodes["reference"]["_target_"].rsplit(".", 1)[-1]
    if kind != "auto":
        return kind
    if not needs_reference(config):
        return "none"
    return "adapter_off" if has_adapter(config) else "frozen"


def has_adapter(config: Config) -> bool:
    """Whether an adapter is trained instead of the network itself."""
    return not config.nodes["adapter"]["_target_"].endswith(".none")


def check_combinations(config: Config) -> None:
    """Raise `Refused` for a combination that could not run, or of which a part would do nothing."""
    train = config.train
    if (train.steps is None) == (train.epochs is None):
        raise Refused(
            f"exactly one of train.steps and train.epochs is given, got "
            f"steps={_shown(train.steps)} and epochs={_shown(train.epochs)}\n"
            "type for example train.steps=400 train.epochs=null"
        )
    loss = config.choices["loss"]
    kind = reference_kind(config)
    if needs_reference(config) and kind == "none":
        raise Refused(
            f"loss={loss} compares with a reference, and reference=none gives it none\n"
            "leave reference=auto, or choose a loss without one, such as loss=simpo"
        )
    if kind == "adapter_off" and not has_adapter(config):
        raise Refused(
            "reference=adapter_off is the policy without its adapter, and there is no adapter\n"
            "add adapter=lora, or type reference=frozen"
        )
    if kind == "ema":
        check_moves(config, train.steps)
    _check_export(config)


def check_moves(config: Config, steps: int | None) -> None:
    """Refuse a reference that never moves in a run of `steps` updates (None: not known yet)."""
    every = config.nodes["reference"].get("every")
    if steps is not None and every is not None and every >= steps:
        raise Refused(
            f"reference.every={every} moves the reference never in a run of {steps} updates\n"
            f"type for example reference.every={max(steps // 4, 1)}, or reference=frozen"
        )


def _check_export(config: Config) -> None:
    adapter, start = config.nodes["adapter"], config.nodes["start"]
    if adapter.get("merge_on_export") is False and not start["_target_"].endswith(".as_is"):
        raise Refused(
            "adapter.merge_on_export=false exports an adapter that refers to its base, but here "
            "that is a start that is trained first\n"
            "type adapter.merge_on_export=true, or model.path=FOLDER_OF_THAT_START start=as_is"
        )


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
