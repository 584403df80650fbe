"""Importing the package: its requirements, its refusals, and no side effects."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# TensorFlow imports JAX by itself where it is installed, and does without where it is not: here it is not.
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "jax", "flax", "transformers", "tf_keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_keras_backend_is_refused_in_words(backend: str) -> None:
    """Before Keras is imported, whether or not that backend is installed."""
    done = python("import clip_tf", KERAS_BACKEND=backend)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: clip_tf: KERAS_BACKEND: wanted 'tensorflow', found '{backend}'. Set KERAS_BACKEND=tensorflow "
        '(or "backend" in ~/.keras/keras.json) before Keras is first imported.'
    )


@pytest.mark.skipif(find_spec("jax") is None, reason="Keras has no other backend that runs here: numpy's needs JAX")
def test_a_keras_that_already_runs_on_another_backend() -> None:
    code = "import keras, os; os.environ.pop('KERAS_BACKEND'); import clip_tf"
    done = python(code, KERAS_BACKEND="numpy")
    assert "wanted 'tensorflow', found 'numpy'" in done.stderr.strip().splitlines()[-1]


def test_no_other_framework_is_needed() -> None:
    """With all others missing, the package imports, builds a model and calls it."""
    code = BLOCK + (
        "import clip_tf\n"
        "config = clip_tf.CLIPTextConfig(vocab_size=9, hidden_size=4, intermediate_size=4, num_attention_heads=2,\n"
        "                                num_hidden_layers=1, eos_token_id=8)\n"
        "print(clip_tf.TFCLIPTextModel(config)([[1, 8]]).pooler_output.shape)\n"
        "print(sorted(n for n in ('torch', 'jax', 'flax', 'transformers', 'tf_keras') if n in sys.modules))\n"
    )
    done = python(code)
    assert done.stdout.splitlines() == ["(1, 4)", "[]"], done.stderr


def test_a_missing_tensorflow_is_named() -> None:
    code = "import sys; sys.modules['tensorflow'] = None; import clip_tf"
    done = python(code)
    assert "clip_tf needs tensorflow, which is not installed: pip install 'triclip[tf]'" in done.stderr


def test_public_names() -> None:
    import clip_core
    import clip_tf

    assert set(clip_core.__all__) < set(clip_tf.__all__)
    assert clip_tf.TFCLIPOutput is clip_core.CLIPOutput
    assert clip_tf.TFBaseModelOutputWithPooling is clip_core.BaseModelOutputWithPooling
    with pytest.raises(AttributeError, match="no attribute 'CLIPModel'"):
        clip_tf.CLIPModel  # noqa: B018
