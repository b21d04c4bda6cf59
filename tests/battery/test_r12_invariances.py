"""In float64, what must not matter does not: to 1e-10 in values, gradients and trained weights."""

import json
import math

import pytest
import torch
from networks import ROWS, every_layout, gradients
from safetensors.torch import load_file
from test_loop import make_rows, make_state
from test_loop import tokenizer as tokenizer
from test_scoring import policy, weighted

import dpo_lab
from dpo_lab.batch import Encoded
from dpo_lab.layouts import lay_out
from dpo_lab.loop import Effects, Plan, batches, fit
from dpo_lab.scoring import logps, token_logps

ID = "R12"
CLOSE = 1e-10
KINDS = ["gpt2", "llama"]  # learned positions, and rotary ones


def far(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_micro_batches(tokenizer, tally, layout):
    """8 pairs in one piece, in two, in four and in eight; ten updates each."""
    rows = [
        Encoded(row.prompt[:1] * 3, [*(row.chosen * 5)[:4], 1], [*(row.rejected * 5)[:5], 1])
        for row in make_rows(24)
    ]
    found = {}
    for pieces in (1, 2, 4, 8):
        state = make_state(tokenizer, rows)
        state.policy.layout = layout
        budget = {"shared": 14, "packed": 17, "padded": 18}[layout] * (8 // pieces)
        cut = batches(state.policy, rows, state.loader.take(0), budget, True)
        tally(len(cut) == pieces, f"{layout}: {len(cut)} pieces instead of {pieces}")
        fit(
            state,
            Plan(max_grad_norm=0.5, micro_tokens=budget, log_every=3),
            Effects(log=lambda step, metrics: None),
        )
        found[pieces] = torch.cat([p.detach().flatten() for _, p in state.policy.trainable()])
    for pieces, weights in found.items():
        tally(far(weights, found[1]) <= CLOSE, f"{layout}: {pieces} pieces")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_layouts_order_and_neighbours(tally, kind):
    scored = policy(kind)
    ways = every_layout(scored, ROWS)
    expected = logps(scored, ways["padded"])
    push = gradients(scored.model, weighted(token_logps(scored, ways["padded"])))
    for way, batch in ways.items():  # layouts, and padding on the left
        ours = logps(scored, batch)
        pairs = (ours.chosen, expected.chosen), (ours.rejected, expected.rejected)
        for side, (got, want) in zip(("chosen", "rejected"), pairs, strict=True):
            tally(far(got.total, want.total) <= CLOSE, f"{kind} {way}: {side}")
        theirs = gradients(scored.model, weighted(token_logps(scored, batch)))
        worst = max(far(theirs[name], push[name]) for name in push)
        tally(worst <= CLOSE, f"{kind} {way}: gradients differ by {worst}")
    order = [2, 0, 3, 1]
    turned = [ROWS[index] for index in order]
    long = Encoded([3] * 20, [4] * 30, [5] * 10)
    for layout in ("shared", "packed", "padded"):
        for side in ("left", "right") if layout == "padded" else ("right",):
            other = {"layout": layout, "pad_id": 0, "pad_side": side}
            moved = logps(scored, lay_out(turned, range(4), paired=True, **other))
            worst = far(moved.chosen.total, expected.chosen.total[order])
            tally(worst <= CLOSE, f"{kind} {layout} {side}: order, {worst}")
            more = logps(scored, lay_out([*ROWS, long], range(5), paired=True, **other))
            worst = far(more.rejected.total[:4], expected.rejected.total)
            tally(worst <= CLOSE, f"{kind} {layout} {side}: beside a long row, {worst}")
            alone = logps(scored, lay_out(ROWS, range(4), paired=False, **other))
            worst = far(alone.total, expected.chosen.total)
            tally(worst <= CLOSE, f"{kind} {layout} {side}: chosen alone, {worst}")
            swapped = [replace_sides(row) for row in ROWS]
            apart = logps(scored, lay_out(swapped, range(4), paired=False, **other))
            worst = far(apart.total, expected.rejected.total)
            tally(worst <= CLOSE, f"{kind} {layout} {side}: rejected alone, {worst}")


def replace_sides(row):
    return row._replace(chosen=row.rejected, rejected=row.chosen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_gradient_checkpointing(tally, kind, adapter):
    pushes = []
    for checkpointing in (False, True):
        scored = policy(kind, adapter, gradient_checkpointing=checkpointing)
        scored.train()
        batch = every_layout(scored, ROWS)["shared"]
        pushes.append(gradients(scored.model, weighted(token_logps(scored, batch))))
    worst = max(far(pushes[0][name], pushes[1][name]) for name in pushes[0])
    tally(worst <= CLOSE, f"{kind} {adapter=}: {worst}")


WORDS = (
    "data=world_nano data.pairs=100 data.eval_pairs=30 data.sft_rows=100 train.steps=6 "
    "train.batch_size=16 train.log_every=1 schedule.warmup_steps=1 train.dtype=float64 logger=none"
).split()


def trained(folder, *words):
    """A run's weights, and its loss before the first step."""
    run = dpo_lab.train([*WORDS, f"outputs_dir={folder}", *words])
    weights = {}
    for path in sorted((run.folder / "final").glob("*.safetensors")):
        weights |= load_file(path)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    first = next(line["eval/loss"] for line in lines if "eval/loss" in line and not line["step"])
    return run.folder, weights, first


def test_references_that_are_the_start(tmp_path, tally):
    """Frozen, another copy of it on disk, and the policy without its adapter: one trajectory."""
    base, _, _ = trained(tmp_path, "start=sft", "start.steps=3", "start.batch_size=32")
    copy = ["model=pretrained", f"model.path={base / 'final'}", "start=as_is"]
    other = ["reference=checkpoint", f"reference.path={base / 'final'}"]
    for name, words, kinds in (
        ("full", [], {"frozen": ["reference=frozen"], "checkpoint": other}),
        (
            "lora",
            ["adapter=lora"],
            {
                "adapter_off": ["reference=adapter_off"],
                "frozen": ["reference=frozen"],
                "checkpoint": other,
            },
        ),
    ):
        found = {kind: trained(tmp_path, *copy, *words, *more) for kind, more in kinds.items()}
        expected = next(iter(found.values()))[1]
        for kind, (_, weights, first) in found.items():
            tally(abs(first - math.log(2)) <= 1e-12, f"{name} {kind}: step 0 is {first!r}")
            worst = max(far(weights[key], expected[key]) for key in expected)
            tally(worst <= CLOSE, f"{name} {kind}: {worst}")
        # one that follows the policy is the start until it first moves, after the fifth of six
        moving = trained(tmp_path, *copy, *words, "reference=ema", "reference.every=5")
        tally(abs(moving[2] - math.log(2)) <= 1e-12, f"{name} ema: step 0 is {moving[2]!r}")
        ours, theirs = (losses(folder) for folder in (moving[0], next(iter(found.values()))[0]))
        worst = max(abs(one - other) for one, other in zip(ours[:5], theirs[:5], strict=True))
        tally(worst <= CLOSE and ours[5] != theirs[5], f"{name} ema: {ours}, frozen {theirs}")


def losses(folder):
    """The loss of every update."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [x["train/loss"] for x in map(json.loads, lines) if x["event"] == "train"]
