"""The names that aren't here, as the page lists them, are those that AttributeError speaks of."""

from conformance import absent


def test_the_page_has_the_core_s_table() -> None:
    assert absent.shown() == absent.table(), "python -m conformance.absent writes it"
