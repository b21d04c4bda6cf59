"""The built-in world as a source of data: `data=world` and its sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from inspect import signature
from typing import Annotated, Any, Literal

import numpy as np

from dpo_lab.errors import Refused
from dpo_lab.ranges import Finite, NonNegative, Positive, Range, Share
from dpo_lab.source import Later, Source, digest_of
from dpo_lab.spelling import did_you_mean
from dpo_lab.worlds import language
from dpo_lab.worlds.pairs import EVAL, TRAIN, draw_pairs, draw_sequences
from dpo_lab.worlds.tree import Tree
from dpo_lab.worlds.truth import Recipe, World

MAX_LEAVES = 4_000_000  # 32 MB for each prompt and each quantity


def world(
    *,
    words: str = "good great bad awful not very film and",
    depth: Annotated[int, Range(ge=1, le=20)] = 5,
    stop: Annotated[float, Range(gt=0, lt=1)] = 0.22,
    pairs: Annotated[int, Range(ge=1, le=10_000_000)] = 20_000,
    eval_pairs: Annotated[int, Range(ge=1, le=10_000_000)] = 1_000,
    sft_rows: Annotated[int, Range(ge=1, le=10_000_000)] = 65_536,
    pair_source: Literal["grammar", "start"] = "grammar",
    off_policy: Annotated[float, Share] = 0.0,
    near_duplicates: Annotated[float, Share] = 0.0,
    temperature: Annotated[float, NonNegative] = 1.0,
    flips: Annotated[float, Share] = 0.0,
    length_bias: Annotated[float, Finite] = 0.0,
    length_neutral_beta: Annotated[float | None, Positive] = None,
    proxy_noise: Annotated[float, NonNegative] = 0.0,
    held_out: list[str] | None = None,
    seed: Annotated[int, Range(ge=0)] = 0,
    world_seed: Annotated[int, Range(ge=0)] = 0,
) -> Source:
    """A synthetic preference world, small enough to enumerate: all its expectations are exact.

    - `words`: the V words of a response, separated by spaces; those of `language.VALENCES`, `not`
      and `very` mean something, any others do not.
    - `depth`: T, the most words of a response; one of T words is cut there and has no EOS.
    - `stop`: probability that a writer stops; after i words it is stop (1 + 0.15 i), at most 0.9.
    - `pairs`, `eval_pairs`, `sft_rows`: how many of each; the three are drawn independently.
    - `pair_source`: who writes the responses in pairs, the grammar or the policy's start. With
      `start` the rows are drawn by `with_pairs` once the start exists; until then there are none.
    - `off_policy`: share of responses that come from another writer instead (another grammar).
    - `near_duplicates`: share of pairs whose responses differ in one word only.
    - `temperature`: of the labels: P(first preferred) = sigmoid(difference of scores /
      temperature); 0: the better one, always.
    - `flips`: probability that a label is then turned round.
    - `length_bias`: what the annotator adds to a score for each scored token.
    - `length_neutral_beta`: b; the true reward becomes r - b log E[exp(r / b) | length] for each
      prompt and number of scored tokens, under the grammar (`pair_source=start`: under the start).
      Then pi*_b has the lengths of that very reference, and no other pi* has: choose b as
      temperature times the beta of the loss.
    - `proxy_noise`: standard deviation of a fixed error, one for each prompt and response, in the
      reward that the annotator sees.
    - `held_out`: prompts without training pairs. SFT rows and evaluation pairs have all prompts.
    - `seed`: of pairs and labels. `world_seed`: of the language, the grammars, the noise and the
      SFT rows, so that a sweep over `seed` shares one start.

    Raises `Refused` for words that clash, an unknown prompt in `held_out`, or too many leaves.
    """
    return _source(dict(locals()))


def judged(reward: Callable[[str, str], float], **knobs: Any) -> Source:
    """`world(**knobs)` with a true reward of one's own.

    - `reward`: how good a response is to a prompt, both as text, words joined by one space; finite.

    Raises `Refused` for a reward that is not finite, and as `world` does.
    """
    known = signature(world).parameters
    for name in knobs:
        if name not in known:
            raise Refused(f"a world has no {name}{did_you_mean(name, known)}")
    return _source({name: one.default for name, one in known.items()} | knobs, reward)


def _source(knobs: Mapping[str, Any], reward: Callable[[str, str], float] | None = None) -> Source:
    of_language = ("words", "depth", "stop", "world_seed")
    truth = _truth(*(knobs[name] for name in of_language))
    written = {name: knobs[name] for name in (*of_language, "sft_rows")}
    more = {}
    if reward is not None:
        truth = replace(truth, reward=_judged(truth, reward))
        more = {"reward": hashlib.sha256(truth.reward.tobytes()).hexdigest()}
    of_recipe = {field.name: knobs[field.name] for field in fields(Recipe)}
    of_recipe["held_out"] = _held_out(knobs["held_out"] or [])
    truth = replace(truth, recipe=Recipe(**of_recipe))
    seed = knobs["world_seed"]
    if knobs["off_policy"]:
        rng = np.random.default_rng([seed, 1])
        other = language.grammar(truth.tree, truth.words, knobs["stop"], rng)
        truth = replace(truth, other=truth.tree.fold(other))
    if knobs["proxy_noise"]:
        noise = np.random.default_rng([seed, 2]).standard_normal(truth.reward.shape)
        truth = replace(truth, noise=knobs["proxy_noise"] * noise)
    return as_source(
        truth, {**knobs, **more}, sft_rows=knobs["sft_rows"], sft_seed=seed, sft_knobs=written
    )


def _judged(world: World, reward: Callable[[str, str], float]) -> np.ndarray:
    """(P, n) the reward of every response."""
    texts = world.texts(np.arange(world.tree.num_leaves))
    values = np.array([[reward(prompt, text) for text in texts] for prompt in world.prompts], float)
    if not np.isfinite(values).all():
        prompt, leaf = np.argwhere(~np.isfinite(values))[0]
        raise Refused(
            f"the reward of {texts[leaf]!r} to {world.prompts[prompt]!r} is {values[prompt, leaf]}"
            "\nreturn a finite number for every response"
        )
    return values


@lru_cache(maxsize=1)
def _truth(words: str, depth: int, stop: float, seed: int) -> World:
    """The language and its first writer, which runs that differ in their pairs have in common."""
    vocabulary = _words(words)
    tree = _tree(len(vocabulary), depth)
    rng = np.random.default_rng(seed)
    worth = language.valences(vocabulary, rng)
    return World(
        words=vocabulary,
        prompts=language.PROMPTS,
        tree=tree,
        reward=language.reward(tree, vocabulary, worth),
        grammar=tree.fold(language.grammar(tree, vocabulary, stop, rng)),
        recipe=Recipe(),
    )


def as_source(
    world: World,
    knobs: dict[str, Any],
    *,
    sft_rows: int,
    sft_seed: int,
    sft_knobs: dict[str, Any] | None = None,
) -> Source:
    """What the lab trains on, from a world: also the way in for a world of one's own.

    - `knobs`: all that determines the world, as plain data; they become the digest.
    - `sft_knobs`: those that determine the SFT sequences, so that runs that differ in others share
      them; None: all.

    With `recipe.pair_source == "start"` there are no pairs yet, and `world.source` is None:
    `with_pairs` draws them once the start exists.
    """
    source = Source(
        train=[],
        eval=[],
        sft=Later(
            sft_rows, lambda: world.examples(draw_sequences(world, sft_rows, sft_seed), "sft")
        ),
        sft_digest=digest_of("world sft", sft_knobs or knobs),
        digest=digest_of("world", knobs),
        report={
            "prompts": len(world.prompts),
            "leaves": world.tree.num_leaves,
            "sft_rows": sft_rows,
        },
        world=world,
    )
    return source if world.recipe.pair_source == "start" else with_pairs(source, world.grammar)


def with_pairs(source: Source, writer: np.ndarray) -> Source:
    """The same source with its pairs drawn, their responses written by `writer`.

    - `writer`: (P, n) log-probabilities: of the policy's start, as `enumeration.leaf_logps` gives
      them, where `pair_source` is `start`.

    The world in it is new too: its `source` is set, and its reward length-neutral under `writer`
    where the recipe asks for that. The digest covers the pairs drawn, since a start is not a knob.
    """
    truth = source.world
    assert truth is not None
    recipe = truth.recipe
    if recipe.length_neutral_beta is not None:
        truth = replace(truth, reward=_neutral(truth, writer, recipe.length_neutral_beta))
    truth = replace(truth, source=_mixed(truth, writer))
    train = draw_pairs(truth, recipe.pairs, TRAIN)
    held = draw_pairs(truth, recipe.eval_pairs, EVAL)
    digest = hashlib.sha256(source.digest.encode())
    for column in [*train, *held]:
        digest.update(np.ascontiguousarray(column).tobytes())
    ties = int((train.chosen == train.rejected).sum())
    return replace(
        source,
        train=truth.examples(train, "pair"),
        eval=truth.examples(held, "eval"),
        digest=digest.hexdigest(),
        report=source.report
        | {"pairs": recipe.pairs, "eval_pairs": recipe.eval_pairs, "ties": ties},
        world=truth,
    )


def _mixed(world: World, writer: np.ndarray) -> np.ndarray:
    """Log-probabilities (P, n) of the responses in pairs: the writer's, some of them off-policy."""
    share = world.recipe.off_policy
    if share == 0:
        return writer
    assert world.other is not None
    with np.errstate(divide="ignore"):  # a share of 1 leaves nothing of the writer: log 0
        return np.logaddexp(np.log1p(-share) + writer, np.log(share) + world.other)


def _neutral(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """The reward (P, n) minus beta log E_ref[exp(reward / beta) | scored tokens]."""
    tokens = world.tree.tokens
    out = world.reward.copy()
    for length in range(1, world.tree.depth + 1):
        of = np.flatnonzero(tokens == length)
        logps = reference[:, of]
        lifted = logps + world.reward[:, of] / beta
        out[:, of] -= beta * (_log_sum(lifted) - _log_sum(logps))
    return np.round(out, 12)


def _log_sum(values: np.ndarray) -> np.ndarray:
    """(P, 1) log of the sum of exponentials over the columns."""
    top = values.max(axis=1, keepdims=True)
    return top + np.log(np.exp(values - top).sum(axis=1, keepdims=True))


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split())
    taken = {World.pad, World.eos, World.bos, *" ".join(language.PROMPTS).split()}
    clash = [word for word in dict.fromkeys(words) if word in taken or words.count(word) > 1]
    if clash or len(words) < 2:
        raise Refused(
            f"data.words: expected at least two different words, none of a prompt, got {text!r}\n"
            f"{'change ' + ', '.join(clash) if clash else 'add words'}"
        )
    return words


def _tree(num_words: int, depth: int) -> Tree:
    tree = Tree(num_words, depth)
    if tree.num_leaves > MAX_LEAVES:
        raise Refused(
            f"data.depth={depth} with {num_words} words makes {tree.num_leaves:,} responses, "
            f"at most {MAX_LEAVES:,} can be enumerated\ntake fewer words or a smaller data.depth"
        )
    return tree


def _held_out(names: list[str]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in language.PROMPTS]
    if unknown:
        raise Refused(
            f"data.held_out: there is no prompt {', '.join(unknown)}\n"
            f"there are {', '.join(language.PROMPTS)}"
        )
    if set(names) == set(language.PROMPTS):
        raise Refused("data.held_out: all prompts are held out, none is left to train on")
    return tuple(sorted({language.PROMPTS.index(name) for name in names}))
