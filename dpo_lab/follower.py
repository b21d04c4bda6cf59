"""The process that shows a run to W&B: it reads `metrics.jsonl` while the run writes it.

It is started as a script by `dpo_lab.loggers`, which can end it together with whatever W&B has
started; nothing that W&B does, or waits for, reaches the run. Standard input holds one line of JSON
(`metrics`: the file, `settings`: what `wandb.init` takes), then, at the end, `done` or `failed`.
"""

import json
import os
import select
import sys


def main() -> None:
    """Follow until the word comes, or until the run is gone."""
    order = json.loads(sys.stdin.readline())
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_MODE"] = order["settings"]["mode"]  # else an offline run looks for its host
    import wandb

    settings = wandb.Settings(
        console="off", init_timeout=60, x_disable_stats=True, x_disable_meta=True, silent=True
    )
    live = wandb.init(**order["settings"], settings=settings)
    summary = {}
    position, word = 0, None
    while word is None:
        if select.select([sys.stdin], [], [], 0.2)[0]:
            word = sys.stdin.readline().strip()
        if not os.path.exists(order["metrics"]):
            continue
        with open(order["metrics"], "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written
                position += len(line)
                event = json.loads(line)
                step = event.pop("step")
                numbers = {
                    name: value
                    for name, value in event.items()
                    if name != "time" and isinstance(value, int | float)
                }
                summary |= numbers
                live.log({"step": step, **numbers}, step=step)
    live.summary.update(summary)
    live.finish(exit_code=int(word != "done"))


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # SystemExit too: W&B ends processes
        text = " ".join(str(error).split())
        print(f"{type(error).__name__}: {text[:160]}", file=sys.stderr, flush=True)
        os._exit(1)  # without waiting for what W&B waits for
