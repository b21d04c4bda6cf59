"""Data as people have it: every malformed file is refused and says why, every odd one is read."""

import contextlib
import hashlib
import io
import json
import subprocess
import sys

import pytest
from corpus_bad import bad
from corpus_good import good

from dpo_lab.__main__ import main
from dpo_lab.data import file
from dpo_lab.rows import write_rejects

ID = "R5"
QUICK = ("model.vocab_size=300",)
WATCHED = (
    "import sys; from dpo_lab.__main__ import main; status = main(sys.argv[1:]); "
    "print('torch._C' in sys.modules, file=sys.stderr); sys.exit(status)"
)
GOOD = {case.name: case for case in good()}
BAD = {case.name: case for case in bad()}


def line(path, case, *more):
    """`check` of a file, its name quoted as a person would have to."""
    quoted = str(path).replace("'", "\\'")
    words = ["check", *case.words, f"data.path='{quoted}'", *more]
    return words if any(word.startswith("data=") for word in words) else [*words, "data=file"]


def check(words):
    """Status, output and errors of the command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return status, out.getvalue(), err.getvalue()


def put(folder, case):
    path = folder / case.name
    path.write_bytes(case.data)
    return path


def complaint(case, status, out, err):
    """What is wrong with the answer to a bad file; nothing where it is as it should be."""
    lost = [say for say in (case.name, *case.says) if say not in err]
    wrong = [f"status {status}"] * (status != 2) + [f"says no {say!r}" for say in lost]
    wrong += ["traceback"] * ("Traceback" in err) + ["output"] * bool(out)
    wrong += [f"{len(err.encode())} bytes"] * (len(err.encode()) >= 8192)
    wrong += [f"{err.count(chr(10))} lines"] * (err.count("\n") > 14)
    return f"{case.name}: {', '.join(wrong)}: {err[:400]}" if wrong else ""


def test_the_corpus_is_large_enough():
    assert len(GOOD) + len(BAD) >= 120


def test_malformed_files_are_refused(tmp_path, tally):
    for case in BAD.values():
        said = complaint(case, *check(line(put(tmp_path, case), case, *QUICK)))
        tally(not said, said)


def test_odd_files_are_read_whole(tmp_path, tally):
    for case in GOOD.values():
        status, out, err = check(line(put(tmp_path, case), case, *QUICK, "--json"))
        expected = hashlib.sha256(json.dumps(case.rows).encode()).hexdigest()
        facts = json.loads(out) if status == 0 else {}
        counted = facts.get("rows", {})
        whole = counted.get("train", 0) + counted.get("eval", 0) == len(case.rows)
        same = facts.get("texts_sha256") == expected
        tally(whole and same, f"{case.name}: status {status}, {counted}: {err[:400]}")


def test_bad_rows_that_are_skipped_are_counted_and_kept(tmp_path, tally):
    for case in BAD.values():
        if case.rejects is None:
            continue
        path = put(tmp_path, case)
        words = [word for word in line(path, case, *QUICK) if word != "--json"]
        status, out, err = check([*words, "data.on_bad_row=skip", "--json"])
        facts = json.loads(out) if status == 0 else {}
        counted = facts.get("rows", {})
        kept = counted.get("train", 0) + counted.get("eval", 0)
        skipped = counted.get("skipped")
        tally((kept, skipped) == (2, 1), f"{case.name}: {counted} {err[:300]}")
        source = file(path=str(path), on_bad_row="skip")
        rejects = tmp_path / "rejects.jsonl"
        write_rejects(rejects, source.rejects)
        found = [json.loads(text) for text in rejects.read_text().splitlines()]
        places = tuple((row["line"], row["field"]) for row in found)
        whole = all(row["file"] == case.name and row["reason"] for row in found)
        tally(places == case.rejects and whole, f"{case.name}: {places}")


FOLDERS = {
    "folder.jsonl": ("folder",),
    "missing.jsonl": ("no such file", "did you mean"),
    "nowhere/rows.jsonl": ("no such file",),
    "loop.jsonl": ("",),
    "null.jsonl": ("",),
}


@pytest.fixture
def places(tmp_path):
    """Paths that lead to no file: a folder, a near name, nothing, a circle, a device."""
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "mising.jsonl").write_text("x")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "null.jsonl").symlink_to("/dev/null")
    return tmp_path


def test_paths_that_lead_to_no_file_are_refused(places, tally):
    for name, says in FOLDERS.items():
        status, _, err = check(["check", "data=file", f"data.path={places / name}"])
        right = status == 2 and all(say in err for say in (name, *says))
        tally(right and err.count("\n") <= 3, f"{name}: {status} {err[:300]}")


SAMPLE = [*list(BAD)[::9], *list(GOOD)[::8]]


@pytest.mark.parametrize("name", SAMPLE)
def test_in_a_process_of_its_own_no_torch_is_loaded(tmp_path, tally, name):
    case = BAD.get(name) or GOOD[name]
    words = line(put(tmp_path, case), case, *QUICK)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, cwd=tmp_path
    )
    *said, torch = done.stderr.splitlines()
    if name in BAD:
        wrong = complaint(case, done.returncode, done.stdout, "\n".join(said))
    else:
        wrong = "" if done.returncode == 0 and "texts_sha256=" in done.stdout else done.stderr[:400]
    tally(not wrong and torch == "False", f"{name}: {wrong} torch loaded: {torch}")
