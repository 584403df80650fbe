"""Configs against transformers 4.37.2 (tests/golden/make_config.py), and what no config may hold."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_core
from clip_core import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, ConfigError

GOLDEN = Path(__file__).parent.parent / "golden"
ENTRIES = json.loads((GOLDEN / "config" / "configs.json").read_text())
CLASSES = (CLIPTextConfig, CLIPVisionConfig, CLIPConfig)


def _recipe() -> Any:
    """The golden script as a module: its cases are made by the same lines here."""
    spec = importlib.util.spec_from_file_location("make_config", GOLDEN / "make_config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = _recipe()


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's view, without the version that wrote it and the folder it was read from."""
    values = json.loads(json.dumps(values))
    for part in (values, values.get("text_config", {}), values.get("vision_config", {})):
        part.pop("transformers_version", None)
        part.pop("_name_or_path", None)
    return values


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_as_transformers_makes_them(number: int) -> None:
    entry = ENTRIES[number]
    config, unused = RECIPE.make(entry, clip_core)
    for form in ("to_dict", "to_diff_dict"):
        assert _comparable(getattr(config, form)()) == _comparable(entry[form]), form
    if entry["unused"] is not None:
        assert {key: str(value).removeprefix("torch.") for key, value in unused.items()} == {
            key: value.removeprefix("torch.") for key, value in entry["unused"].items()
        }
    assert config.num_labels == entry["num_labels"]
    assert config.use_return_dict == entry["use_return_dict"]


@pytest.mark.parametrize("cls", CLASSES)
def test_files_round_trip(cls: type, tmp_path: Path) -> None:
    values = {"projection_dim": 96, "output_attentions": True, "my_own": [1, {"a": None}], "num_labels": 4}
    config = cls(**values)
    config.save_pretrained(tmp_path / "new" / "folder")
    again = cls.from_pretrained(tmp_path / "new" / "folder")
    assert _comparable(again.to_diff_dict()) == _comparable(config.to_diff_dict())
    assert again.my_own == [1, {"a": None}]
    assert again.num_labels == 4
    config.to_json_file(tmp_path / "whole.json", use_diff=False)
    assert cls.from_json_file(tmp_path / "whole.json") == config
    text = config.to_json_string()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert repr(config) == f"{cls.__name__} {text}"


@pytest.mark.parametrize("cls", CLASSES)
def test_copies_are_equal_and_apart(cls: type) -> None:
    config = cls(my_own={"a": [1]})
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), cls(**config.to_dict())):
        assert twin == config
        twin.my_own["a"].append(2)
        assert twin != config
    given = {"text_config": {"hidden_size": 64}, "pruned_heads": {0: [1]}, "id2label": {0: "a"}, "mine": [1]}
    before = copy.deepcopy(given)
    made = CLIPConfig(**given)
    made.text_config.hidden_size = 128
    made.mine.append(2)
    made.pruned_heads[0].append(2)
    made.id2label[1] = "b"
    assert made.text_config.hidden_size == 128
    given_mine = given.pop("mine")
    before.pop("mine")
    assert given == before
    assert given_mine == [1, 2], "as in v4.37, an unknown value is kept as it is, not copied"


def test_sub_configs_may_be_objects() -> None:
    text, vision = CLIPTextConfig(hidden_size=64), CLIPVisionConfig(patch_size=16)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    assert config.text_config == text
    assert config.text_config is not text
    assert config.vision_config.patch_size == 16
    assert CLIPConfig.from_text_vision_configs(text, vision, projection_dim=32) == config


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["float16", "torch.float16", np.float16, np.dtype("float16"), "torch"])
def test_forms_of_a_dtype(name: str, value: Any) -> None:
    if value == "torch":
        value = pytest.importorskip("torch", reason="the torch form of a dtype needs torch").float16
    config = CLIPTextConfig(**{name: value})
    assert config.torch_dtype == "float16"
    assert json.loads(config.to_json_string())["torch_dtype"] == "float16"
    assert "dtype" not in config.to_dict()
    config = CLIPTextConfig.from_dict({}, **{name: value})
    assert config.to_dict()["torch_dtype"] == "float16"
    config.torch_dtype = value
    assert config.to_dict()["torch_dtype"] == "float16"


def test_a_callable_activation_is_saved_by_its_name() -> None:
    def gelu(x: Any) -> Any:
        return x

    config = CLIPTextConfig(hidden_act=gelu)
    assert config.hidden_act is gelu
    assert json.loads(config.to_json_string())["hidden_act"] == "gelu"
    with pytest.raises(ConfigError, match="hidden_act: a callable can only be saved when its name is one of gelu"):
        CLIPTextConfig(hidden_act=lambda x: x).to_dict()


HUGE = 10**12
BAD_SIZES = (0, -1, 2.0, 2.5, "4", None, True, HUGE, float("nan"), [3])
BAD_NUMBERS = (float("nan"), float("inf"), "0.1", None, True, [1.0])
SIZES = {
    CLIPTextConfig: CLIPTextConfig._positive,
    CLIPVisionConfig: CLIPVisionConfig._positive,
    CLIPConfig: CLIPConfig._positive,
}


@pytest.mark.parametrize("value", BAD_SIZES, ids=repr)
@pytest.mark.parametrize("cls, key", [(cls, key) for cls, keys in SIZES.items() for key in keys])
def test_impossible_sizes(cls: type, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{cls.__name__}: {key}: wanted an integer from 1 to \d+, found") as raised:
        cls(**{key: value})
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("cls", [CLIPTextConfig, CLIPVisionConfig])
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
def test_impossible_numbers(cls: type, value: Any) -> None:
    for key in ("initializer_range", "initializer_factor", "attention_dropout", "layer_norm_eps"):
        with pytest.raises(ConfigError, match=f"{cls.__name__}: {key}: wanted"):
            cls(**{key: value})
    with pytest.raises(ConfigError, match="CLIPConfig: logit_scale_init_value: wanted a finite number"):
        CLIPConfig(logit_scale_init_value=value)


@pytest.mark.parametrize(
    "cls, values, message",
    [
        (CLIPTextConfig, {"num_hidden_layers": -1}, "num_hidden_layers: wanted an integer from 0 to"),
        (CLIPTextConfig, {"num_hidden_layers": HUGE}, "num_hidden_layers: wanted an integer from 0 to"),
        (CLIPTextConfig, {"num_attention_heads": 7}, "wanted a divisor of hidden_size 512, found 7"),
        (CLIPVisionConfig, {"num_attention_heads": 5}, "a divisor of hidden_size 768, found 5"),
        (CLIPVisionConfig, {"patch_size": 300}, "patch_size: wanted at most image_size 224, found 300"),
        (CLIPTextConfig, {"hidden_act": "swish7"}, "hidden_act: wanted one of gelu, gelu_new, .*found 'swish7'"),
        (CLIPTextConfig, {"hidden_act": None}, "hidden_act: wanted one of"),
        (CLIPTextConfig, {"hidden_act": ["gelu"]}, "hidden_act: wanted one of"),
        (CLIPTextConfig, {"attention_dropout": 1.5}, "attention_dropout: wanted 0.0 to 1.0, found 1.5"),
        (CLIPTextConfig, {"attention_dropout": -0.1}, "attention_dropout: wanted 0.0 to 1.0"),
        (CLIPVisionConfig, {"layer_norm_eps": -1e-5}, "layer_norm_eps: wanted 0.0 to 1.0"),
        (CLIPTextConfig, {"eos_token_id": "2"}, "eos_token_id: wanted"),
        (CLIPTextConfig, {"eos_token_id": 2.5}, "eos_token_id: wanted"),
        (CLIPTextConfig, {"pruned_heads": {"x": [1]}}, "pruned_heads: wanted"),
        (CLIPTextConfig, {"pruned_heads": [1]}, "pruned_heads: wanted"),
        (CLIPTextConfig, {"pruned_heads": {0: [99]}}, "pruned_heads: wanted"),
        (CLIPTextConfig, {"id2label": ["a"]}, "id2label: wanted"),
        (CLIPTextConfig, {"id2label": {"a": 1}}, "id2label: wanted"),
        (CLIPTextConfig, {"num_labels": "many"}, "num_labels: wanted"),
        (CLIPTextConfig, {"num_labels": -1}, "num_labels: wanted"),
        (CLIPConfig, {"text_config": {"hidden_size": -1}}, "CLIPTextConfig: hidden_size: wanted"),
        (CLIPConfig, {"vision_config": {"num_attention_heads": 0}}, "CLIPVisionConfig: num_attention_heads: wanted"),
        (CLIPConfig, {"text_config": "large"}, "CLIPConfig: text_config: wanted a dict or a CLIPTextConfig"),
        (CLIPConfig, {"vision_config": [1]}, "CLIPConfig: vision_config: wanted a dict or a CLIPVisionConfig"),
        (CLIPConfig, {"text_config_dict": 3}, "CLIPConfig: text_config_dict: wanted a dict"),
        (CLIPConfig, {"text_config": CLIPVisionConfig()}, "CLIPConfig: text_config: wanted a dict or a CLIPTextConfig"),
    ],
)
def test_other_impossible_values(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**values)


def test_values_set_later_are_checked_when_used() -> None:
    config = CLIPTextConfig()
    config.hidden_size = 500
    with pytest.raises(ConfigError, match="num_attention_heads: wanted a divisor of hidden_size 500"):
        config.validate()
    with pytest.raises(ConfigError, match="hidden_size: wanted"):
        CLIPConfig.from_dict({}, text_config={"hidden_size": 0})
    with pytest.raises(ConfigError, match="projection_dim: wanted"):
        CLIPTextConfig.from_dict({}, projection_dim=-3)


def test_numpy_integers_are_integers(tmp_path: Path) -> None:
    config = CLIPTextConfig(hidden_size=np.int64(64), layer_norm_eps=np.float32(1e-5), num_attention_heads=np.int32(4))
    config.save_pretrained(tmp_path)
    again = CLIPTextConfig.from_pretrained(tmp_path)
    assert again.hidden_size == 64
    assert type(again.hidden_size) is int


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "does not parse"),
        (b"{", "does not parse"),
        (b"[1, 2]", "wanted a JSON object, found list"),
        (b"\xff\xfe", "does not parse"),
        (b"[" * 100_000, "does not parse"),
        (b'{"hidden_size": NaN}', "hidden_size: wanted"),
    ],
    ids=["empty", "cut off", "list", "not text", "nested without end", "NaN"],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        CLIPTextConfig.from_pretrained(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config.json"):
        CLIPConfig.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        CLIPConfig.from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_a_full_config_without_the_tower_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {}}')
    with pytest.raises(ConfigError, match="CLIPTextConfig: wanted 'text_config' in the full model's config"):
        CLIPTextConfig.from_pretrained(tmp_path)


def test_saving_over_a_file_and_never_half(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match="taken"):
        CLIPConfig().save_pretrained(tmp_path / "taken")
    config = CLIPTextConfig(note=object())
    with pytest.raises((TypeError, ConfigError)):
        config.save_pretrained(tmp_path / "folder")
    assert not list((tmp_path / "folder").glob("*"))
