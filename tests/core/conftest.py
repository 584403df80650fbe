"""Fixtures of several core tests."""

import pytest

from clip_core import machine


@pytest.fixture(params=["all", "none"], ids=["short cuts", "plain"])
def short_cuts(request, monkeypatch):
    """Every short cut taken, and none."""
    monkeypatch.setenv(machine.VARIABLE, request.param)
    return request.param == "all"
