"""The data card: what a glance at the pairs should tell before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpo_lab.batch import Example, Text
from dpo_lab.source import Source
from dpo_lab.turns import common_prefix

SHOWN = 3
NEAR = 0.95
SIDES = ("prompt", "chosen", "rejected")


def card(source: Source, lengths: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
    """Describe the pairs of a source; training rows first, then held-out ones.

    - `lengths`: tokens of each row's `prompt`, `chosen` and `rejected`, in that order of rows.

    Returns plain data:

    - `rows`: how many to train on, held out, skipped; `prompts`: how many different ones.
    - `characters`, `tokens`: of each side, mean, median, 5% and 95% quantile, and the longest.
    - `chosen_longer`, `same_length`: shares of pairs, by characters of the responses.
    - `duplicates`: rows that repeat an earlier one; `reversed`: rows that repeat an earlier one
      with chosen and rejected exchanged; `identical`: pairs whose sides are the same but for white
      space and case; `near_identical`: pairs whose sides share a beginning and an end that cover
      95% of the longer; `overlap`: held-out rows whose prompt is also trained on. Each with a
      `count` and the names of the first three `rows`.
    """
    rows = [*source.train, *source.eval]
    pairs = [row for row in rows if row.rejected is not None]
    characters = {
        side: [len(_flat(getattr(row, side))) for row in (pairs if side == "rejected" else rows)]
        for side in SIDES
    }
    gaps = [len(_flat(row.chosen)) - len(_flat(row.rejected or "")) for row in pairs]
    trained = {row.prompt for row in source.train}
    result: dict[str, Any] = {
        "rows": {
            "train": len(source.train),
            "eval": len(source.eval),
            "skipped": source.report.get("skipped", 0) + source.report.get("eval_skipped", 0),
        },
        "prompts": len(trained | {row.prompt for row in source.eval}),
        "unused_columns": source.report.get("unused_columns", []),
        "characters": {side: _quantiles(sizes) for side, sizes in characters.items()},
        "chosen_longer": sum(gap > 0 for gap in gaps) / len(gaps) if gaps else None,
        "same_length": sum(gap == 0 for gap in gaps) / len(gaps) if gaps else None,
        **_repeats(pairs),
        **_alike(pairs),
        "overlap": _named(row.row for row in source.eval if row.prompt in trained),
    }
    if lengths is not None:
        result["tokens"] = {side: _quantiles(lengths[side]) for side in SIDES}
    return result


def render(card: Mapping[str, Any]) -> str:
    """The card as text, about twenty lines."""
    counts = card["rows"]
    lines = [
        f"rows            {counts['train']:,} to train on, {counts['eval']:,} held out, "
        f"{counts['skipped']:,} skipped; {card['prompts']:,} prompts"
    ]
    for unit in ("characters", "tokens"):
        for side in SIDES if unit in card else ():
            size = card[unit][side]
            if size is not None:
                lines.append(
                    f"{side:<9}{unit:<11} median {size['median']:,}, 5% to 95%: "
                    f"{size['p5']:,} to {size['p95']:,}, longest {size['max']:,}"
                )
    if card["chosen_longer"] is not None:
        lines.append(
            f"chosen longer   in {card['chosen_longer']:.1%} of pairs, "
            f"as long in {card['same_length']:.1%}"
        )
    for key, meaning in (
        ("duplicates", "rows repeat an earlier row"),
        ("reversed", "rows repeat an earlier row with chosen and rejected exchanged"),
        ("identical", "pairs are the same but for white space and case"),
        ("near_identical", f"pairs share {NEAR:.0%} of their text"),
        ("overlap", "held-out rows have a prompt that is also trained on"),
    ):
        found = card[key]
        more = ", ..." if found["count"] > len(found["rows"]) else ""
        names = f" ({', '.join(found['rows'])}{more})" if found["count"] else ""
        lines.append(f"{key.replace('_', ' '):<15} {found['count']:,} {meaning}{names}")
    if card["unused_columns"]:
        names = [ascii(name)[1:-1][:40] for name in card["unused_columns"][:12]]
        lines.append(f"columns unused  {', '.join(names)}")
    return "\n".join(lines)


def _flat(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(message.content for message in text)


def _quantiles(sizes: Sequence[int]) -> dict[str, float] | None:
    if not sizes:
        return None
    ordered = sorted(sizes)
    last = len(ordered) - 1
    at = {"p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {
        "mean": round(sum(ordered) / len(ordered), 1),
        **{name: ordered[round(share * last)] for name, share in at.items()},
    }


def _named(names: Iterable[str]) -> dict[str, Any]:
    listed = list(names)
    return {"count": len(listed), "rows": listed[:SHOWN]}


def _repeats(pairs: Sequence[Example]) -> dict[str, Any]:
    """Rows that an earlier row equals, as it is or with its sides exchanged."""
    seen: set[tuple[Text, Text, Text | None]] = set()
    repeated, exchanged = [], []
    for row in pairs:
        if (row.prompt, row.chosen, row.rejected) in seen:
            repeated.append(row.row)
        if (row.prompt, row.rejected, row.chosen) in seen and row.chosen != row.rejected:
            exchanged.append(row.row)
        seen.add((row.prompt, row.chosen, row.rejected))
    return {"duplicates": _named(repeated), "reversed": _named(exchanged)}


def _alike(pairs: Sequence[Example]) -> dict[str, Any]:
    """Pairs whose two sides differ in nothing that matters, or in very little."""
    identical, near = [], []
    for row in pairs:
        chosen, rejected = _flat(row.chosen), _flat(row.rejected or "")
        if _folded(chosen, rejected):
            identical.append(row.row)
        elif _nearly(chosen, rejected):
            near.append(row.row)
    return {"identical": _named(identical), "near_identical": _named(near)}


def _folded(first: str, second: str) -> bool:
    """Whether two texts are equal but for white space and case."""
    heads = [text[:64].casefold().split() for text in (first, second)]
    whole = min(map(len, heads)) - 1  # the last word of a head may be cut
    if whole > 0 and heads[0][:whole] != heads[1][:whole]:
        return False
    return first.casefold().split() == second.casefold().split()


def _nearly(first: str, second: str) -> bool:
    """Whether a common beginning and a common end cover 95% of the longer text."""
    short, long = sorted((len(first), len(second)))
    if short < NEAR * long:
        return False
    half = int(NEAR * long / 2)  # one of the two must be at least so long
    if first[:half] != second[:half] and first[-half:] != second[-half:]:
        return False
    start = common_prefix(first, second)
    end = common_prefix(first[start:][::-1], second[start:][::-1])
    return start + end >= NEAR * long
