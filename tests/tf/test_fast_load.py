"""Weights that are assigned in pieces equal the file's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conformance import cases as data
from conformance.adaptors import TF

pytest.importorskip("tensorflow", reason="tensorflow is not installed")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_tf import names

    adaptor, case = TF(), data.Case("", "CLIPModel", data.full(), {})
    whole = adaptor.weights(adaptor.build(case, dtype))
    monkeypatch.setattr(names, "PIECE", 150)  # bytes: a row or two of the widest
    pieces = adaptor.weights(adaptor.build(case, dtype))
    for name, value in whole.items():
        np.testing.assert_array_equal(pieces[name], value, err_msg=name)


def test_reads_of_what_was_assigned_in_pieces_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In TensorFlow's copy-on-read mode, which assigning a part turns on, each call would copy all weights."""
    from clip_tf import names

    monkeypatch.setattr(names, "PIECE", 150)
    model = TF().build(data.Case("", "CLIPModel", data.full(), {}), "float32")
    for variable in model.variables:
        reads = [variable.value.read_value() for _ in range(2)]
        first, second = (np.asarray(memoryview(read)).__array_interface__["data"][0] for read in reads)
        assert first == second, variable.path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what the highest use of memory was")
def test_no_copy_of_a_variable_is_made() -> None:
    """In a process of its own: TensorFlow keeps what it frees, and a copy may fit where another test's memory was."""
    code = """
import keras, numpy as np, sys
from clip_core.checkpoint.tensor import Tensor
from clip_tf.names import fill
def resident(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
values = np.arange(1 << 24, dtype=np.float32).reshape(-1, 512)
variable = keras.Variable("zeros", shape=values.shape)
before = resident("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")  # the maximum begins anew
fill(variable, Tensor.from_numpy(values))
print((resident("VmHWM:") - before) / values.nbytes, bool(np.array_equal(np.asarray(variable.value), values)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    rise, equal = run.stdout.split()
    assert equal == "True" and float(rise) < 0.4
