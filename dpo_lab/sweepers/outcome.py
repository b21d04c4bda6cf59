"""What a search has found: `search.json`, and the lines at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab.jobs import of_run
from dpo_lab.launchers.job import told
from dpo_lab.live import Tail
from dpo_lab.sweepers.goal import Goal
from dpo_lab.sweepers.space import Space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# what a trial is called that has not been told: by the state that Optuna gives it
_UNTOLD = {"RUNNING": "not ended", "WAITING": "to be tried again", "FAIL": "lost"}
_ORDER = ("done", "pruned", "no value", "failed", *_UNTOLD.values())


def outcome(
    trials: Sequence[FrozenTrial], space: Space, goal: Goal, config_dir: str | None
) -> dict[str, Any]:
    """What `search.json` holds: the goal, the best trials (of several metrics: the Pareto front),
    how many trials ended how, the training steps of all, and every trial.
    """
    again = {trial.user_attrs.get("again") for trial in trials}
    rows = [_row(trial) for trial in trials]
    told_of = [row for row in rows if row["state"] == "done"]
    best = [dict(told_of[place]) for place in goal.best([row["measured"] for row in told_of])]
    endings = Counter(row["state"] for row in rows if row["trial"] not in again)
    where = ["--config-dir", config_dir] if config_dir else []
    for row in best:
        row["command"] = shlex.join(["dpo-lab", *of_run(space.fill(row["overrides"])), *where])
    return {
        "searched": [f"{one.key} in {_range(one)}" for one in space.dimensions],
        "maximize": list(goal.maximize),
        "minimize": list(goal.minimize),
        "at_most": dict(goal.at_most),
        "ended": {state: endings[state] for state in _ORDER if endings[state]},
        "steps": sum(row["steps"] for row in rows),
        "best": best,
        "trials": rows,
    }


def lines(found: dict[str, Any], goal: Goal) -> list[str]:
    """The same for a person: how many, what is best, and what to type to have it again."""
    ended, best = found["ended"], found["best"]
    parts = ", ".join(f"{count} {state}" for state, count in ended.items())
    text = [f"search: {sum(ended.values())} trials: {parts}; {found['steps']:,} steps trained"]
    if not best:
        kept = " and ".join(f"{name} <= {most:g}" for name, most in goal.at_most.items())
        return [*text, f"no run that is done keeps {kept}" if kept else "no run has a value"]
    if len(goal.metrics) > 1:
        text.append(f"Pareto front of {' and '.join(goal.metrics)}, {len(best)} runs:")
    else:
        text.append("best:")
    for row in best:
        text.append(f"  {goal.words(row['measured'])}  (trial {row['trial']})")
        text.append(f"    {row['command']}")
    return text


def newest_checkpoint(folder: Path) -> int:
    """The step from which a run would go on; 0 for its beginning."""
    found = (folder / "checkpoints").glob("step_*")
    return max((int(path.name[5:]) for path in found), default=0)


def reached(folder: Path) -> int:
    """How many steps a run has done, as far as its folder knows."""
    status = told(folder / "status.json")
    if status.get("state") == "done" and isinstance(status.get("step"), int):
        return status["step"]
    tail = Tail(folder, 0.0)
    tail.read()
    return max(tail.step, newest_checkpoint(folder))


def _row(trial: FrozenTrial) -> dict[str, Any]:
    run, end = (trial.user_attrs.get(name, {}) for name in ("run", "end"))
    return {
        "trial": trial.number,
        "state": end.get("ending", _UNTOLD.get(trial.state.name, "not ended")),
        "overrides": run.get("overrides", []),
        "measured": end.get("measured", {}),
        "steps": end.get("steps", 0) + trial.user_attrs.get("lost", 0),
        "folder": run.get("folder", ""),
        "reason": end.get("reason", ""),
    }


def _range(one: Any) -> str:
    if one.low is None:
        return ", ".join(one.words)
    if one.words:
        return f"{one.words[0]} to {one.words[-1]} by {one.step:g}" + (", log" if one.log else "")
    return f"{one.low:g} to {one.high:g}" + (", log" if one.log else "")
