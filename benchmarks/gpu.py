"""Steps of DPO on a GPU in bfloat16, in each layout, with and without the same bits every time.

    python benchmarks/gpu.py

Prints, for a Llama of 0.06B and one of 1.0B parameters: median milliseconds of a step of 16 pairs
(prompts of 50 to 300 tokens, answers of 20 to 200), and the peak of the GPU's memory.
"""

from __future__ import annotations

import random
import statistics
import time
from types import SimpleNamespace

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.batch import Encoded
from dpo_lab.layouts import LAYOUTS, lay_out
from dpo_lab.policy import Policy
from dpo_lab.repeatable import repeatable
from dpo_lab.scoring import logps

VOCAB, PAIRS, STEPS = 32_000, 16, 12
TOKENIZER = SimpleNamespace(vocab_size=VOCAB, bos_id=1, eos_id=2, pad_id=0, chat_template=None)
NETWORKS = {
    "0.06B": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "1.0B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16},
}


def rows(number: int) -> list[Encoded]:
    draw = random.Random(0)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(3, VOCAB) for _ in range(draw.randint(least, most))]

    return [Encoded(ids(50, 300), ids(20, 200), ids(20, 200)) for _ in range(number)]


def step_times(policy: Policy, optimizer: torch.optim.Optimizer, layout: str) -> list[float]:
    """Seconds of each step after the first two."""
    data, times = rows(2 * PAIRS), []
    for step in range(STEPS + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        taken = range(PAIRS) if step % 2 else range(PAIRS, 2 * PAIRS)
        batch = lay_out(data, taken, layout, pad_id=0, paired=True).to(policy.device)
        with policy.autocast():
            scored = logps(policy, batch)
        margin = scored.chosen.total - scored.rejected.total
        (-logsigmoid(0.1 * margin).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[2:]


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {PAIRS} pairs a step")
    for name, sizes in NETWORKS.items():
        config = LlamaConfig(
            vocab_size=VOCAB, intermediate_size=int(2.6875 * sizes["hidden_size"]), **sizes
        )
        policy = Policy(LlamaForCausalLM(config), TOKENIZER, dtype="bfloat16", device="cuda")
        parameters = [parameter for _, parameter in policy.trainable()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
        for layout in LAYOUTS:
            for same in (True, False, True, False):  # in turns: machines are noisy
                torch.cuda.reset_peak_memory_stats()
                with repeatable("cuda", same):
                    times = step_times(policy, optimizer, layout)
                print(
                    f"{name}  {layout:7}  deterministic={str(same).lower():5}  "
                    f"{1e3 * statistics.median(times):6.1f} ms  "
                    f"{torch.cuda.max_memory_allocated() / 2**20:6.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
