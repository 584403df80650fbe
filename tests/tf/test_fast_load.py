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


def test_reads_of_what_was_assigned_in_pieces_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In TensorFlow's copy-on-read mode, which assigning a part turns on, each call would copy all weights."""
    from clip_tf import bridge

    monkeypatch.setattr(bridge, "PIECE", 150)
    model = TF().build(data.Case("", "CLIPModel", data.full(), {}), "float32")
    for variable in model.variables:
        reads = [variable.value.read_value() for _ in range(2)]
        first, second = (np.asarray(memoryview(read)).__array_interface__["data"][0] for read in reads)
        assert first == second, variable.path
