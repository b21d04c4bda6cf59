"""The closed nodes of the config: what every run has, whatever was composed into it.

Each dataclass is read like a signature (see `options`): its fields are knobs with types and ranges.
`conf/config.yaml` holds their values and says what each means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from dpo_lab.ranges import Count, NonNegative, Positive, Range, Seed


@dataclass(frozen=True, slots=True)
class Root:
    """The run as a whole."""

    name: str | None = None
    seed: Annotated[int, Seed] = 0
    layout: Literal["shared", "packed", "padded"] = "shared"
    outputs_dir: str = "outputs"
    cache_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Train:
    """The loop."""

    steps: Annotated[int | None, Count] = None
    epochs: Annotated[int | None, Count] = None
    batch_size: Annotated[int, Count] = 64
    shuffle: bool = True
    max_grad_norm: Annotated[float | None, Positive] = 1.0
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int | None, Count] = None
    deterministic: bool = True
    micro_tokens: Annotated[int, Count] = 8192
    gradient_checkpointing: bool = False
    log_every: Annotated[int, Count] = 10
    resume: str | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """From text to token ids."""

    max_length: Annotated[int, Range(ge=2)] = 512
    truncation: Literal["keep_start", "keep_end"] = "keep_end"
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class Eval:
    """Evaluation on held-out pairs."""

    every: Annotated[int | None, Count] = None
    logratios: bool = True
    samples: Annotated[int, NonNegative] = 0
    sample_tokens: Annotated[int, Count] = 128


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is kept of a run that may be stopped."""

    every: Annotated[int | None, Count] = None
    keep: Annotated[int, Range(ge=2)] = 2
    keep_best: bool = False
    metric: Literal[
        "eval/loss", "eval/rewards/accuracies", "eval/rewards/margins", "world/optimal_share"
    ] = "eval/loss"


NODES: dict[str, type] = {
    "root": Root,
    "train": Train,
    "tokens": Tokens,
    "eval": Eval,
    "checkpoint": Checkpoint,
}
CLOSED = ("train", "tokens", "eval", "checkpoint")

# nodes and options that may differ between two runs with the same result
_WHERE = {"name", "outputs_dir", "cache_dir", "logger", "launcher", "sweeper", "checkpoint"}
_WHEN = {"train.resume", "train.log_every", "eval.every", "eval.logratios", "eval.samples"}
_WHEN |= {"eval.sample_tokens"}
HOUSEKEEPING = frozenset(_WHERE | _WHEN)


@dataclass(frozen=True, slots=True)
class Config:
    """A composed and checked configuration.

    - `nodes`: every call node by its group (`nodes["loss"]["_target_"]`), as plain data.
    - `choices`: which option each group took (`choices["loss"] == "dpo"`).
    - `plain`: the whole resolved config as plain data, as it is written to `config.yaml`.
    - `overrides`: what was typed.
    """

    name: str
    seed: int
    layout: str
    outputs_dir: str
    cache_dir: str | None
    train: Train
    tokens: Tokens
    eval: Eval
    checkpoint: Checkpoint
    nodes: dict[str, dict[str, Any]]
    choices: dict[str, str] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None
