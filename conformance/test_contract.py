"""Signatures and attribute names: as documented, and alike across the backends."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from . import cases as data
from .adaptors import ADAPTORS
from .check_saved import FORMS
from .compare import GOLDEN
from .signatures import BACKENDS, REQUIRED

METHODS = [
    (backend, cls, method, signature)
    for backend, classes in BACKENDS.items()
    if backend in ADAPTORS
    for cls, methods in classes.items()
    for method, signature in methods.items()
]


@pytest.mark.parametrize("backend, cls, method, wanted", METHODS, ids=lambda value: value if type(value) is str else "")
def test_documented_parameters_and_defaults(backend: str, cls: str, method: str, wanted: dict[str, Any]) -> None:
    adaptor = ADAPTORS[backend]
    if not adaptor.installed():
        pytest.skip(f"{adaptor.installed_as} is not installed")
    parameters = list(inspect.signature(getattr(getattr(adaptor.module(), cls), method)).parameters.values())[1:]
    for parameter, (name, default) in zip(parameters, wanted.items(), strict=False):
        assert parameter.name == name
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default == REQUIRED:
            assert parameter.default is inspect.Parameter.empty, name
        elif default == "float32":
            assert getattr(parameter.default, "__name__", parameter.default) == "float32"
        else:
            assert parameter.default == default and type(parameter.default) is type(default), name
    assert len(parameters) >= len(wanted), "documented parameters are missing"
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    extra = parameters[len(wanted) :]
    assert all(p.default is not inspect.Parameter.empty or p.kind in variadic for p in extra), extra


@pytest.mark.parametrize("backend", ADAPTORS)
def test_reexports(backend: str) -> None:
    """Every backend exports the core's public names, and all its own in `__all__`."""
    import clip_core

    adaptor = ADAPTORS[backend]
    if not adaptor.installed():
        pytest.skip(f"{adaptor.installed_as} is not installed")
    module = adaptor.module()
    assert set(clip_core.__all__) <= set(module.__all__)
    assert all(getattr(module, name) is getattr(clip_core, name) for name in clip_core.__all__)
    assert all(hasattr(module, adaptor.prefix + cls) for cls in (*data.CLASSES, "CLIPPreTrainedModel"))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        module.Nonsense  # noqa: B018


def test_what_we_save_loads_elsewhere() -> None:
    """As recorded by `check_saved.py` with three versions of transformers: every class, every form of file."""
    record = json.loads((GOLDEN / "saved.json").read_text())
    assert set(record) == {f"transformers {version}" for version in ("4.37.2", "4.57.6", "5.23.0")}
    clean = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "agrees": True}
    for found in record.values():
        assert found == {f"{cls} {form}": clean for cls in data.CLASSES for form in FORMS}
