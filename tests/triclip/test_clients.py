"""The clients' records and their page; the clients themselves run in separate environments."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from conformance.clients import environments, page
from conformance.clients.record import RESULTS, at_most, difference

STATUSES = {"works", "differs", "refused"}


def test_every_client_has_a_script_and_an_environment() -> None:
    for name, environment in page.CLIENTS.items():
        assert find_spec(f"conformance.clients.{page.SCRIPTS.get(name, name)}"), name
        assert environment in environments.ENVIRONMENTS, name
    assert {path.stem for path in RESULTS.glob("*.json")} <= set(page.CLIENTS)


@pytest.mark.parametrize("name", page.kept())
def test_a_record_tells_no_failure_and_explains_what_differs(name: str) -> None:
    found = page.kept()[name]
    assert found["versions"] and found["checks"]
    for check in found["checks"]:
        assert check["status"] in STATUSES, check
        assert check["note"] or check["status"] == "works", check


def test_the_page_is_made_from_the_records() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(page.kept())


def test_figures_above_their_limit_or_not_a_number_fail() -> None:
    assert at_most(1.0, a=1.0, b=0.5) == {"a": 1.0, "b": 0.5}
    for wrong in (1.1, float("nan")):
        with pytest.raises(AssertionError, match="b: wanted at most 1, found"):
            at_most(1.0, a=0.0, b=wrong)
    assert difference([1.0, 2.0], [1.5, 2.0]) == 0.5
    with pytest.raises(AssertionError, match="shapes"):
        difference([1.0], [[1.0]])


def test_a_page_of_one_client() -> None:
    check = {"called": "`f(a | b)`", "status": "differs", "figures": {"largest_error": 1.5e-7, "n": 3}, "note": "so"}
    made = page.text({"x": {"title": "A client", "python": "3.11", "versions": {"x": "1"}, "checks": [check]}})
    assert "| [A client](#a-client) | 1 | 0 | 1 | 0 |" in made
    assert "| `f(a \\| b)` | differs | largest error 1.5e-07; n 3 | so |" in made
