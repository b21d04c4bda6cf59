"""Whatever becomes of W&B, a run ends with the same weights, says so once, and loses no metric."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ID = "R10"
WORDS = (
    "data=world_nano data.pairs=200 data.eval_pairs=50 data.sft_rows=200 start.steps=5 "
    "start.batch_size=32 train.steps=150 train.batch_size=16 schedule.warmup_steps=1 "
    "train.log_every=1 seed=3"
).split()
FAKE = {
    "absent": "raise ModuleNotFoundError(\"No module named 'wandb'\")",
    "log_raises": """
class Run:
    summary = {}
    def log(self, *given, **named): raise OSError(28, "No space left on device")
    def finish(self, **named): pass
def Settings(**named): pass
def init(**named): return Run()
""",
}
# mkdir of a folder of that name fails, as where a user may not write
NO_FOLDER = """
import sys
def hook(event, arguments):
    if event == "os.mkdir" and str(arguments[0]).rstrip("/").endswith("/wandb"):
        raise PermissionError(13, "Permission denied", arguments[0])
sys.addaudithook(hook)
"""
DELAY = 5  # seconds that W&B may cost a run, whatever becomes of it
SCENARIOS = "absent no_key no_network black_hole killed log_raises no_folder disk_full".split()


def environment(tmp_path, name):
    """What W&B finds; nothing of the user's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    own = {"HOME": str(tmp_path), "WANDB_API_KEY": "0" * 40} | (
        {"no_network": {"WANDB_BASE_URL": "http://127.0.0.1:9"}}.get(name, {})
    )
    if name == "no_key":
        del own["WANDB_API_KEY"]
    shim = tmp_path / "shim"
    shim.mkdir(exist_ok=True)
    if name in FAKE:
        (shim / "wandb.py").write_text(FAKE[name])
    if name == "no_folder":
        (shim / "sitecustomize.py").write_text(NO_FOLDER)
    return kept | own | {"PYTHONPATH": str(shim)}


def left(folder):
    """Processes that the run left behind, by the folder in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (place / "environ").read_bytes():
                found.append(place.name)
    return found


def services(pid):
    """Processes of W&B's that a run, or its follower, has started."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(") ")
            parents[int(place.name)], names[int(place.name)] = int(rest.split()[1]), name
    return [
        child for child, parent in parents.items()
        if "wandb" in names[child] and pid in (parent, parents.get(parent))
    ]  # fmt: skip


def hurt(process, outputs, what):
    """Wait for step 5 and the service, then do something to the service."""
    while process.poll() is None:
        steps = [
            line
            for path in outputs.glob("*/*/metrics.jsonl")
            for line in path.read_text().splitlines()
        ]
        pids = services(process.pid)
        if len(steps) > 6 and pids:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    what(pid)
            return True
        time.sleep(0.02)
    return False


HURTS = {
    "killed": lambda pid: os.kill(pid, signal.SIGKILL),
    "disk_full": lambda pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0)),
}


def run(tmp_path, name, *words, env):
    """Train in a process of its own: (folder, seconds, what was said, whether it was hurt)."""
    outputs = tmp_path / "outputs"
    begun = time.monotonic()
    command = [sys.executable, "-m", "dpo_lab", *WORDS, f"outputs_dir={outputs}", *words]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    reached = name not in HURTS or hurt(process, outputs, HURTS[name])
    said, _ = process.communicate(timeout=300)
    seconds = time.monotonic() - begun
    assert process.returncode == 0, said
    (folder,) = outputs.glob("*/*")
    return folder, seconds, said, reached


def weights(folder):
    (file,) = (folder / "final").glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def metrics(folder):
    """What was measured, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "perf/")
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in lines]


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The run without W&B, made twice: the first one fills the cache."""
    for turn in range(2):
        place = tmp_path_factory.mktemp(f"without{turn}")
        folder, seconds, _, _ = run(place, "", "logger=none", env=dict(os.environ))
    return folder, seconds


@pytest.fixture
def silent_host():
    """A host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_does_not_notice(tmp_path, tally, without, silent_host, name):
    env = environment(tmp_path, name)
    online = name in ("no_key", "no_network", "black_hole")
    if name == "black_hole":
        env["WANDB_BASE_URL"] = silent_host
    words = ["logger=wandb", f"logger.mode={'online' if online else 'offline'}"]
    folder, seconds, said, reached = run(tmp_path, name, *words, env=env)
    warnings = [line for line in said.splitlines() if "W&B" in line]
    plain, usual = without
    print(f"{name}: {seconds - usual:+.1f} s, {warnings}")
    same = weights(folder) == weights(plain) and metrics(folder) == metrics(plain)
    # a folder elsewhere is as good to W&B as its own, and a full disk need not be said
    once = len(warnings) == 1 or (name in ("no_folder", "disk_full") and not warnings)
    calm = "Traceback" not in said
    calm = calm and not left(tmp_path)
    soon = seconds - usual <= DELAY
    tally(
        same and once and calm and reached and soon,
        f"{name}: {same=} {once=} {calm=} {soon=} {said[-1500:]}",
    )


def test_one_command_makes_the_wandb_run_again(tmp_path, tally, without):
    """A fake W&B writes down what it is given."""
    folder, _ = without
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "wandb.py").write_text("""
import json, types
api = types.SimpleNamespace(api_key="x")
out = open("given.jsonl", "w")
class Run:
    summary = {}
    def log(self, metrics, step): out.write(json.dumps([step, metrics]) + "\\n")
    def finish(self, exit_code): out.write(json.dumps(["end", self.summary]) + "\\n"); out.close()
def Settings(**named): pass
def init(**named):
    out.write(json.dumps([named["mode"], named["project"], named["config"]["seed"]]) + "\\n")
    return Run()
""")
    done = subprocess.run(
        [sys.executable, "-m", "dpo_lab", "upload", str(folder), "project=again"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(shim)},
    )  # fmt: skip
    begun, *given, (_, summary) = map(
        json.loads, (tmp_path / "given.jsonl").read_text().splitlines()
    )
    tally(done.returncode == 0 and begun == ["online", "again", 3], f"{begun} {done.stderr}")
    expected = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lost = [
        (line["step"], name)
        for line, (step, metrics) in zip(expected, given, strict=True)
        for name, value in line.items()
        if isinstance(value, int | float) and name != "time"
        and {**metrics, "step": step}.get(name) != value
    ]  # fmt: skip
    tally(not lost, f"lost {lost[:5]}")
    tally(
        summary["eval/loss"] == [x for x in expected if "eval/loss" in x][-1]["eval/loss"], "last"
    )
