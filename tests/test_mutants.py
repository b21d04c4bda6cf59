"""The list of faults fits the lab as it is: every line is there once, and every fault is code."""

import pytest
from mutants.hunt import ROOT, TARGET, Mutant, Outcome, Stale, mutants


def test_every_fault_can_be_put_into_the_lab():
    every = mutants()
    sources = {mutant.file: (ROOT / mutant.file).read_text() for mutant in every}
    for mutant in every:
        assert mutant.applied(sources[mutant.file]) != sources[mutant.file], mutant
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / file).read_text(), test
    assert len({(mutant.file, mutant.within, mutant.old, mutant.new) for mutant in every}) == len(
        every
    )
    assert len({mutant.fault for mutant in every}) == len(every) >= 55 and TARGET >= 0.95


SOURCE = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x + 1\n"


def mutant(old, new, within=None):
    return Mutant("", (), "f.py", old, new, within, ())


def test_one_line_changes_and_keeps_its_indentation():
    assert mutant("return x + 1", "return x", "g").applied(SOURCE) == (
        "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "within", "reason"),
    [
        ("return x + 1", "return x", None, "2 times, not once"),
        ("return x", "return 1", None, "0 times, not once"),
        ("return x + 1", "return x", "h", "0 functions named h"),
        ("return x + 1", "return (x + 1)  # the same", "f", "nothing changes"),
    ],
)
def test_a_stale_list_is_seen(old, new, within, reason):
    with pytest.raises(Stale, match=reason):
        mutant(old, new, within).applied(SOURCE)


def test_a_fault_that_is_no_code_is_seen():
    with pytest.raises(SyntaxError):
        mutant("return x + 1", "return x +", "f").applied(SOURCE)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome(0, 1.0), "SURVIVED"),
        (Outcome(1, 1.0, "tests/test_x.py::test_y", "AssertionError"), "caught"),
        (Outcome(None, 1.0, "no end"), "caught"),
        (Outcome(1, 1.0, "tests/test_x.py::test_y", "NameError"), "BROKEN"),
        (Outcome(1, 1.0, "collection", "TypeError"), "BROKEN"),
        (Outcome(2, 1.0), "BROKEN"),
        (Outcome(-11, 1.0), "BROKEN"),
        (Outcome(70, 1.0), "BROKEN"),
    ],
)
def test_what_counts_as_caught(outcome, verdict):
    assert outcome.verdict == verdict
