"""CLIPs with OpenAI's ResNet as files: configs, the weight table, and every layout that has them, to the bit."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_core import CheckpointError, CLIPConfig, CLIPResNetVisionConfig, CLIPVisionConfig, ConfigError
from clip_core.checkpoint import convert, inspect, load
from clip_core.checkpoint.resnet import architecture
from clip_core.init import initial_values
from clip_core.weights import weight_table

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "resnet"
PUBLISHED = {  # layers, width, heads, image size, projection, text width: parameters by OpenAI's and open_clip's count
    "RN50": ((3, 4, 6, 3), 64, 32, 224, 1024, 512, 102_007_137),
    "RN101": ((3, 4, 23, 3), 64, 32, 224, 512, 512, 119_688_033),
    "RN50x4": ((4, 6, 10, 6), 80, 40, 288, 640, 640, 178_300_601),
    "RN50x16": ((6, 8, 18, 8), 96, 48, 384, 768, 768, 290_979_217),
    "RN50x64": ((3, 15, 36, 10), 128, 64, 448, 1024, 1024, 623_258_305),
}


def tensors(path, **options):
    return load(path, **options).tensors


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert np.array_equal(found[name].numpy(), tensor.numpy()), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    layers, width, heads, side, projection, text, parameters = PUBLISHED[name]
    vision = CLIPResNetVisionConfig(layers, width, heads, image_size=side)
    towers = {"hidden_size": text, "intermediate_size": 4 * text, "num_attention_heads": text // 64}
    config = CLIPConfig(towers, vision, projection_dim=projection)
    config.validate()
    table = weight_table(config)
    counted = {n: w for n, w in table.items() if w.leaf not in ("running_mean", "running_var", "num_batches_tracked")}
    assert sum(math.prod(weight.shape) for weight in counted.values()) == parameters
    assert architecture(list(layers)).startswith(f"{name} ")


def test_a_config_keeps_its_kind(tmp_path):
    config = CLIPConfig(
        vision_config=CLIPResNetVisionConfig([1, 2, 1, 1], 128, num_attention_heads=32), projection_dim=8
    )
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["model_type"], content["vision_config"]["model_type"]) == (
        "clip_resnet",
        "clip_resnet_vision_model",
    )
    back = CLIPConfig.from_pretrained(tmp_path)
    assert back.vision_config == config.vision_config and back.model_type == "clip_resnet"
    vision = CLIPVisionConfig.from_pretrained(tmp_path)
    assert type(vision) is CLIPResNetVisionConfig and vision.num_attention_heads == 32
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size) == (4096, 5, 32)
    assert CLIPConfig().model_type == "clip"  # the class's own is untouched


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": [1, 2, 3]}, "layers: wanted four integers"),
        ({"layers": [1, 2, 0, 1]}, "layers: wanted four integers"),
        ({"layers": 5}, "layers: wanted four integers"),
        ({"hidden_size": 2048}, "hidden_size: follows from"),
        ({"width": 3}, "width: wanted an even number"),
        ({"width": 4, "num_attention_heads": 3}, "num_attention_heads: wanted a divisor"),
        ({"image_size": 31}, "image_size: wanted about a multiple of 32"),
        ({"image_size": 63}, "image_size: wanted about a multiple of 32"),
        ({"batch_norm_eps": -1.0}, "batch_norm_eps: wanted"),
        ({"pruned_heads": {0: [1]}}, "pruned_heads: a ResNet has no heads"),
    ],
)
def test_impossible_configs(values, message):
    with pytest.raises(ConfigError, match=message):
        CLIPResNetVisionConfig(**values).validate()


def test_fresh_weights_follow_openais_rule():
    config = CLIPResNetVisionConfig([1, 1, 1, 1], 4, 2)
    values = initial_values(config, "vision")
    assert set(values) == set(weight_table(config, "vision"))
    assert values["vision_model.layer1.0.bn3.weight"] == ("constant", 0.0)
    assert values["vision_model.bn3.weight"] == ("constant", 1.0)
    assert values["vision_model.layer1.0.downsample.1.running_var"] == ("constant", 1.0)
    assert values["vision_model.attnpool.q_proj.weight"] == ("normal", 128**-0.5)


@pytest.mark.parametrize("source", ["open_clip", "openai.pt"])
@pytest.mark.parametrize("to", ["hf", "hf-bin", "openai", "open_clip", "tf", "flax", "orbax"])
def test_every_layout_keeps_every_bit(source, to, tmp_path):
    if to == "tf":
        pytest.importorskip("h5py")
    if to == "orbax":
        pytest.importorskip("orbax.checkpoint")
    wanted = tensors(GOLDEN / source)
    assert wanted["vision_model.bn1.num_batches_tracked"].dtype == "int64"
    convert(GOLDEN / source, tmp_path / "there", to=to)
    assert_same(tensors(tmp_path / "there"), wanted)
    convert(tmp_path / "there", tmp_path / "back", to="hf")
    back = load(tmp_path / "back")
    assert_same(back.tensors, wanted)
    vision = back.config["vision_config"]
    assert (vision["layers"], vision["width"], vision["num_attention_heads"]) == ([1, 2, 1, 1], 4, 2)
    assert back.config["model_type"] == "clip_resnet"


def test_shards_and_rounding(tmp_path):
    convert(GOLDEN / "open_clip", tmp_path / "half", dtype="float16", shard_size="200KB")
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    half = tensors(tmp_path / "half")
    assert half["vision_model.bn1.num_batches_tracked"].numpy() == 123456789
    assert half["vision_model.bn1.running_var"].dtype == "float16"


def test_towers_alone(tmp_path):
    for component in ("text", "vision"):
        convert(GOLDEN / "open_clip", tmp_path / component, component=component)
    text, vision = load(tmp_path / "text"), load(tmp_path / "vision")
    assert text.config["model_type"] == "clip_text_model"
    assert vision.config["model_type"] == "clip_resnet_vision_model"
    assert vision.config["architectures"] == ["CLIPVisionModelWithProjection"]
    assert not {name for name in vision.tensors if not name.startswith("vision_model.")}


def test_what_has_no_place_for_one(tmp_path):
    refused = {"kerashub": "KerasHub's CLIP has no", "hf-flat": "transformers has no", "gguf": "clip.cpp has no"}
    for to, message in refused.items():
        with pytest.raises(CheckpointError, match=message):
            convert(GOLDEN / "open_clip", tmp_path / to, to=to)


def test_other_heads_are_stated_where_they_can_be(tmp_path):
    convert(GOLDEN / "open_clip", tmp_path / "own")
    path = tmp_path / "own" / "config.json"
    content = json.loads(path.read_text())
    content["vision_config"]["num_attention_heads"] = 4
    path.write_text(json.dumps(content))
    convert(tmp_path / "own", tmp_path / "open_clip", to="open_clip")
    assert load(tmp_path / "open_clip").config["vision_config"]["num_attention_heads"] == 4
    notes = convert(tmp_path / "own", tmp_path / "openai", to="openai").notes
    assert any("takes 2 heads for 128 channels, not 4" in note for note in notes)
    content["vision_config"]["batch_norm_eps"] = 1e-3
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="batch_norm_eps 1e-5"):
        convert(tmp_path / "own", tmp_path / "eps", to="open_clip")


def test_a_config_of_the_other_kind_is_refused(tmp_path):
    vit = {**load(GOLDEN / "open_clip").config, "vision_config": {"model_type": "clip_vision_model"}}
    with pytest.raises(CheckpointError, match="config is of a clip_vision_model, the weights are of a ResNet"):
        convert(GOLDEN / "open_clip", tmp_path / "x", config=vit)


def test_damaged_ones_are_named(tmp_path):
    folder = tmp_path / "own"
    convert(GOLDEN / "open_clip", folder)
    from clip_core.checkpoint import save

    read = load(folder)
    for name in ("vision_model.layer2.1.bn2.running_var", "vision_model.bn1.num_batches_tracked"):
        less = {n: t for n, t in read.tensors.items() if n != name}
        save(tmp_path / "less", less, read.config)
        with pytest.raises(CheckpointError, match=f"- {name}"):
            convert(tmp_path / "less", tmp_path / "y")
    shutil.rmtree(folder)


def test_inspect_names_the_architecture():
    facts = inspect(GOLDEN / "openai.pt")
    assert facts["architecture"] == "ResNet (OpenAI's RN50 family, blocks [1, 2, 1, 1])"
    assert facts["config"]["vision_config"]["image_size"] == 64
    assert facts["parameters"]["vision"] == 88_368
