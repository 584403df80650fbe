"""Tokenizers and processors as instances of transformers' classes.

A module with classes of the same names replaces transformers.
"""

import copy
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from clip_core import (
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPTokenizerFast,
    MissingDependencyError,
    adapter,
)


@pytest.fixture
def transformers(monkeypatch):
    module = ModuleType("transformers")
    for name in ("CLIPTokenizer", "CLIPTokenizerFast", "CLIPImageProcessor", "CLIPProcessor"):
        setattr(module, name, type(name, (), {"__module__": "transformers", "theirs": lambda self: "theirs"}))
    monkeypatch.setitem(sys.modules, "transformers", module)
    adapter._adapted_class.cache_clear()
    yield module
    adapter._adapted_class.cache_clear()


@pytest.mark.parametrize("kind", [CLIPTokenizer, CLIPTokenizerFast, CLIPImageProcessor])
def test_an_instance_of_both_with_our_behaviour(kind, transformers):
    part = kind()
    adapted = adapter.as_transformers(part)
    theirs = getattr(transformers, kind.__name__)
    assert isinstance(adapted, kind) and isinstance(adapted, theirs) and adapted.theirs() == "theirs"
    assert (type(adapted).__module__, type(adapted).__name__) == ("transformers", kind.__name__)
    assert adapter.as_transformers(adapted) is adapted
    if kind is not CLIPImageProcessor:
        assert adapted("a cat").data == part("a cat").data
        adapted.add_tokens(["<x>"])
        assert part("<x>").data == adapted("<x>").data and len(part) == 49409


def test_a_processor_has_adapted_parts(transformers):
    processor = CLIPProcessor(CLIPImageProcessor(), CLIPTokenizerFast())
    adapted = adapter.as_transformers(processor)
    assert isinstance(adapted, transformers.CLIPProcessor)
    assert isinstance(adapted.tokenizer, transformers.CLIPTokenizerFast)
    assert isinstance(adapted.image_processor, transformers.CLIPImageProcessor)
    picture = np.zeros((30, 40, 3), np.uint8)
    ours, theirs = (p(text="a cat", images=picture, return_tensors="np") for p in (processor, adapted))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours) and list(ours) == list(theirs)
    assert type(processor.tokenizer) is CLIPTokenizerFast


def test_copies_are_adapted_and_apart(transformers):
    adapted = adapter.as_transformers(CLIPTokenizerFast())
    twin, again = copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))
    assert type(twin) is type(again) is type(adapted)
    assert twin.add_tokens(["<x>"]) == 1 and len(adapted) == len(again) == 49408


def test_what_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="wanted one of CLIPTokenizerFast, .* found builtins.int"):
        adapter.as_transformers(1)
    monkeypatch.setitem(sys.modules, "transformers", None)
    adapter._adapted_class.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install transformers"):
        adapter.as_transformers(CLIPTokenizer())
