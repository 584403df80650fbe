"""`as_transformers` without transformers; conformance/clients tests it with the library."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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


class Theirs(torch.nn.Module):
    """In the place of transformers' class."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "theirs").touch()


@pytest.fixture
def with_theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("transformers")
    module.CLIPTextModel = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    adapter._adapted_class.cache_clear()
    yield
    adapter._adapted_class.cache_clear()


@pytest.mark.usefixtures("with_theirs")
def test_saving_is_ours(tmp_path: Path) -> None:
    model = clip_torch.CLIPTextModel.from_pretrained("emoji")
    adapted = clip_torch.as_transformers(model)
    assert isinstance(adapted, Theirs) and isinstance(adapted, clip_torch.CLIPTextModel)
    assert "safe_serialization" in inspect.signature(adapted.save_pretrained).parameters  # diffusers looks for it
    adapted.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    again = clip_torch.CLIPTextModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.usefixtures("with_theirs")
def test_the_adapted_class_is_pickled_by_what_it_was_made_of() -> None:
    """It has transformers' name, under which pickle would find another class."""
    kind = type(clip_torch.as_transformers(clip_torch.CLIPTextModel.from_pretrained("emoji")))
    assert pickle.loads(pickle.dumps(kind)) is kind


@pytest.mark.usefixtures("with_theirs")
def test_a_class_around_the_adapted_model_leaves_its_weights_alone() -> None:
    """transformers 4 passes a module, transformers 5 a flag too."""
    adapted = clip_torch.as_transformers(clip_torch.CLIPTextModel.from_pretrained("emoji"))
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    for further in ((), (True,)):
        for module in adapted.modules():
            adapted._initialize_weights(module, *further)
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.state_dict().items())


def test_adapters_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    model = clip_torch.CLIPTextModel.from_pretrained("emoji")
    for call in (model.active_adapters, model.enable_adapters, lambda: model.set_adapter("a")):
        with pytest.raises(ValueError, match="no adapter loaded"):
            call()
    with pytest.raises(ValueError, match="wanted peft_model_id, or both"):
        model.load_adapter()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(clip_torch.MissingDependencyError, match="pip install peft"):
        model.add_adapter(object())


def test_importing_the_backend_imports_neither_transformers_nor_peft() -> None:
    program = (
        "import sys; import clip_torch; clip_torch.as_transformers\n"
        "print(sorted({'transformers', 'peft', 'clip_core.image.processor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
