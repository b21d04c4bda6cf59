"""How long a wrong option, `--help` and a wrong file take to be answered; prints a table.

python benchmarks/messages.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINES = [
    ["loss.betta=1"],
    ["+loss.betta=1"],
    ["++loss.betta=1"],
    ["loss.beta=abc"],
    ["loss.beta=-1"],
    ["loss=dppo"],
    ["loss=dpo", "reference=none"],
    ["-m", "loss.beta=0.1,-1"],
    ["data=file", "data.path=missing.jsonl"],
    ["data=file", "data.path={broken}"],
    ["--help"],
]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.jsonl"
        row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        broken.write_text(row * 2 + '{"prompt": "a", \n' + row)
        medians = []
        for words in LINES:
            words = [word.format(broken=broken) for word in words]
            times = []
            for _ in range(runs):
                before = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "dpo_lab", *words], capture_output=True, text=True
                )
                times.append(time.perf_counter() - before)
            said = (done.stderr or done.stdout).splitlines()
            medians.append(statistics.median(times))
            print(f"{medians[-1]:6.3f} s  status {done.returncode}  {' '.join(words)[:50]}")
            if done.returncode:
                print("".join(f"{'':19}| {text[:100]}\n" for text in said), end="")
    print(f"{statistics.median(medians[:-1]):6.3f} s  median of the refusals")
    print(f"{medians[-1]:6.3f} s  --help")


if __name__ == "__main__":
    main()
