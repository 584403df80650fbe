"""`as_transformers` without transformers; what it does with it is shown by conformance/clients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import clip_torch
from clip_torch import adapter


def test_other_models_are_refused_before_transformers_is_looked_for() -> None:
    with pytest.raises(TypeError, match="model: wanted one of clip_torch's CLIPModel, .*, found torch.nn.*Linear"):
        clip_torch.as_transformers(torch.nn.Linear(2, 2))


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    adapter._adapted_class.cache_clear()
    with pytest.raises(clip_torch.MissingDependencyError, match="pip install transformers"):
        clip_torch.as_transformers(clip_torch.CLIPTextModel.from_pretrained("emoji"))


def test_importing_the_backend_imports_neither_transformers_nor_peft() -> None:
    program = (
        "import sys; import clip_torch; clip_torch.as_transformers\n"
        "print(sorted({'transformers', 'peft', 'clip_core.image_processor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
