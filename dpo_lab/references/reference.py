"""What a run asks of a reference, and what a reference may ask of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_lab.policy import Policy
    from dpo_lab.references.leaves import LeafTable
    from dpo_lab.references.table import Table


class Reference(Protocol):
    """Log-probabilities that a loss compares the policy's with.

    `is_start` says that it equals the policy before the first step, so that the loss must then have
    its initial value. `digest` names the values used, for the run's record.
    """

    is_start: bool
    digest: str

    def logps(self, batch: Any) -> Any:
        """Log-probabilities of the batch's responses, nats, without gradient.

        Of a `Batch`: a `Pair` of `Logps`, or `Logps`, each (B,). Of `Prompts`: `Leaves`.
        """

    def after_step(self, policy: Policy, step: int) -> None:
        """Called after update number `step` (1-based); static references do nothing."""


@runtime_checkable
class Changing(Reference, Protocol):
    """A reference that changes while training: what it is goes into checkpoints."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The moment before the first step, as a reference sees it.

    - `start`: the policy as training will begin with it.
    - `base`: digest of the network under the start's adapter; of the start itself without one.
    - `score`: log-probabilities, under a policy with that digest of its weights, of every row that
      this run will look at; of every response, where the loss is over all of them.
    - `load`: another network from a folder or the hub, with this run's tokens.
    """

    start: Policy
    base: str
    score: Callable[[Policy, str], Table | LeafTable]
    load: Callable[[str], Policy]
