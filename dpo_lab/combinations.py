"""What a run cannot be, though each of its options is fine alone. Loads no torch."""

from __future__ import annotations

from dpo_lab.config import Config
from dpo_lab.errors import Refused
from dpo_lab.options import signature
from dpo_lab.source import Source


def needs_reference(config: Config) -> bool:
    """Whether the loss takes a `reference`."""
    return "reference" in signature(config.nodes["loss"]["_target_"]).inputs


def takes_pairs(config: Config) -> bool:
    """Whether the loss compares two responses; else it sees the chosen one only."""
    return "Pair" in signature(config.nodes["loss"]["_target_"]).inputs["policy"]


def sees(config: Config) -> str | None:
    """What the loss sees where it is summed over all that can be said ("leaves", each "pair", or
    each response as the "chosen" one); None where it sees rows of data."""
    policy = signature(config.nodes["loss"]["_target_"]).inputs["policy"]
    if "Leaves" in policy:
        return "leaves"
    if not is_tabular(config):
        return None
    if policy not in ("Pair[Logps]", "Logps"):
        raise Refused(
            f"model=tabular sums a loss over pairs, or over chosen responses; "
            f"loss={config.choices['loss']} takes {policy}\ntype loss=dpo, or model=tiny"
        )
    return "pair" if policy == "Pair[Logps]" else "chosen"


def is_tabular(config: Config) -> bool:
    """Whether the policy is a table of a world's responses, and no network."""
    return "world" in signature(config.nodes["model"]["_target_"]).inputs


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
    start = config.nodes["start"]
    if "steps" in start and start["steps"] is None and start.get("epochs", 0) is None:
        raise Refused(
            "exactly one of start.steps and start.epochs is given, got null for both\n"
            "type for example start.epochs=1"
        )
    _check_export(config)
    _check_exact(config)
    _check_idle(config)


def check_moves(config: Config, steps: int | None) -> None:
    """Refuse a reference that never moves in a run of `steps` updates (None: not known yet)."""
    every = config.nodes["reference"].get("every")
    if steps is not None and every is not None and every >= steps:
        raise Refused(
            f"reference.every={every} moves the reference never in a run of {steps} updates\n"
            f"type for example reference.every={max(steps // 4, 1)}, or reference=frozen"
        )


def check_source(config: Config, source: Source) -> None:
    """Refuse to sum over all responses where the data has no world to enumerate them, and to look
    for the best by what will not be measured."""
    metric = config.checkpoint.metric
    if config.checkpoint.keep_best and (
        (metric.startswith("world/") and source.world is None)
        or (metric.startswith("eval/rewards/") and not takes_pairs(config))
    ):
        raise Refused(
            f"checkpoint.metric={metric} is not measured here\ntype checkpoint.metric=eval/loss"
        )
    if sees(config) is not None and source.world is None:
        what = "model=tabular" if is_tabular(config) else f"loss={config.choices['loss']}"
        raise Refused(
            f"{what} needs a world whose responses can be enumerated, and "
            f"data={config.choices['data']} is none\ntype data=world_nano or data=world"
        )


def _check_exact(config: Config) -> None:
    if sees(config) is not None and config.train.gradient_checkpointing:
        raise Refused(
            "a tree of responses is computed with a cache of keys and values, which gradient "
            "checkpointing cannot recompute\ntype train.gradient_checkpointing=false"
        )
    if not is_tabular(config):
        return
    for group, only, why in (
        ("start", "as_is", "it starts from the world's grammar"),
        ("adapter", "none", "there is no network under it"),
    ):
        if not config.nodes[group]["_target_"].endswith(f".{only}"):
            chosen = config.choices[group]
            raise Refused(f"model=tabular takes no {group}={chosen}: {why}\ntype {group}={only}")
    if config.eval.samples:
        raise Refused("model=tabular knows its KL exactly (world/kl)\ntype eval.samples=0")
    if config.train.dtype != "float64":
        raise Refused(
            f"model=tabular computes in float64, and train.dtype is {config.train.dtype}\n"
            "type train.dtype=float64"
        )


def _check_idle(config: Config) -> None:
    """Refuse options that were typed and would do nothing."""
    typed = {word.partition("=")[0].lstrip("+") for word in config.overrides}
    for option, idle, why in (
        ("eval.sample_tokens", not config.eval.samples, "no responses are drawn: eval.samples=0"),
        ("layout", is_tabular(config), "a table of responses has no rows to lay out"),
    ):
        if option in typed and idle:
            raise Refused(f"{option} would do nothing, since {why}\nleave {option} out")


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
