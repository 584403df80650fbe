"""from_pretrained and save_pretrained of the PyTorch classes."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip_torch
from clip_torch import (
    CheckpointError,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ConfigError,
)
from conformance import cases as data
from conformance.adaptors import Torch

CASES = {case.name: case for case in data.cases()}
ADAPTOR = Torch()
TOWERS = [CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection]
WEIGHTS = "model.safetensors"


def build(cls: str = "CLIPModel") -> Any:
    return ADAPTOR.build(CASES[f"class.{cls}"])


def inputs_of(cls: str = "CLIPModel") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in data.draw_inputs(CASES[f"class.{cls}"]).items()}


def same(a: Any, b: Any) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A full model, saved."""
    build().save_pretrained(tmp_path / "full")
    return tmp_path / "full"


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", data.CLASSES)
@pytest.mark.parametrize("safe", [True, False])
def test_save_and_load(cls: str, safe: bool, tmp_path: Path) -> None:
    model = build(cls)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    assert (tmp_path / (WEIGHTS if safe else "pytorch_model.bin")).is_file()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [cls]
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert same(model, again)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    got, want = again(**inputs_of(cls)), model(**inputs_of(cls))
    assert all(torch.equal(a, b) for a, b in zip(data.flatten(got).values(), data.flatten(want).values(), strict=True))


def test_state_dicts_of_torch_itself(tmp_path: Path) -> None:
    model, other = build(), CLIPModel(CLIPConfig(**data.full()))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert same(model, other)


@pytest.mark.parametrize("safe", [True, False])
def test_shards(safe: bool, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path, max_shard_size="20KB", safe_serialization=safe)
    stem = "model.safetensors" if safe else "pytorch_model.bin"
    index = json.loads((tmp_path / f"{stem}.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert set(index["weight_map"]) == set(model.state_dict())
    assert same(CLIPModel.from_pretrained(tmp_path), model)
    model.save_pretrained(tmp_path, safe_serialization=safe)  # a smaller set of files replaces a larger one
    assert not list(tmp_path.glob("*index.json"))
    assert same(CLIPModel.from_pretrained(tmp_path), model)


def test_variant(tmp_path: Path) -> None:
    model = build().half()
    model.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "model.fp16.safetensors").is_file()
    assert same(CLIPModel.from_pretrained(tmp_path, variant="fp16", torch_dtype="auto"), model)


def test_other_weights_and_other_processes(tmp_path: Path) -> None:
    model, other = build("CLIPTextModel"), CLIPTextModel(CLIPTextConfig(**data.text()))
    other.save_pretrained(tmp_path / "a", state_dict=model.state_dict())
    assert same(CLIPTextModel.from_pretrained(tmp_path / "a"), model)
    other.save_pretrained(tmp_path / "b", is_main_process=False)
    assert not (tmp_path / "b").exists()


def test_saving_changes_nothing_in_the_model(tmp_path: Path) -> None:
    model = build()
    before = model.config.to_dict()
    model.half().save_pretrained(tmp_path)
    assert model.config.to_dict() == before
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float16"


def test_loaded_weights_are_writable_and_the_models_own(folder: Path) -> None:
    first, second = CLIPModel.from_pretrained(folder), CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    assert same(second, build())
    os.truncate(folder / WEIGHTS, 0)  # nothing reads the file any more
    assert same(second, build())


# -- which part, which type -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", TOWERS)
def test_a_tower_of_a_full_model(cls: Any, folder: Path) -> None:
    model, whole = cls.from_pretrained(folder), build().state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    inputs = inputs_of(cls.__name__)
    if cls is CLIPTextModelWithProjection:
        inputs = {"input_ids": inputs["input_ids"]}
        assert torch.allclose(model(**inputs).text_embeds, build().get_text_features(**inputs), atol=1e-5)
        assert model.config.projection_dim == data.PROJECTION, "the full model's projection, not the tower's own figure"
    elif cls is CLIPVisionModelWithProjection:
        assert torch.allclose(model(**inputs).image_embeds, build().get_image_features(**inputs), atol=1e-5)


@pytest.mark.parametrize("cls", TOWERS)
def test_a_full_model_of_a_tower_is_refused_with_the_class_to_use(cls: Any, tmp_path: Path) -> None:
    build(cls.__name__).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"wanted a full CLIP model for CLIPModel.*load it with {cls.__name__}$"):
        CLIPModel.from_pretrained(tmp_path)


def test_a_projection_that_is_not_there(tmp_path: Path) -> None:
    build("CLIPTextModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="- text_projection.weight"):
        CLIPTextModelWithProjection.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="- text_projection.weight"):
        model, info = CLIPTextModelWithProjection.from_pretrained(tmp_path, strict=False, output_loading_info=True)
    assert info["missing_keys"] == ["text_projection.weight"]
    assert 0.1 < model.text_projection.weight.std() < 0.4, "drawn by the rule: 24 ** -0.5"
    tower = build("CLIPTextModel").state_dict()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in tower.items())


def test_the_other_tower_is_refused(tmp_path: Path) -> None:
    build("CLIPTextModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vision"):
        CLIPVisionModel.from_pretrained(tmp_path)


def test_flat_names_and_old_buffers(tmp_path: Path) -> None:
    """transformers 5.6 and later save towers without `text_model.`; up to 4.30 files hold position_ids."""
    model = build("CLIPTextModel")
    model.save_pretrained(tmp_path)
    weights = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    save_file({**weights, "embeddings.position_ids": torch.arange(11)[None]}, tmp_path / WEIGHTS)
    again, info = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert same(again, model)
    assert info["unexpected_keys"] == []


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["float16", "fp16", "torch.float16", torch.float16, np.float16, "auto"])
def test_dtypes(name: str, value: Any, tmp_path: Path) -> None:
    build("CLIPTextModel").half().save_pretrained(tmp_path)
    model = CLIPTextModel.from_pretrained(tmp_path, **{name: value})
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert same(model, build("CLIPTextModel").half())


def test_float32_unless_asked_and_rounded_once(tmp_path: Path) -> None:
    build("CLIPTextModel").half().save_pretrained(tmp_path)
    model = CLIPTextModel.from_pretrained(tmp_path)
    assert same(model, build("CLIPTextModel").half().float())
    assert model.text_model.embeddings.position_ids.dtype == torch.int64
    build("CLIPTextModel").save_pretrained(tmp_path)
    bfloat = CLIPTextModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert same(bfloat, build("CLIPTextModel").to(torch.bfloat16))
    bfloat.save_pretrained(tmp_path / "bf16")
    assert same(CLIPTextModel.from_pretrained(tmp_path / "bf16", torch_dtype="auto"), bfloat)
    with pytest.raises(ValueError, match="float99"):
        CLIPTextModel.from_pretrained(tmp_path, dtype="float99")


# -- configs and overrides --------------------------------------------------------------------------------------------


def test_config_overrides(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder, output_attentions=True, logit_scale_init_value=1.0)
    assert model.config.output_attentions is True
    assert model(**inputs_of()).text_model_output.attentions is not None
    with pytest.raises(TypeError, match="unknown argument 'outptu_attentions'"):
        CLIPModel.from_pretrained(folder, outptu_attentions=True)
    with pytest.raises(ConfigError, match="hidden_act: wanted one of"):
        CLIPTextModel.from_pretrained(folder, hidden_act="nonsense")


def test_a_given_config(folder: Path, tmp_path: Path) -> None:
    config = CLIPConfig.from_pretrained(folder)
    config.text_config.hidden_act = "gelu"
    model = CLIPModel.from_pretrained(folder, config=config)
    assert model.config.text_config.hidden_act == "gelu"
    assert model.config is not config
    config.save_pretrained(tmp_path / "elsewhere")
    model = CLIPModel.from_pretrained(folder, config=tmp_path / "elsewhere")
    assert model.config.text_config.hidden_act == "gelu"
    with pytest.raises(TypeError, match="can't be overridden when a config object is given"):
        CLIPModel.from_pretrained(folder, config=config, projection_dim=3)


def test_subfolders(folder: Path) -> None:
    assert same(CLIPModel.from_pretrained(folder.parent, subfolder="full"), build())


def test_attention_and_device(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager", device_map="cpu")
    assert model.config.text_config._attn_implementation == "eager"
    assert "attn_implementation" not in (folder / "config.json").read_text()
    with pytest.raises(ValueError, match="device_map: wanted one device"):
        CLIPModel.from_pretrained(folder, device_map={"text_model": "cpu"})


def test_the_name_is_kept(folder: Path) -> None:
    assert CLIPModel.from_pretrained(str(folder)).name_or_path == str(folder)


# -- what doesn't fit -------------------------------------------------------------------------------------------------


def test_every_difference_is_listed(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["logit_scale"]
    weights["text_model.surprise"] = torch.zeros(2)
    weights["visual_projection.weight"] = torch.zeros(3, 4)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as raised:
        CLIPModel.from_pretrained(folder)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{folder}")
    assert {"- logit_scale", "+ text_model.surprise"} <= set(lines[1:])
    assert "visual_projection.weight: got (3, 4), want (16, 20)" in lines
    assert len(lines) == 4


def test_ignore_mismatched_sizes(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = "text_model.embeddings.token_embedding.weight"
    save_file({**weights, name: torch.zeros(5, 24)}, folder / WEIGHTS)
    with pytest.warns(UserWarning, match="token_embedding"):
        model, info = CLIPModel.from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["mismatched_keys"] == [(name, (5, 24), (59, 24))]
    assert model.state_dict()[name].shape == (59, 24)
    assert 0.01 < model.state_dict()[name].std() < 0.03


@pytest.mark.parametrize("cls", [CLIPModel, CLIPTextModel])
def test_another_architecture(cls: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    save_file({"bert.encoder.layer.0.output.dense.weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="CLIP|bert") as raised:
        cls.from_pretrained(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CLIPModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        CLIPModel.from_pretrained(tmp_path / "no" / "such" / "folder")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        CLIPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_half_a_file(keep: int, folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=WEIGHTS):
        CLIPModel.from_pretrained(folder)


def test_impossible_config_values_stop_before_anything_is_allocated(folder: Path) -> None:
    edit_config(folder, projection_dim=10**11)
    with pytest.raises(ConfigError, match="projection_dim: wanted an integer"):
        CLIPModel.from_pretrained(folder)


def test_save_pretrained_refuses(tmp_path: Path) -> None:
    model = build("CLIPTextModel")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_shard'"):
        model.save_pretrained(tmp_path / "a", max_shard=1)
    with pytest.raises(ValueError, match="max_shard_size|shard_size"):
        model.save_pretrained(tmp_path / "a", max_shard_size="many")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_while_loading_only(
    enabled: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(CLIPModel, "_from_weights", lambda *args, **kwargs: seen.append(gc.isenabled()))
    (gc.enable if enabled else gc.disable)()
    try:
        CLIPModel.from_pretrained(folder)
        with pytest.raises(FileNotFoundError):
            CLIPModel.from_pretrained(folder / "none")
        assert seen == [False] and gc.isenabled() == enabled
    finally:
        gc.enable()


def test_one_import_serves() -> None:
    assert clip_torch.CLIPConfig is CLIPConfig
    assert {"CLIPModel", "CLIPProcessor", "CLIPTokenizerFast", "CLIPConfig"} <= set(clip_torch.__all__)


def test_saving_takes_v437s_positions(tmp_path: Path) -> None:
    """is_main_process, state_dict, save_function, push_to_hub, max_shard_size, safe_serialization, variant."""
    model = CLIPModel.from_pretrained("emoji")
    model.save_pretrained(tmp_path, True, None, torch.save, False, "10GB", False, "v")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pytorch_model.v.bin"]
