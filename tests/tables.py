"""Policies without a network, and what they converge to when they see all pairs."""

from __future__ import annotations

import numpy as np
import torch

from dpo_lab import optimizers
from dpo_lab.loader import Loader
from dpo_lab.loop import Effects, Plan, State, fit
from dpo_lab.population import Enumerated, Population
from dpo_lab.references import LeafTable
from dpo_lab.tabular import Tabular
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.worlds import world
from dpo_lab.worlds.enumeration import leaf_logps

SMALL = {"words": "good bad not film", "depth": 3, "pairs": 1, "eval_pairs": 1, "sft_rows": 1}


def tiny(**knobs):
    return world(**SMALL | knobs).world


def table_of(truth) -> Tabular:
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    return Tabular(truth, tokenizer, "cpu")


def node(name: str, **knobs) -> dict:
    return {"_target_": f"dpo_lab.losses.{name}", **knobs}


def state_of(truth, loss, sees="pair", reference=None, steps=40) -> State:
    policy, rows = table_of(truth), Enumerated(truth, pairs=sees == "pair")
    start = LeafTable(torch.from_numpy(leaf_logps(policy, truth)), "", True)
    reference = start if reference is None else reference(policy)
    objective = Population(
        loss, sees != "chosen", reference is not False, reference or None, start, world=truth,
        sees=sees,
    )  # fmt: skip
    return State(
        policy=policy,
        optimizer=optimizers.lbfgs(policy.trainable()),
        schedule=lambda step: 1.0,
        loader=Loader(len(rows.train), len(rows.train), steps=steps),
        objective=objective,
        rows=rows,
    )


def solved(truth, loss, **more) -> np.ndarray:
    state = state_of(truth, loss, **more)
    plan = Plan(max_grad_norm=None, micro_tokens=10_000, log_every=1000)
    fit(state, plan, Effects(log=lambda step, metrics: None))
    return leaf_logps(state.policy, truth)


def fixed(logps: np.ndarray):
    return lambda policy: LeafTable(torch.from_numpy(logps), "")


def nothing(policy):
    return False


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
