"""What comes from others is data: no code is run, no pickle is read, and nobody is called."""

import gzip
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from networks import tiny

ID = "R16"
ROW = '{"prompt": "q%d", "chosen": "yes please", "rejected": "no thanks"}\n'
# every address that a process looks up or connects to, but those of this machine itself
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        where = arguments[1] if event == "socket.connect" else arguments[0]
        host = where[0] if isinstance(where, tuple) else where
        local = isinstance(host, bytes) or str(host) in ("None", "127.0.0.1", "::1", "localhost")
        if not local and not str(host).startswith("/"):
            with open(os.environ["CALLS"], "a") as file:
                file.write(f"{event} {host}\\n")
sys.addaudithook(hook)
"""


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def model(tmp_path):
    """A model folder as people share them, with a tokenizer."""
    from dpo_lab.tokenizer import Tokenizer

    folder = tmp_path / "model"
    tokenizer = Tokenizer.train(["yes please", "no thanks"], 300)
    tiny("llama", vocab_size=300).save_pretrained(folder)
    tokenizer.save(folder)
    (tmp_path / "rows.jsonl").write_text("".join(ROW % number for number in range(8)))
    return folder


def dpo_lab(tmp_path, *words):
    """The command line, with its calls to others in `calls`."""
    (tmp_path / "shim").mkdir(exist_ok=True)
    (tmp_path / "shim" / "sitecustomize.py").write_text(WATCH)
    own = {"PYTHONPATH": str(tmp_path / "shim"), "CALLS": str(tmp_path / "calls")}
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "WANDB_MODE")}
    command = [sys.executable, "-m", "dpo_lab", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=kept | own, timeout=200
    )


TRAIN = (
    "data=file data.path=rows.jsonl data.eval_share=0.3 model=pretrained model.path=model "
    "start=as_is train.epochs=1 train.batch_size=4 logger.mode=offline"
).split()


def test_a_whole_run_calls_nobody(tmp_path, tally, model):
    done = dpo_lab(tmp_path, *TRAIN)
    tally(done.returncode == 0, done.stderr[-800:])
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    tally(not calls, f"it called {calls[:300]}")
    done = dpo_lab(tmp_path, "check", "data=file", "data.path=rows.jsonl")
    tally(done.returncode == 0 and not (tmp_path / "calls").exists(), "check")


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_folder_is_not_run(tmp_path, tally, model, where):
    canary = tmp_path / "canary"
    (model / "mine.py").write_text(f"import os; os.mkdir({str(canary)!r})\nclass Mine: pass\n")
    config = json.loads((model / where).read_text())
    classes = {"AutoModelForCausalLM": "mine.Mine", "AutoConfig": "mine.Mine"}
    config["auto_map"] = classes | {"AutoTokenizer": ["mine.Mine", None]}
    (model / where).write_text(json.dumps(config))
    done = dpo_lab(tmp_path, *TRAIN)
    refused = done.returncode == 2 and "code of its own" in done.stderr
    # a tokenizer's files are read by the lab itself, which knows no code
    tally(refused or where != "config.json", f"{where}: {done.returncode} {done.stderr[-500:]}")
    tally(not canary.exists(), f"{where}: its code was run")


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path, tally, model):
    canary = tmp_path / "canary"
    for path in model.glob("*.safetensors"):
        path.unlink()
    torch.save({"weights": Canary(canary)}, model / "pytorch_model.bin")
    done = dpo_lab(tmp_path, *TRAIN)
    tally(done.returncode == 2 and "pickle" in done.stderr, done.stderr[-500:])
    tally(not canary.exists(), "it was unpickled")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_data_that_is_a_pickle_is_refused(tmp_path, tally, ending):
    canary = tmp_path / "canary"
    for protocol in (0, 2, 4, 5):
        data = pickle.dumps([Canary(canary)], protocol)
        path = tmp_path / f"rows{protocol}.{ending}"
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
        done = dpo_lab(tmp_path, "check", "data=file", f"data.path={path}")
        right = done.returncode == 2 and path.name in done.stderr and "Traceback" not in done.stderr
        tally(right and not canary.exists(), f"{path.name}: {done.returncode} {done.stderr[-300:]}")
