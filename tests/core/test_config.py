"""Configs against transformers 4.37.2 (tests/golden/make_config.py), and impossible values."""

from __future__ import annotations

import copy
import importlib.util
import inspect
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
        cls(**{key: value}).validate()
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("cls", [CLIPTextConfig, CLIPVisionConfig])
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
def test_impossible_numbers(cls: type, value: Any) -> None:
    for key in ("initializer_range", "initializer_factor", "attention_dropout", "layer_norm_eps"):
        with pytest.raises(ConfigError, match=f"{cls.__name__}: {key}: wanted"):
            cls(**{key: value}).validate()
    with pytest.raises(ConfigError, match="CLIPConfig: logit_scale_init_value: wanted a finite number"):
        CLIPConfig(logit_scale_init_value=value).validate()


@pytest.mark.parametrize(
    "cls, values, message",
    [
        (CLIPTextConfig, {"num_hidden_layers": -1}, "num_hidden_layers: wanted an integer from 0 to"),
        (CLIPTextConfig, {"num_hidden_layers": HUGE}, "num_hidden_layers: wanted an integer from 0 to"),
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
        cls(**values).validate()


@pytest.mark.parametrize(
    "cls, values, message, completed",
    [
        (
            CLIPTextConfig,
            {"num_attention_heads": 7},
            "wanted a divisor of hidden_size 512, found 7",
            {"hidden_size": 511},
        ),
        (
            CLIPVisionConfig,
            {"hidden_size": 1280},
            "wanted a divisor of hidden_size 1280, found 12",
            {"num_attention_heads": 16},
        ),
        (
            CLIPVisionConfig,
            {"patch_size": 300},
            "patch_size: wanted at most image_size 224, found 300",
            {"image_size": 448},
        ),
        (CLIPTextConfig, {"pruned_heads": {0: [99]}}, "pruned_heads: wanted", {"pruned_heads": {0: [1]}}),
    ],
)
def test_values_may_be_completed_after_they_were_given(cls, values, message, completed, tmp_path) -> None:
    config = cls(**values)
    for made in (config, cls.from_dict(values), CLIPConfig(**{cls._key_in_full_model: values})):
        with pytest.raises(ConfigError, match=message):
            made.validate()
    config.save_pretrained(tmp_path)
    read = cls.from_pretrained(tmp_path)
    for key, value in completed.items():
        setattr(read, key, value)
    read.validate()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_local_path_is_not_written(cls: type, tmp_path: Path, monkeypatch: Any) -> None:
    """A config that is published must not tell where it was on a disk; a hub's name may be told."""
    cls().save_pretrained(tmp_path / "secret" / "folder")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "secret" / "folder", "secret/folder", "secret/folder/config.json", "./secret/folder"):
        config = cls.from_pretrained(place)
        assert config.name_or_path == ""  # a model's is the place that it was loaded from
        config.name_or_path = place
        config.save_pretrained(tmp_path / "out")
        assert "secret" not in (tmp_path / "out" / "config.json").read_text()
    full = CLIPConfig.from_text_vision_configs(
        CLIPTextConfig(_name_or_path=str(tmp_path)), CLIPVisionConfig(name_or_path="~/models/x")
    )
    assert "_name_or_path" not in full.to_json_string()
    config = cls(name_or_path="openai/clip-vit-base-patch32")
    assert json.loads(config.to_json_string())["_name_or_path"] == "openai/clip-vit-base-patch32"


def test_other_names_of_fields(tmp_path: Path) -> None:
    class Config(CLIPTextConfig):
        attribute_map = {"n_embd": "hidden_size"}

    config = Config()
    config.n_embd = 64
    assert config.hidden_size == config.n_embd == 64
    config.n_embd = 32
    assert (config.hidden_size, "n_embd" in config.to_dict()) == (32, False)
    assert CLIPTextConfig.attribute_map == {} and not CLIPTextConfig.is_composition and not CLIPConfig.is_composition
    with pytest.raises(AttributeError, match="'CLIPTextConfig' object has no attribute 'n_embd'"):
        CLIPTextConfig().n_embd  # noqa: B018
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(CLIPTextConfig(hidden_size=32)))


NAMES = json.loads((GOLDEN / "config_names.json").read_text("utf-8"))  # tests/golden/make_config_names.py


@pytest.mark.parametrize("kind", NAMES)
def test_public_names_and_their_parameters_are_v4_37_s(kind: str) -> None:
    config = getattr(clip_core, kind)()
    for name, parameters in NAMES[kind].items():
        if name == "register_for_auto_class":
            with pytest.raises(AttributeError, match="no auto classes"):
                getattr(config, name)
            continue
        value = getattr(config, name)
        if parameters is not None:
            ours = [p.name for p in inspect.signature(value).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
            wanted = [p for p in parameters if not p.startswith("*") and p != "self"]
            assert ours[: len(wanted)] == wanted, name


def test_update_from_string_as_transformers_does() -> None:
    config = CLIPTextConfig()
    config.update_from_string("hidden_size=64,layer_norm_eps=0.5,return_dict=no,hidden_act=gelu")
    assert (config.hidden_size, config.layer_norm_eps, config.return_dict, config.hidden_act) == (
        64,
        0.5,
        False,
        "gelu",
    )
    for text in ("nothing=1", "hidden_size", "hidden_size=many", "return_dict=perhaps", "pruned_heads=1"):
        with pytest.raises(ValueError, match=text.partition("=")[0]):
            config.update_from_string(text)
    values = {"torch_dtype": np.float32, "inner": {"torch_dtype": "torch.float16"}}
    config.dict_torch_dtype_to_str(values)
    assert values == {"torch_dtype": "float32", "inner": {"torch_dtype": "float16"}}


class Foreign:
    """A config object of another library: what transformers' own have."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def to_dict(self) -> dict[str, Any]:
        return self.values


def test_configs_of_another_library_are_taken_by_their_fields() -> None:
    text = Foreign(model_type="clip_text_model", hidden_size=64, transformers_version="4.57.6", torch_dtype="float16")
    joined = CLIPConfig.from_text_vision_configs(text, Foreign(model_type="clip_vision_model", patch_size=16))
    assert (joined.text_config.hidden_size, joined.vision_config.patch_size) == (64, 16)
    assert CLIPConfig(text_config=text).text_config == joined.text_config


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_config_of_another_model_is_warned_of_by_name(cls: type, kind: str, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 64}))
    cls.from_pretrained(tmp_path)
    assert f"of type {kind} to instantiate a model of type {cls.model_type}" in caplog.text
    caplog.clear()
    cls().save_pretrained(tmp_path)
    cls.from_pretrained(tmp_path)
    assert not caplog.text


def test_saving_takes_the_keywords_of_an_upload(tmp_path: Path, monkeypatch: Any) -> None:
    uploads: list[Any] = []
    monkeypatch.setattr("clip_core.config_base.upload_files", lambda folder, **how: uploads.append((folder, how)))
    CLIPTextConfig().save_pretrained(tmp_path / "x", commit_message="m", repo_id="a/b", private=True, token="t")
    assert not uploads and (tmp_path / "x" / "config.json").is_file()
    CLIPTextConfig().save_pretrained(tmp_path / "x", push_to_hub=True, token="t")
    how = {"files": ["config.json"], "repo_id": "x", "commit_message": "Upload config", "token": "t"}
    assert uploads == [(tmp_path / "x", how)]
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        CLIPTextConfig().save_pretrained(tmp_path, colour="red")


def test_an_impossible_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"text_config": {"hidden_size": -1}, "vision_config": {}, "model_type": "clip"}')
    for act in (lambda: CLIPConfig.from_pretrained(tmp_path), lambda: CLIPConfig.from_json_file(path)):
        with pytest.raises(ConfigError, match=f"{tmp_path}.*CLIPTextConfig: hidden_size: wanted"):
            act()


@pytest.mark.parametrize("cls, key", [(cls, key) for cls, keys in SIZES.items() for key in keys])
def test_a_constructor_takes_what_is_completed_later(cls: type, key: str) -> None:
    for value in (0, None, "?"):
        config = cls(**{key: value})
        setattr(config, key, 8)
        config.update({"hidden_size": 8, "num_attention_heads": 1, "image_size": 32})
        config.validate()


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
