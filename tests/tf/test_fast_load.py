"""Weights that are assigned piece by piece are those of the file."""

from __future__ import annotations

import numpy as np
import pytest

from conformance import cases as data
from conformance.adaptors import TF

pytest.importorskip("tensorflow", reason="tensorflow is not installed")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_tf import bridge

    adaptor, case = TF(), data.Case("", "CLIPModel", data.full(), {})
    whole = adaptor.weights(adaptor.build(case, dtype))
    monkeypatch.setattr(bridge, "PIECE", 150)  # bytes: a row or two of the widest
    pieces = adaptor.weights(adaptor.build(case, dtype))
    for name, value in whole.items():
        np.testing.assert_array_equal(pieces[name], value, err_msg=name)
