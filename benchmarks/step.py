"""One run through `dpo_lab.train`, timed update by update; prints one JSON line.

    python benchmarks/step.py --data pairs.jsonl --model FOLDER --threads 1 --steps 7 --rows 56

The settings are those of the peer it is compared with: batches of 8 pairs in the order of the file,
AdamW at a constant 1e-4, no weight decay, clipping at 1.0, beta 0.1, at most 512 tokens. The first
two updates are not timed. CPU seconds at one thread are the figure to trust on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
WARMUP = 2


def started() -> float:
    """Wall-clock time at which this process was made, imports included (Linux; else now)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - (up - ticks / os.sysconf("SC_CLK_TCK"))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="pairs as jsonl: prompt, chosen, rejected")
    parser.add_argument("--model", required=True, help="a folder in Hugging Face format")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rows", type=int, default=56)
    parser.add_argument("--layout", default="shared", choices=["shared", "packed", "padded"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--loss", default="dpo", choices=["dpo", "simpo"])
    parser.add_argument("--lora", type=int, default=0, help="rank; 0: all weights")
    parser.add_argument("--cache", default=None, help="a cache folder; none: a fresh one")
    return parser.parse_args()


def main() -> None:
    asked = options()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    sys.path.insert(0, str(HERE))
    from dpo_lab.allocator import keep_freed_memory

    keep_freed_memory()
    import clock

    import dpo_lab

    origin = started()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data=file",
            f"data.path={asked.data}",
            f"data.limit={asked.rows}",
            "data.eval_share=0",
            "model=pretrained",
            f"model.path={asked.model}",
            "optimizer.lr=1e-4",
            "optimizer.weight_decay=0",
            "schedule=constant",
            f"train.steps={asked.steps}",
            "train.epochs=null",
            "train.batch_size=8",
            "train.shuffle=false",
            "train.log_every=1",
            "train.device=cpu",
            f"train.threads={asked.threads}",
            f"train.dtype={asked.dtype}",
            "tokens.max_length=512",
            "tokens.truncation=keep_start",
            f"layout={asked.layout}",
            f"loss={asked.loss}",
            "logger=clock",
            f"outputs_dir={folder}/outputs",
            f"cache_dir={asked.cache or folder + '/cache'}",
        ]
        overrides += ["loss.beta=0.1"] if asked.loss == "dpo" else []
        if asked.loss == "simpo":
            overrides += ["loss.beta=0.1", "loss.gamma=0.5", "eval.logratios=false"]
        if asked.lora:
            overrides += [
                "adapter=lora",
                f"adapter.r={asked.lora}",
                f"adapter.alpha={2 * asked.lora}",
            ]
        wall_offset = time.time() - time.perf_counter()
        run = dpo_lab.train(overrides, config_dir=str(HERE / "conf"))
        counts = run.record["cache"]
        layout = run.record["layout"]
    walls, cpus = zip(*clock.laps, strict=True)
    wall = [after - before for before, after in pairwise(walls)][WARMUP:]
    cpu = [after - before for before, after in pairwise(cpus)][WARMUP:]
    pairs = 8 * len(wall)
    line = {
        "impl": "dpo_lab",
        "layout": layout,
        "dtype": asked.dtype,
        "loss": asked.loss,
        "lora": asked.lora,
        "threads": asked.threads,
        "steps": asked.steps,
        "cache": counts,
        "pairs_per_cpu_s": round(pairs / sum(cpu), 3),
        "pairs_per_s": round(pairs / sum(wall), 3),
        "median_step_cpu_s": round(statistics.median(cpu), 4),
        "median_step_s": round(statistics.median(wall), 4),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "startup_to_first_step_s": round(walls[0] + wall_offset - origin, 2),
        "startup_cpu_s": round(cpus[0], 2),
        "process_s": round(time.time() - origin, 2),
        "process_cpu_s": round(time.process_time(), 2),
        "losses": clock.losses,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
