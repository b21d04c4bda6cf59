import itertools

import pytest

from dpo_lab.truncation import truncate


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("bos_id", [None, 100])
def test_truncation_of_every_length(mode, bos_id):
    lengths = range(1, 9)
    for n, c, r, max_length in itertools.product(lengths, lengths, [None, *lengths], range(1, 13)):
        prompt = list(range(100, 100 + n))
        chosen = list(range(200, 200 + c))
        rejected = None if r is None else list(range(300, 300 + r))
        row = truncate(prompt, chosen, rejected, max_length, mode, bos_id=bos_id)
        longest = max(c, r or 0)
        if n + longest <= max_length:
            assert row == (prompt, chosen, rejected)
        least = n if mode == "keep_start" else min(n, 1 if bos_id is None else 2)
        if row is None:
            assert least >= max_length
            continue
        assert least < max_length
        responses = [row.chosen] if rejected is None else [row.chosen, row.rejected]
        for whole, cut in zip([chosen, rejected], responses, strict=False):
            assert cut and cut == whole[: len(cut)]
            assert len(row.prompt) + len(cut) <= max_length
            # cut no more than needed
            assert len(cut) == len(whole) or len(row.prompt) + len(cut) == max_length
        if mode == "keep_start":
            assert row.prompt == prompt
            continue
        kept = len(row.prompt)
        assert kept >= least
        if bos_id is None or kept == n:
            assert row.prompt == prompt[n - kept :]
        else:
            assert row.prompt == [100, *prompt[n - kept + 1 :]]
        assert kept in (n, least) or kept + longest == max_length
        if kept > least:
            assert row.chosen == chosen and row.rejected == rejected
