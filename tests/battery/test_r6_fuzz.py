"""A thousand random data files whose truth is known, with another seed each time."""

import contextlib
import hashlib
import io
import json
import random
import secrets

from fuzz_data import make_case
from test_data import check_case

from dpo_lab import data
from dpo_lab.__main__ import main

ID = "R6"
OWN = {"hh": data.hh, "sharegpt": data.sharegpt, "instruction": data.instruction}
OWN |= {"chat": data.chat, "whole_chat": data.chat, "pairs": data.file}


def by_command(case):
    """What the command line says of a file: its digest where it is whole, else its complaint."""
    out, err = io.StringIO(), io.StringIO()
    words = ["check", "data=file", f"data.path={case.path}", "model.vocab_size=300", "--json"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    if case.fatal is None and not case.faults:
        digest = hashlib.sha256(json.dumps(case.rows).encode()).hexdigest()
        assert status == 0 and json.loads(out.getvalue())["texts_sha256"] == digest
    else:
        assert status == 2 and not out.getvalue() and len(err.getvalue()) < 8000
        assert case.fatal is None or case.fatal in err.getvalue()


def test_random_files(tmp_path, tally):
    seed = secrets.randbelow(10**9)
    print(f"seed {seed}")
    for index in range(1000):
        rng = random.Random(f"{seed} {index}")
        folder = tmp_path / str(index)
        folder.mkdir()
        case = make_case(rng, folder)
        option = rng.choice([data.file, OWN[case.shape]])
        failure = ""
        try:
            check_case(case, option)
            if index % 20 == 0:
                by_command(case)
        except Exception as error:  # a traceback of the product counts as a failure, too
            failure = f"{type(error).__name__}: {str(error)[:300]}"
        name = f"seed {seed}, file {index}: {case.path.name}, {case.shape}, {option.__name__}"
        tally(not failure, f"{name}: {failure}")
