"""Output classes: mapping, attribute and index access, absent fields, order, copies."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from clip_core.outputs import (
    OUTPUT_CLASSES,
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    FlaxCLIPOutput,
    ImageClassifierOutput,
    ModelOutput,
    flatten,
    unflatten,
)

# v4.37's fields, in order
FIELDS = {
    BaseModelOutput: "last_hidden_state hidden_states attentions",
    BaseModelOutputWithPooling: "last_hidden_state pooler_output hidden_states attentions",
    CLIPTextModelOutput: "text_embeds last_hidden_state hidden_states attentions",
    ImageClassifierOutput: "loss logits hidden_states attentions",
    CLIPVisionModelOutput: "image_embeds last_hidden_state hidden_states attentions",
    CLIPOutput: "loss logits_per_image logits_per_text text_embeds image_embeds text_model_output vision_model_output",
    FlaxCLIPOutput: "logits_per_image logits_per_text text_embeds image_embeds text_model_output vision_model_output",
}


@pytest.mark.parametrize("cls", OUTPUT_CLASSES)
def test_fields_and_order(cls: type) -> None:
    assert is_dataclass(cls)
    assert [field.name for field in fields(cls)] == FIELDS[cls].split()
    assert all(field.default is None for field in fields(cls))
    assert list(cls(**{name: np.zeros(1) for name in reversed(FIELDS[cls].split())})) == FIELDS[cls].split()


def test_access() -> None:
    last, pooled = np.ones((1, 2)), np.zeros(3)
    out = BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled, attentions=(last,))
    assert out.last_hidden_state is out["last_hidden_state"] is out[0] is last
    assert out[1] is out.pooler_output is pooled
    assert out[-1] == (last,)
    assert out[:2] == (last, pooled)
    assert out.hidden_states is None
    assert "hidden_states" not in out
    assert list(out.keys()) == ["last_hidden_state", "pooler_output", "attentions"]
    assert [value is not None for value in out.values()] == [True] * 3
    assert out.get("hidden_states") is None
    assert len(out) == 3
    assert dict(out) == {"last_hidden_state": last, "pooler_output": pooled, "attentions": (last,)}
    assert dict(**out).keys() == out.keys()
    with pytest.raises(KeyError):
        out["hidden_states"]
    with pytest.raises(IndexError):
        out[3]
    with pytest.raises(AttributeError):
        out.nonsense  # noqa: B018


def test_to_tuple() -> None:
    last, pooled = np.ones(2), np.zeros(3)
    assert BaseModelOutputWithPooling(last, pooled).to_tuple() == (last, pooled)
    assert BaseModelOutputWithPooling(pooler_output=pooled).to_tuple() == (pooled,)
    first, *rest = BaseModelOutputWithPooling(last, pooled).to_tuple()
    assert first is last
    assert rest == [pooled]
    tower = BaseModelOutputWithPooling(last, pooled, hidden_states=(last,))
    for cls in (CLIPOutput, FlaxCLIPOutput):
        out = cls(logits_per_image=last, text_model_output=tower, vision_model_output=tower)
        assert out.to_tuple() == (last, (last, pooled, (last,)), (last, pooled, (last,)))
        assert out[1] == (last, pooled, (last,)), "by index a tower is a tuple, by name an output"
        assert out.text_model_output is tower


def test_setting_keeps_views_alike() -> None:
    out = BaseModelOutput(np.ones(2))
    out.last_hidden_state = 5
    assert out["last_hidden_state"] == out[0] == 5
    out["last_hidden_state"] = 6
    assert out.last_hidden_state == 6
    out["hidden_states"] = (1,)
    assert out.hidden_states == (1,)
    assert out.to_tuple() == (6, (1,))


@pytest.mark.parametrize("action", ["pop", "setdefault", "update", "__delitem__", "popitem", "clear"])
def test_fields_cannot_be_taken_out(action: str) -> None:
    out = BaseModelOutput(1, (2,))
    arguments = {"update": ({"attentions": 1},), "popitem": (), "clear": ()}.get(action, ("last_hidden_state",))
    with pytest.raises(TypeError, match="BaseModelOutput is a fixed record"):
        getattr(out, action)(*arguments)
    assert out.to_tuple() == (1, (2,))


def test_from_pairs_and_mappings() -> None:
    for given in ({"pooler_output": 2}, [("pooler_output", 2)], iter([("pooler_output", 2)])):
        out = BaseModelOutputWithPooling(given)
        assert out.to_tuple() == (2,)
        assert out.last_hidden_state is None
    with pytest.raises(KeyError, match="has no field 'nonsense'"):
        BaseModelOutput({"nonsense": 1})
    values = np.arange(4).reshape(2, 2)
    assert BaseModelOutput(values).last_hidden_state is values, "an array is a value, not pairs"


@pytest.mark.parametrize("cls", OUTPUT_CLASSES)
def test_pickles_and_copies(cls: type) -> None:
    names = FIELDS[cls].split()
    out = cls(**{names[1]: np.arange(3), names[2]: (np.ones(2),)})
    for twin in (pickle.loads(pickle.dumps(out)), copy.deepcopy(out), copy.copy(out)):
        assert type(twin) is cls
        assert list(twin) == list(out)
        np.testing.assert_array_equal(twin[0], out[0])
        assert getattr(twin, names[0]) is None
    assert copy.copy(out)[0] is out[0]
    assert copy.deepcopy(out)[0] is not out[0]


def test_nested_pickle() -> None:
    out = CLIPOutput(loss=1.0, text_model_output=BaseModelOutputWithPooling(1, 2))
    twin = pickle.loads(pickle.dumps(out))
    assert type(twin.text_model_output) is BaseModelOutputWithPooling
    assert twin.to_tuple() == (1.0, (1, 2))


def test_replace_leaves_the_original() -> None:
    out = BaseModelOutput(1, (2,))
    changed = out.replace(last_hidden_state=3)
    assert changed.to_tuple() == (3, (2,))
    assert out.to_tuple() == (1, (2,))


@pytest.mark.parametrize("cls", OUTPUT_CLASSES)
def test_flatten_and_unflatten(cls: type) -> None:
    names = FIELDS[cls].split()
    out = cls(**{names[0]: 1, names[2]: (2, 3)})
    values, keys = flatten(out)
    assert (values, keys) == ([1, (2, 3)], (names[0], names[2]))
    again = unflatten(cls, keys, [object(), [("a", 1)]])
    assert type(again) is cls
    assert again[names[2]] == [("a", 1)], "placeholders of any kind are kept as they are"
    assert isinstance(again, ModelOutput)


def test_iteration_is_over_names() -> None:
    out = BaseModelOutput(1, (2,))
    assert list(out) == ["last_hidden_state", "hidden_states"]
    assert ("last_hidden_state" in out) is True
    assert repr(out).startswith("BaseModelOutput(")


def test_what_is_no_output_says_so() -> None:
    class Plain(ModelOutput):
        """Without @dataclass."""

    with pytest.raises(TypeError, match="Plain: wanted a dataclass"):
        Plain(a=1)
    assert ModelOutput({"a": 1})["a"] == 1
    with pytest.raises(ValueError, match=r"wanted \(name, value\) pairs throughout, found \(10, 10\)"):
        BaseModelOutput([("last_hidden_state", 1), (10, 10)])
    assert BaseModelOutput(last_hidden_state=(30, 30)).last_hidden_state == (30, 30)
