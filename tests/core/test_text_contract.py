"""Public names and parameters of the tokenizers, the processor and the batches, against v4.37.2's.

tests/golden/make_names.py reads them from the real classes.
"""

import inspect
import json
from pathlib import Path

import pytest

from clip_core import BatchFeature, CLIPImageProcessor, CLIPProcessor, CLIPTokenizer, CLIPTokenizerFast
from clip_core.absent import ABSENT

NAMES = json.loads((Path(__file__).parents[1] / "golden/text_names.json").read_text("utf-8"))
NEEDS_A_LIBRARY = {"backend_tokenizer", "decoder"}  # of the fast tokenizer: the extra `tokenizers`
LACKED = 56  # of these names before they were read off


@pytest.fixture(scope="module")
def objects():
    fast = CLIPTokenizerFast()
    made = [CLIPTokenizer(), fast, CLIPProcessor(CLIPImageProcessor(), fast), fast("a"), BatchFeature()]
    return {type(item).__name__: item for item in made}


@pytest.mark.parametrize("kind", NAMES)
def test_every_public_name_is_here_or_says_what_to_use(kind, objects):
    item = objects[kind]
    for name in NAMES[kind]:
        if name in NEEDS_A_LIBRARY and kind == "CLIPTokenizerFast":
            assert isinstance(inspect.getattr_static(item, name), property)
        elif any(name in table for table in ABSENT.values()) and not hasattr(item, name):
            with pytest.raises(AttributeError, match=f"{kind} has no '{name}': .{{20}}"):
                getattr(item, name)
        else:
            assert hasattr(item, name), name


def test_few_names_are_refused(objects):
    refused = [
        (kind, name)
        for kind, item in objects.items()
        for name in NAMES[kind]
        if name not in NEEDS_A_LIBRARY and not hasattr(item, name)
    ]
    assert len(refused) <= LACKED / 5, refused


# Keywords instead of a part's own parameters, and `to`, which takes what torch's does.
OPEN = {("BatchEncoding", "to"), ("CLIPProcessor", "tokenizer"), ("CLIPProcessor", "image_processor")}


@pytest.mark.parametrize("kind", NAMES)
def test_parameters_have_v4_37_s_order(kind, objects):
    """They come first, in the same order; ours may have further ones behind them."""
    wrong = {}
    for name, parameters in NAMES[kind].items():
        value = None if name in NEEDS_A_LIBRARY else getattr(objects[kind], name, None)
        if not parameters or not callable(value) or (kind, name) in OPEN or hasattr(dict, name):
            continue
        wanted = [parameter for parameter in parameters if not parameter.startswith("*")]
        found = list(inspect.signature(value).parameters)
        if [parameter for parameter in found if parameter in wanted] != wanted or not set(found[: len(wanted)]) <= {
            *wanted, "init_inputs"
        }:  # fmt: skip
            wrong[name] = (wanted, found)
    assert wrong == {}


def test_an_unknown_name_is_a_plain_attribute_error(objects):
    for item in objects.values():
        with pytest.raises(AttributeError, match="no_such_name"):
            item.no_such_name  # noqa: B018
