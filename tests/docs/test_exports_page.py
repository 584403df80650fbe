"""The export page's tables are those of the recorded run."""

import json

from conformance import exports


def test_the_tables_are_the_recorded_ones() -> None:
    text = exports.PAGE.read_text(encoding="utf-8")
    assert text.partition(exports.MARK)[2] == "\n" + exports.tables(json.loads(exports.RESULTS.read_text()))


def test_every_kind_was_recorded() -> None:
    assert set(json.loads(exports.RESULTS.read_text())) == {*exports.GROUPS, "b32"}
