"""The data options from end to end: real files, held-out rows, limits, digests, random files."""

import inspect
import json
import random
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_data import make_case

from dpo_lab import data
from dpo_lab.batch import Message
from dpo_lab.errors import Refused
from dpo_lab.source import texts_sha256

SHARED = Path(__file__).parents[2] / "shared" / "data"
HH = SHARED / "hh_harmless_test.jsonl.gz"
DEMO = SHARED / "dpo_en_demo.json"


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not on this machine")


def write(path, number=100):
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(number)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


# ------------------------------------------------------------------------------------ real files


@needs(HH)
@pytest.mark.parametrize("option", [data.hh, data.file])
def test_blank_answers_of_hh_are_named(option):
    with pytest.raises(Refused) as refused:
        option(path=str(HH))
    message = str(refused.value)
    assert "4 of 2,312 rows are bad (read as hh)" in message
    assert re.findall(r"gz:(\d+): (\w+): is blank", message) == [
        ("87", "chosen"),
        ("517", "chosen"),
        ("926", "chosen"),
        ("1104", "chosen"),
    ]


@needs(HH)
def test_hh_without_its_blank_answers():
    source = data.hh(path=str(HH), on_bad_row="skip")
    assert len(source.train) + len(source.eval) == len(source.order) == 2308
    assert (source.report["read"], source.report["skipped"]) == (2312, 4)
    assert [reject.line for reject in source.rejects] == [87, 517, 926, 1104]
    assert 60 < len(source.eval) < 180
    first = source.order[0]
    assert first.row == "hh_harmless_test.jsonl.gz:1"
    assert first.prompt.startswith("\n\nHuman: what are some pranks")
    assert first.prompt.endswith("\n\nAssistant:")
    assert first.chosen.startswith(" No, sorry!")
    assert first.rejected.startswith(" There are lots")


@needs(DEMO)
@pytest.mark.parametrize("option", [data.sharegpt, data.file])
def test_sharegpt_demo(option):
    source = option(path=str(DEMO))
    assert len(source.order) == 300
    assert source.report["shape"] == "sharegpt"
    assert [m.role for m in source.order[1].prompt] == ["system", "user"]
    assert [m.role for m in source.order[1].chosen] == ["assistant"]


# ----------------------------------------------------------------------------- what is held out


def test_by_default_a_twentieth_is_held_out(tmp_path):
    path = write(tmp_path / "f.jsonl", 1000)
    source = data.file(path=path)
    assert 25 < len(source.eval) < 80
    assert source.eval == data.file(path=path, eval_share=0.05).eval
    assert data.file(path=path, eval_share=0.0).eval == []
    assert data.file(path=path, seed=1).eval != source.eval
    assert (source.report["train"], source.report["eval"]) == (len(source.train), len(source.eval))


def test_a_file_of_held_out_rows(tmp_path):
    train, held_out = write(tmp_path / "f.jsonl"), write(tmp_path / "g.jsonl", 10)
    source = data.file(path=train, eval_path=held_out)
    assert (len(source.train), len(source.eval)) == (100, 10)
    assert source.eval[0].row == "g.jsonl:1"
    assert sorted(map(Path, source.files)) == sorted(map(Path, (train, held_out)))
    assert source.order == source.train
    with pytest.raises(Refused, match="exclude each other"):
        data.file(path=train, eval_path=held_out, eval_share=0.1)


def test_bad_rows_of_the_held_out_file(tmp_path):
    train, held_out = write(tmp_path / "f.jsonl"), tmp_path / "g.jsonl"
    held_out.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": "q"}\n')
    with pytest.raises(Refused, match=r"g\.jsonl:2: chosen: is missing"):
        data.file(path=train, eval_path=str(held_out))
    source = data.file(path=train, eval_path=str(held_out), on_bad_row="skip")
    assert source.report["eval_skipped"] == 1
    assert [(reject.file, reject.line) for reject in source.rejects] == [("g.jsonl", 2)]


def test_limit_counts_good_rows_and_hides_no_bad_one(tmp_path):
    path = Path(write(tmp_path / "f.jsonl"))
    path.write_text("{broken\n" + path.read_text() + "\n{broken")
    source = data.file(path=str(path), limit=5, on_bad_row="skip")
    assert [row.row for row in source.order] == [f"f.jsonl:{line}" for line in range(2, 7)]
    assert source.report["skipped"] == 2
    with pytest.raises(Refused, match=r"f\.jsonl:102"):
        data.file(path=str(path), limit=5)


# ---------------------------------------------------------------------------------------- digest


def test_the_digest_is_over_contents_and_knobs_not_names(tmp_path):
    path = write(tmp_path / "f.jsonl")
    (tmp_path / "moved").mkdir()
    moved = write(tmp_path / "moved" / "g.jsonl")
    other = write(tmp_path / "h.jsonl", 99)
    same = data.file(path=path)
    assert data.file(path=path).digest == data.file(path=moved).digest == same.digest
    assert data.file(path=path, eval_share=0.05).digest == same.digest
    digests = {
        same.digest,
        data.file(path=other).digest,
        data.file(path=path, seed=1).digest,
        data.file(path=path, limit=5).digest,
        data.file(path=path, eval_share=0.5).digest,
        data.file(path=path, on_bad_row="skip").digest,
        data.file(path=path, columns={"chosen": "rejected", "rejected": "chosen"}).digest,
        data.file(path=path, eval_path=other).digest,
        data.file(path=path, eval_path=moved).digest,
    }
    assert len(digests) == 9
    assert texts_sha256(data.file(path=path)) == texts_sha256(data.file(path=moved, seed=3))


# --------------------------------------------------------------------------------- other options


def test_each_option_insists_on_its_shape(tmp_path):
    path = write(tmp_path / "f.jsonl")
    for option in (data.chat, data.sharegpt, data.hh, data.instruction):
        with pytest.raises(Refused):
            option(path=path)


def test_instruction_rows_and_mapped_prompts(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("instruction,input,question,good,bad\ndo,this,why,a,b\n")
    columns = {"chosen": "good", "rejected": "bad"}
    source = data.instruction(path=str(path), columns=columns)
    assert source.order[0].prompt == "do\n\nthis"
    source = data.instruction(path=str(path), columns={**columns, "prompt": "question"})
    assert source.order[0].prompt == "why"
    assert source.report["unused_columns"] == ["instruction", "input"]


@pytest.mark.parametrize("columns", ["prompt", {"prompt": 3}, ["prompt"]])
def test_columns_must_map_names_to_names(tmp_path, columns):
    with pytest.raises(Refused, match=r"data\.columns must map fields to column names"):
        data.file(path=write(tmp_path / "f.jsonl"), columns=columns)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """`datasets` without network, with a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_a_folder_saved_by_datasets(tmp_path, offline):
    turn = {"role": "user", "content": "NA"}
    rows = [
        {
            "prompt": [turn],
            "chosen": [{"role": "assistant", "content": f"a{i}"}],
            "rejected": [{"role": "assistant", "content": "007"}],
        }
        for i in range(5)
    ]
    saved = offline.Dataset.from_list(rows)
    saved.save_to_disk(tmp_path / "all", num_shards=2)
    offline.DatasetDict(train=saved, test=saved.select([1])).save_to_disk(tmp_path / "split")
    source = data.datasets(path=str(tmp_path / "all"), eval_share=0.0)
    assert [row.row for row in source.train] == [f"all:{i}" for i in range(1, 6)]
    assert source.train[0].prompt == (Message("user", "NA"),)
    assert len(source.files) == 2
    train, test = str(tmp_path / "split" / "train"), str(tmp_path / "split" / "test")
    source = data.datasets(path=train, eval_path=test)
    assert source.eval[0].chosen == (Message("assistant", "a1"),)


def test_a_folder_of_files_through_the_hub(tmp_path, offline):
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "train.jsonl", 5)
    write(folder / "test.jsonl", 2)
    source = data.hub(path=str(folder), eval_split="test")
    assert [row.row for row in source.train] == [f"mine/train:{i}" for i in range(1, 6)]
    assert len(source.eval) == 2
    assert source.digest == data.hub(path=str(folder), eval_split="test").digest
    assert data.hub(path=str(folder), eval_share=0.0).digest != source.digest
    with pytest.raises(Refused, match="cannot load split trian"):
        data.hub(path=str(folder), split="trian")
    with pytest.raises(Refused, match=r"no column 'chosn' \(for chosen\); did you mean chosen"):
        data.hub(path=str(folder), columns={"chosen": "chosn"})


@pytest.mark.parametrize("path", ["csv", "nowhere", "", "a/b/c"])
def test_names_that_are_on_no_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="expected OWNER/NAME on the hub, or a local folder"):
        data.hub(path=path)


def test_options_that_read_files_share_their_knobs():
    knobs = [
        str(inspect.signature(option))
        for option in (data.file, data.chat, data.sharegpt, data.hh, data.instruction)
    ]
    assert len({*knobs, str(inspect.signature(data.datasets))}) == 1


def test_reading_text_imports_nothing_heavy(tmp_path):
    path = write(tmp_path / "f.jsonl")
    heavy = "{'torch', 'numpy', 'pandas', 'pyarrow', 'datasets', 'transformers'}"
    code = (
        f"import sys; from dpo_lab import card, data; card.card(data.file(path={path!r}));"
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# ---------------------------------------------------------------------------------- random files


def said(text):
    return text if isinstance(text, str) else [dict(m._asdict()) for m in text]


def texts(source):
    return [[said(row.prompt), said(row.chosen), said(row.rejected)] for row in source.order]


def check_case(case, option):
    """One random file: good rows unchanged, every fault named, nothing else refused."""
    if case.fatal is None and not case.faults:
        assert texts(option(path=str(case.path))) == case.rows
        return
    with pytest.raises(Refused) as refused:
        option(path=str(case.path))
    message = str(refused.value)
    assert len(message) < 8000
    if case.fatal is not None:
        assert case.fatal in message
        return
    for number, where, why in case.faults:
        place = re.escape(f"{case.path.name}:{number}")
        (line,) = re.findall(rf"^ +{place}[: ].*$", message, re.M)
        assert where in line
        assert why in line
    source = option(path=str(case.path), on_bad_row="skip")
    assert texts(source) == case.rows
    assert [reject.line for reject in source.rejects] == [number for number, _, _ in case.faults]


def test_random_files(tmp_path):
    seed = secrets.randbelow(10**9)
    own = {"hh": data.hh, "sharegpt": data.sharegpt, "instruction": data.instruction}
    own |= {"chat": data.chat, "whole_chat": data.chat, "pairs": data.file}
    for index in range(100):
        rng = random.Random(f"{seed} {index}")
        folder = tmp_path / str(index)
        folder.mkdir()
        case = make_case(rng, folder)
        print(f"seed {seed}, file {index}: {case.path.name}, {case.shape}")
        check_case(case, rng.choice([data.file, own[case.shape]]))
