"""Imports: the core imports no framework, a backend only its own, and the three work in any order."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from .adaptors import ADAPTORS, installed

ROOT = Path(__file__).parent.parent
BACKENDS = installed()
FRAMEWORKS = {
    "torch": {"torch"},
    "tf": {"tensorflow", "keras"},
    "flax": {"jax", "flax"},
}
ALL = {"torch", "tensorflow", "keras", "jax", "jaxlib", "flax", "transformers", "tf_keras", "torchvision"}
ALL |= {"clip_torch", "clip_tf", "clip_flax"}

# The lines run in a process of their own, with the project's folder first on its path.
PROGRAM = """
import sys
{lines}
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(",".join(sorted(loaded & {names!r})))
"""


def loaded_after(lines: str) -> set[str]:
    program = PROGRAM.format(lines=lines, names=ALL)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return set(filter(None, run.stdout.strip().splitlines()[-1].split(",") if run.stdout.strip() else []))


def test_the_core_imports_no_framework() -> None:
    """Also not when every public name and every module is imported."""
    lines = """
import importlib, pkgutil, clip_core
[getattr(clip_core, name) for name in clip_core.__all__]
for module in pkgutil.walk_packages(clip_core.__path__, "clip_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    assert loaded_after(lines) == set()


def test_the_core_does_its_work_without_a_framework() -> None:
    lines = """
import numpy as np, tempfile
from clip_core import CLIPConfig, CLIPTokenizer, CLIPImageProcessor
from clip_core import checkpoint
from clip_core.weights import weight_table
tiny = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
config = CLIPConfig({**tiny, "vocab_size": 9}, {**tiny, "image_size": 4, "patch_size": 2})
weights = {name: np.zeros(row.shape, np.float32) for name, row in weight_table(config).items()}
with tempfile.TemporaryDirectory() as folder:
    checkpoint.save(folder, weights, config.to_dict())
    assert set(checkpoint.load(folder).tensors) == set(weights)
assert CLIPTokenizer()("a cat", return_tensors="np").input_ids.shape == (1, 4)
assert CLIPImageProcessor()(np.zeros((9, 9, 3), np.uint8), return_tensors="np").pixel_values.shape == (1, 3, 224, 224)
"""
    assert loaded_after(lines) == set()


def test_the_check_can_fail() -> None:
    for name in BACKENDS:
        framework = sorted(FRAMEWORKS[name])[0]
        assert framework in loaded_after(f"import {framework}")


@pytest.mark.parametrize("backend", ADAPTORS)
def test_a_backend_imports_its_own_framework_only(backend: str) -> None:
    """Beyond what the framework itself imports (Keras looks for torch and jax on its own, for instance)."""
    if backend not in BACKENDS:
        pytest.skip(f"{ADAPTORS[backend].installed_as} is not installed")
    frameworks = ", ".join(sorted(FRAMEWORKS[backend]))
    alone = loaded_after(f"import {frameworks}")
    package = ADAPTORS[backend].package
    lines = f"import {package}\n[getattr({package}, name) for name in {package}.__all__]"
    found = loaded_after(lines)
    assert found - alone == {package}


RUN = {
    "torch": """
import torch, clip_torch
tower = clip_torch.CLIPTextModel(clip_torch.CLIPTextConfig(**tiny))
with torch.no_grad(): assert tower(torch.tensor([[1, 2, 8]])).pooler_output.shape == (1, 8)
""",
    "tf": """
import clip_tf
assert clip_tf.TFCLIPTextModel(clip_tf.CLIPTextConfig(**tiny))([[1, 2, 8]]).pooler_output.shape == (1, 8)
""",
    "flax": """
import clip_flax
assert clip_flax.FlaxCLIPTextModel(clip_flax.CLIPTextConfig(**tiny))([[1, 2, 8]]).pooler_output.shape == (1, 8)
""",
}
TINY = (
    "tiny = dict(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, "
    "eos_token_id=8)\n"
)


@pytest.mark.parametrize("order", list(itertools.permutations(ADAPTORS)), ids="-".join)
def test_any_order(order: tuple[str, ...]) -> None:
    """All three in one process, each running a model, in every order of import."""
    if missing := [name for name in order if name not in BACKENDS]:
        pytest.skip(f"{ADAPTORS[missing[0]].installed_as} is not installed")
    loaded = loaded_after(TINY + "".join(RUN[name] for name in order))
    assert {"torch", "tensorflow", "jax"} <= loaded


def test_all_imported_before_any_is_used() -> None:
    if len(BACKENDS) < len(ADAPTORS):
        pytest.skip("needs all three frameworks")
    loaded_after(f"import {', '.join(f'clip_{name}' for name in BACKENDS)}\n{TINY}" + "".join(RUN.values()))
