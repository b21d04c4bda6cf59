"""The objects of one run, made in the order a run meets them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from dpo_lab.cache import Cache, digest
from dpo_lab.combinations import (
    check_moves,
    has_adapter,
    is_tabular,
    needs_reference,
    reference_kind,
    sees,
    takes_pairs,
)
from dpo_lab.config import Config
from dpo_lab.errors import Refused, Stopped
from dpo_lab.folder import read_json, write_json
from dpo_lab.gauge import MOST_LEAVES, Gauge
from dpo_lab.intake import Intake, add_pairs, local_folder
from dpo_lab.loader import Loader
from dpo_lab.model import pretrained
from dpo_lab.objective import Objective
from dpo_lab.options import bind
from dpo_lab.policy import Policy, choose_layout
from dpo_lab.population import Enumerated, Population
from dpo_lab.references import LeafTable, Reference, Stage, Table
from dpo_lab.scorer import Scorer
from dpo_lab.soundings import Soundings
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.weights import load_tensors, save_tensors
from dpo_lab.worlds.kept import kept_leaf_logps


class Assembly:
    """Makes policy and objective from a config. `facts` is for the run's record.

    - `say(text)` and `progress(stage, done, total)`: how a person is kept informed.
    """

    def __init__(
        self,
        config: Config,
        intake: Intake,
        cache: Cache,
        say: Callable[[str], None],
        progress: Callable[..., None],
    ):
        self.config = config
        self.intake = intake
        self.cache = cache
        self.say = say
        self.progress = progress
        self.facts: dict[str, Any] = {}
        self.other: Policy | None = None

    def policy(self) -> Policy:
        """Network, start and adapter; and the pairs, where it is the start that writes them."""
        nodes = self.config.nodes
        policy = self._network()
        if self.intake.sft is not None:
            self._start(policy)
        self.facts["start"] = policy.digest()
        world = self.intake.source.world
        if world is not None and world.recipe.pair_source == "start":
            self._pairs_from(policy)
        if sees(self.config) is not None:
            self._enumerate()
        if not has_adapter(self.config):
            return policy
        return self._wrap(bind(nodes["adapter"])(policy.model))

    def loader(self) -> Loader:
        """The order of training pairs."""
        train, rows = self.config.train, len(self.intake.train)
        whole = sees(self.config) is not None  # there no more is learnt from a prompt seen twice
        return Loader(
            rows,
            min(train.batch_size, rows) if whole else train.batch_size,
            steps=train.steps,
            epochs=train.epochs,
            seed=self.config.seed,
            shuffle=train.shuffle,
        )

    def objective(self, policy: Policy, loader: Loader) -> Objective:
        """The loss with its reference, and the start's log-probabilities for log-ratios."""
        config, intake = self.config, self.intake
        score = Scorer(
            intake.rows,
            [*loader.used(), *intake.eval],
            self.cache,
            partial(self.progress, "reference"),
            intake.source.world,
            [*intake.source.train, *intake.source.eval],
            sees(config) is not None,
        )
        kind, node = reference_kind(config), config.nodes["reference"]
        if config.choices["reference"] == "auto":
            self.say(f"reference=auto: {kind}")
            node = {"_target_": f"dpo_lab.references.{kind}"}
        if kind == "ema":
            check_moves(config, loader.steps)
        reference = bind(node)(Stage(policy, self.facts["start"], score, self._other))
        if isinstance(reference, Table):
            reference.leaves = self._leaves_of_other()
        start: Reference | None = None
        if config.eval.logratios:
            same = isinstance(reference, Table | LeafTable) and reference.is_start
            start = reference if same else score(policy, policy.digest())
        self.facts |= {
            "reference": {"kind": kind, "digest": reference.digest if reference else None},
            "start_logps": start.digest if start else None,
            "layout": policy.layout,
            "device": str(policy.device),
        }
        loss, takes_reference = bind(config.nodes["loss"]), needs_reference(config)
        seen = sees(config)
        if seen is None:
            return Objective(loss, takes_pairs(config), takes_reference, reference, start)
        world = intake.source.world
        assert world is not None
        of_prompts = seen != "chosen"
        return Population(
            loss, of_prompts, takes_reference, reference, start, world=world, sees=seen
        )

    def gauge(self, policy: Policy, objective: Objective) -> Gauge | None:
        """What says where the policy stands in its world, if it has one."""
        world, loss = self.intake.source.world, self.config.nodes["loss"]
        if world is None:
            return None
        start = kept_leaf_logps(policy, world, self.cache)
        return Gauge.of(world, start, loss, objective.reference)

    def soundings(self, policy: Policy) -> Soundings | None:
        """What draws responses at every evaluation, if it is asked for."""
        wanted, rows = self.config.eval, self.intake.rows
        if not wanted.samples:
            return None
        prompts = [rows[index].prompt for index in self.intake.eval]
        seed = self.config.seed
        return Soundings(policy, prompts, wanted.samples, wanted.sample_tokens, seed)

    def _network(self) -> Policy:
        """The policy before its start is trained; without a network, where it is a table."""
        node = self.config.nodes["model"]
        if not is_tabular(self.config):
            return self._wrap(bind(node)(self.intake.tokenizer))
        world, kind = self.intake.source.world, device(self.config.train.device)
        return bind(node)(world, self.intake.tokenizer, kind)

    def _enumerate(self) -> None:
        """Prompts with all of their responses in place of the rows of pairs."""
        intake = self.intake
        assert intake.source.world is not None
        rows = Enumerated(intake.source.world, pairs=sees(self.config) == "pair")
        intake.rows, intake.names = rows, rows.names
        intake.train, intake.eval = rows.train, rows.eval

    def _wrap(self, model: Any) -> Policy:
        """A policy around a network, in the first layout that its architecture honours."""
        train, world = self.config.train, self.intake.source.world
        policy = Policy(
            model,
            self.intake.tokenizer,
            layout=self.config.layout,
            dtype=train.dtype,
            device=device(train.device),
            legal=world.legal_ids if world is not None else None,
            gradient_checkpointing=train.gradient_checkpointing,
        )
        longest = self.intake.longest or self.config.tokens.max_length
        policy.layout, why = choose_layout(policy, self.config.layout, longest)
        if why:
            self.say(f"layout={policy.layout} instead of {self.config.layout}: {why}")
        return policy

    def _start(self, policy: Policy) -> None:
        """Train the start once; afterwards it is loaded, and trained again if it was damaged."""
        node, rows = self.config.nodes["start"], self.intake.sft
        assert rows is not None
        how = [policy.architecture(), policy.dtype, policy.layout, str(policy.device)]
        key = digest(policy.digest(), node, *how, rows.digest)

        def build(place: Any) -> None:
            self.say(f"training the start on {len(rows)} sequences")

            def progress(step: int, steps: int, loss: float) -> None:
                self.progress("start", step, steps, f"loss {loss:.4f}")

            bind(node)(policy, rows, self.config.train.micro_tokens, progress)
            save_tensors(place / "start.safetensors", policy.weights())
            write_json(place / "start.json", {"digest": policy.digest()})
            self.cache.count("starts_trained", 1)

        for _ in range(2):
            place = self.cache.entry("start", key, build)
            try:
                policy.load_weights(load_tensors(place / "start.safetensors"))
                if policy.digest() == read_json(place / "start.json").get("digest"):
                    return
                reason = "its digest does not match"
            except Exception as error:  # what cannot be read is damaged too
                reason = f"{type(error).__name__}: {error}"
            self.say(f"{place} is damaged ({reason}); training the start again")
            self.cache.drop("start", key)
        raise Stopped(f"the start in {self.cache.root} cannot be read back; is the disk sound?")

    def _pairs_from(self, policy: Policy) -> None:
        """Let the start write the responses of the pairs."""
        from dpo_lab.worlds import with_pairs

        intake = self.intake
        assert intake.source.world is not None
        source = with_pairs(intake.source, kept_leaf_logps(policy, intake.source.world, self.cache))
        intake.source = source
        add_pairs(self.config, intake, source.train, source.eval, self.cache, source.digest)

    def _other(self, path: str) -> Policy:
        """Another network that reads this run's tokens."""
        theirs = Tokenizer.from_folder(local_folder(path, None))
        if theirs.digest != self.intake.tokenizer.digest:
            raise Refused(
                f"{path} has another tokenizer than the policy, so its log-probabilities would be "
                "of other tokens\nchoose a network with the policy's tokenizer"
            )
        self.other = self._wrap(pretrained(theirs, path=path, revision=None, dropout=0.0))
        return self.other

    def _leaves_of_other(self) -> np.ndarray | None:
        """In a world, all log-probabilities of the network that was loaded; which is then freed."""
        world, other, self.other = self.intake.source.world, self.other, None
        if world is None or other is None or world.tree.num_leaves > MOST_LEAVES:
            return None
        return kept_leaf_logps(other, world, self.cache)


def device(name: str) -> str:
    """`auto` is the first accelerator there is, else the CPU. A missing one is `Refused`."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    if not there[name]:
        found = ", ".join(kind for kind, found in there.items() if found)
        raise Refused(f"train.device={name}: there is none on this machine; there is {found}")
    return name
