"""Shared prefixes: each occurs once, and every text is recovered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triclip.prefixes import shared_prefixes, until_end


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_each_beginning_is_there_once(rows: list[list[int]]) -> None:
    found = shared_prefixes(rows)
    beginnings = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert len(found.tokens) == len(found.positions) == len(found.places) == len(beginnings)
    assert found.paths.shape == (len(rows), max(map(len, rows)))
    for row, path, end in zip(rows, found.paths, found.ends, strict=True):
        assert found.tokens[path[: end + 1]].tolist() == row
        assert found.positions[path[: end + 1]].tolist() == list(range(len(row)))
    for number, place in enumerate(found.places):
        text, position = divmod(place, found.paths.shape[1])
        assert found.paths[text, position] == number and position == found.positions[number] <= found.ends[text]
    assert ((found.paths >= 0) & (found.paths < len(beginnings))).all(), "also behind the ends"


def test_what_a_text_depends_on() -> None:
    modern, legacy = SimpleNamespace(eos_token_id=9), SimpleNamespace(eos_token_id=2)
    assert until_end([7, 5, 9, 9, 3], modern) == [7, 5, 9]
    assert until_end([7, 5, 3], modern) == [7], "without an end the first token is pooled"
    assert until_end([3, 5, 8, 2, 8, 1], legacy) == [3, 5, 8]


def test_a_zero_shot_head_shares_most_of_its_tokens() -> None:
    templates = [[90, 1, 2], [90, 1, 3, 4]]
    rows = [[*template, label, 5, 99] for template in templates for label in range(10, 30)]
    assert len(shared_prefixes(rows).tokens) == 2 + 1 + 2 + 40 * 3
    assert np.sum([len(row) for row in rows]) == 260
