"""The page's list of absent names is that of the AttributeErrors."""

from conformance import absent


def test_the_page_has_the_core_s_table() -> None:
    assert absent.shown() == absent.table(), "python -m conformance.absent writes it"
