"""The report of run folders: a page, a table, figures, and what goes wrong."""

import csv
import html.parser
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from browser import Browser
from run_folders import fake, sweep

import dpo_lab
from dpo_lab.errors import Refused
from dpo_lab.page import command, headline, uploads
from dpo_lab.report import gather, report
from dpo_lab.results import Run

NASTY = "ValueError: <script>alert(1)</script> & \"quotes\" 'here' {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of 3x2x2 runs, and of a failed, a stopped, a running and a damaged one."""
    root = tmp_path_factory.mktemp("made")
    sweep(root / "runs")
    fake(root / "runs" / 'a<b>&"c"', beta=4.0, state="failed", reason=NASTY, steps=10)
    fake(
        root / "runs" / "part", beta=8.0, state="stopped", reason="SIGTERM after step 20", steps=20
    )
    fake(root / "runs" / "gone", beta=9.0, state="running", steps=20)
    broken = fake(root / "runs" / "zz")
    (broken.folder / "status.json").write_text('{"sta')
    (broken.folder / "config.yaml").write_text("a: [")
    (broken.folder / "metrics.jsonl").unlink()
    (root / "runs" / "part" / "wandb" / "offline-run-1").mkdir(parents=True)
    status = json.loads((root / "runs" / "gone" / "status.json").read_text()) | {"pid": 2**22 + 1}
    (root / "runs" / "gone" / "status.json").write_text(json.dumps(status))
    return report([root / "runs"], root / "out")


class Outline(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_is_whole_and_stands_alone(made):
    page = made.read_text()
    outline = Outline(page)
    assert outline.open == []
    for tag, name in (("img", "src"), ("a", "href"), ("path", "href"), ("link", "href")):
        for attrs in outline.all(tag):
            assert attrs.get(name, "#").startswith(("data:image/svg+xml;base64,", "#"))
    assert not outline.all("link") and len(outline.all("script")) == 1
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs in outline.all("a"):
        assert attrs["href"][1:] in ids
    assert all(attrs["alt"] for attrs in outline.all("img"))
    assert all(attrs["scope"] in ("col", "row") for attrs in outline.all("th"))
    assert len(outline.all("caption")) == len(outline.all("table")) == 3
    headings = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_nothing_is_left_unescaped(made):
    page = made.read_text()
    assert "<script>alert" not in page and "a<b>" not in page and "49" not in NASTY
    assert "{{ 7 * 7 }}" in page
    words = "".join(Outline(page).words)
    assert NASTY in words and 'a<b>&"c"' in words


def test_the_headline_and_the_reasons(made):
    words = " ".join("".join(Outline(made.read_text()).words).split())
    assert "16 runs: 12 finished, 1 failed, 1 running, 1 stopped, 1 damaged" in words
    assert "SIGTERM after step 20" in words and f"no process {2**22 + 1} on this machine" in words
    assert "status.json cannot be read" in words and "config.yaml cannot be read" in words
    assert "Over its 2 seeds: " in words and "0.1 (4), 0.5 (4), 2.0 (4), 4.0 (1)" in words


def test_the_table_has_what_differs_and_the_metrics(made):
    with (made.parent / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert list(rows[0])[:3] == ["loss.beta", "optimizer.lr", "seed"]
    for row in rows[:12]:
        run = Run(Path(row["folder"]))
        assert float(row["eval/loss"]) == run.metrics["eval/loss"] and row["loss"] == "dpo"
        assert float(row["loss.beta"]) == run.config["loss"]["beta"] and row["state"] == "done"
    assert {row["state"] for row in rows[12:]} == {"failed", "stopped", "running", "damaged"}
    assert NASTY in [row["reason"] for row in rows]


def test_every_figure_is_there_as_png_and_svg(made):
    names = {path.name for path in (made.parent / "figures").iterdir()}
    stems = ("curves", "heatmap", "tradeoff", "pairs")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}


def test_the_same_folders_give_the_same_report(tmp_path):
    runs = fake(tmp_path / "a").folder, fake(tmp_path / "b", beta=0.5).folder
    for folder in runs:  # as little as has every kind of content
        shutil.rmtree(folder / "eval")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        kept = [line for line in lines if "eval" in line]
        names = re.compile(r', "eval/(rewards|logratios)/[a-z]+": [-\d.e]+')
        (folder / "metrics.jsonl").write_text(
            "\n".join(names.sub("", line) for line in kept) + "\n"
        )
    first, again = report(runs, tmp_path / "first"), report(runs, tmp_path / "again")
    for name in ("report.html", "runs.csv", "figures/tradeoff.svg"):
        assert (again.parent / name).read_bytes() == (first.parent / name).read_bytes()


def test_a_command_survives_the_shell(tmp_path):
    run = fake(tmp_path / "a")
    words = ["data.path=/a b/c.jsonl", "+x='quoted $HOME'", "train.resume=last", "data.words=[a,b]"]
    record = run.record | {"overrides": words, "config_dir": "/my conf"}
    (run.folder / "record.json").write_text(json.dumps(record))
    again = shlex.split(command(Run(run.folder)))
    assert again == ["dpo-lab", words[0], words[1], words[3], "--config-dir", "/my conf"]
    (run.folder / "record.json").unlink()
    assert command(Run(run.folder)) == ""


def test_one_command_uploads_what_was_kept_offline(tmp_path):
    for name in ("a b/x", "a b/y", "c/z"):
        run = fake(tmp_path / name)
        if name != "c/z":
            (run.folder / "wandb" / "offline-run-20260101").mkdir(parents=True)
    (said,) = uploads(gather([tmp_path]))
    assert said == f"wandb sync '{tmp_path}/a b'/*/wandb/offline-run-*"


def test_folders_of_any_mixture_count_each_run_once(tmp_path):
    a, b = fake(tmp_path / "x" / "a"), fake(tmp_path / "y" / "b")
    found = gather([tmp_path / "x", tmp_path, a.folder, b.folder])
    assert len(found) == 2 and headline(found) == "2 runs: 2 finished"


def test_what_is_refused_says_what_to_type(tmp_path):
    with pytest.raises(Refused, match=r"there is no run in .*\ntype dpo-lab report"):
        report([tmp_path])
    with pytest.raises(Refused, match=r"there is no folder .*nowhere"):
        report([tmp_path / "nowhere"])
    with pytest.raises(Refused, match="report needs a folder"):
        report([])
    run = fake(tmp_path / "a")
    with pytest.raises(Refused, match="no run has the metric world/rewards; did you mean"):
        report([run.folder], metric="world/rewards")
    with pytest.raises(Refused, match="expected a folder"):
        report([run.folder], tmp_path / "report.html")
    with pytest.raises(Refused, match="cannot write to /proc"):
        report([run.folder], Path("/proc/nothing"))


def test_runs_that_left_almost_nothing(tmp_path):
    """No metric, no config, no record: still a page, and no figure of an earlier report."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text('{"state": "failed", "reason": "killed"}')
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "heatmap.png").write_text("old")
    path = report([tmp_path])
    words = "".join(Outline(path.read_text()).words)
    assert "2 runs: 2 failed" in words and "killed" in words and "command is not known" in words
    assert not list((tmp_path / "figures").iterdir())


def test_a_real_run(tmp_path):
    settings = "data.pairs=100 data.eval_pairs=30 data.sft_rows=100 start=as_is train.steps=4"
    more = "train.batch_size=16 train.threads=1 eval.every=2 logger=none loss.beta=0.1"
    run = dpo_lab.train(
        ["data=world_nano", f"outputs_dir={tmp_path}", *f"{settings} {more}".split()]
    )
    shutil.rmtree(run.folder / "final")
    path = report([run.folder])
    assert path == run.folder / "report.html"
    words = " ".join("".join(Outline(path.read_text()).words).split())
    assert "1 run: 1 finished" in words and "No two runs differ in seed only" in words
    assert "every run finished" in words and command(run) in words
    assert {path.name for path in (run.folder / "figures").iterdir()} >= {"pairs.svg", "curves.png"}
    assert len(dpo_lab.runs(tmp_path)) == 1
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert dpo_lab.runs(tmp_path)["loss.beta"][0] == config["loss"]["beta"]


@pytest.fixture(scope="module")
def browser(made, tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    opened.open(made)
    yield opened
    opened.close()


COLUMN = """
const place = [...document.querySelectorAll("#runs thead th")]
  .findIndex((head) => head.textContent === arguments_name);
return [...document.querySelectorAll("#runs tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.cells[place].textContent);
"""


def column(browser: Browser, name: str) -> list[str]:
    return browser.run(f"const arguments_name = {json.dumps(name)};{COLUMN}")


def test_sort_and_filter_in_a_browser(browser):
    heads = browser.run(
        "return [...document.querySelectorAll('#runs thead th')].map(h => h.textContent)"
    )
    place = heads.index("loss") + 1
    button = f"#runs thead th:nth-child({place}) button"
    browser.click(button)
    up = column(browser, "loss")
    assert up == [*sorted(up[:-1], key=float), "–"]
    assert (
        browser.run(f"return document.querySelector('{button}').parentElement.ariaSort")
        == "ascending"
    )
    browser.type(button, "\ue007")  # the keyboard alone: Enter on the heading sorts the other way
    down = column(browser, "loss")
    assert down == [*sorted(up[:-1], key=float, reverse=True), "–"]
    browser.click("#runs thead th:nth-child(2) button")
    assert column(browser, "state") == sorted(column(browser, "state"))

    browser.type("#filter", "beta=0.1 Finished")
    assert column(browser, "beta") == ["0.1"] * 4
    assert browser.run("return document.getElementById('shown').value") == "4 of 16 runs"
    browser.run("filter.value = ''; filter.dispatchEvent(new Event('input'));")
    assert len(column(browser, "beta")) == 16


def test_the_browser_has_nothing_to_complain_about(browser):
    browser.click("button.copy")
    assert browser.console() == []
    assert {address.split(":")[0] for address in browser.requests()} <= {"file", "data"}


def test_it_fits_a_phone(made, tmp_path):
    narrow = Browser(tmp_path, width=390)
    try:
        narrow.open(made)
        assert narrow.run("return document.documentElement.scrollWidth") == 390
        box, table = narrow.run(
            "const box = document.querySelector('#runs .scroll');"
            "return [box.clientWidth, box.scrollWidth]"
        )
        assert box < table  # the table scrolls inside its own box
    finally:
        narrow.close()
