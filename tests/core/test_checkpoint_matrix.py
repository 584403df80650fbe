"""Every readable source x every target, on files that the real libraries wrote, to the bit.

The fixtures and what made them: tests/golden/make_checkpoints.py. All hold the numbers of `hf/model.safetensors`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import CheckpointError, convert, load
from clip_core.checkpoint.targets import TARGETS

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CONFIG = json.loads((GOLDEN / "hf" / "config.json").read_text())
# source -> how it is opened, its dialect, its tensors (78: a full model; 36, 37, 39: towers)
SOURCES = {
    "hf": ({}, "hf", 78),
    "hf-bf16": ({}, "hf", 78),
    "hf-bin": ({}, "hf", 78),
    "hf-bin-sharded": ({}, "hf", 78),
    "hf-legacy": ({}, "hf", 78),
    "hf-sharded": ({}, "hf", 78),
    "hf-text-projection": ({}, "hf", 37),
    "hf-variant/fp16": ({"variant": "fp16"}, "hf", 78),
    "hf-variant/small": ({"variant": "small"}, "hf", 78),
    "hf-vision": ({}, "hf", 39),
    "hf-flat-text": ({}, "hf-flat", 36),
    "hf-flat-vision": ({}, "hf-flat", 39),
    "flax": ({}, "flax", 78),
    "flax-bf16": ({}, "flax", 78),
    "flax-safetensors": ({}, "flax", 78),
    "flax-sharded": ({}, "flax", 78),
    "flax-text": ({}, "flax", 36),
    "kerashub": ({}, "kerashub", 78),
    "kerashub-sharded": ({}, "kerashub", 78),
    "open_clip": ({}, "openai", 78),
    "open_clip-custom": ({}, "open_clip-custom", 78),
    "open_clip-training": ({}, "openai", 78),
    "openai/tiny-openai.pt": ({"config": CONFIG}, "openai", 78),
    "openai/tiny-openai-jit.pt": ({"config": CONFIG}, "openai", 78),
    "orbax": ({}, "flax", 37),
    "tf": ({}, "tf", 78),
    "tf-safetensors": ({}, "tf", 78),
    "tf-sharded": ({}, "tf", 78),
    "tf-text": ({}, "tf", 36),
}
FULL_MODELS_ONLY = ("open_clip", "kerashub")


def source(name):
    options, dialect, count = SOURCES[name]
    return GOLDEN / (name.split("/")[0] if "variant" in options else name), options, dialect, count


def assert_same_bits(got, wanted):
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert got[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.fixture(scope="module")
def reference():
    return load(GOLDEN / "hf").tensors


@pytest.mark.parametrize("name", SOURCES)
def test_source_has_the_reference_bits(name, reference):
    path, options, dialect, count = source(name)
    read = load(path, **options)
    assert (read.dialect, len(read.tensors)) == (dialect, count)
    # Half precision was rounded by the real libraries, so this also checks our rounding against theirs.
    assert_same_bits(read.tensors, {n: reference[n].astype(t.dtype) for n, t in read.tensors.items()})


@pytest.mark.parametrize("to", [t for t in TARGETS if t != "gguf"])  # which rounds: test_checkpoint_gguf.py
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_to_every_target(name, to, tmp_path):
    path, options, _, count = source(name)
    if to == "orbax":
        pytest.importorskip("orbax.checkpoint", reason="writing orbax's layout needs orbax-checkpoint")
    there = tmp_path / "there"
    if to in FULL_MODELS_ONLY and count < 78:
        with pytest.raises(CheckpointError, match="only full models"):
            convert(path, there, to=to, **options)
        assert not there.exists()
        return
    convert(path, there, to=to, **options)
    wanted = load(path, **options)
    dtype = "bfloat16" if to == "tf" and "bf16" in name else None  # TensorFlow's h5 has no bfloat16: widened exactly
    back = tmp_path / "back"
    convert(there, back, to="hf", dtype=dtype)
    assert_same_bits(load(back).tensors, wanted.tensors)
    _assert_same_model(load(back).config, convert_config(path, options, tmp_path))


def convert_config(path, options, tmp_path):
    direct = tmp_path / "direct"
    convert(path, direct, to="hf", **options)
    return load(direct).config


def _assert_same_model(got, wanted):
    keys = ("hidden_act", "num_attention_heads", "hidden_size", "intermediate_size", "num_hidden_layers")
    keys += ("eos_token_id", "layer_norm_eps", "image_size", "patch_size", "vocab_size", "max_position_embeddings")
    assert got["model_type"] == wanted["model_type"]
    for tower in ("text_config", "vision_config"):
        ours, theirs = got.get(tower, got), wanted.get(tower, wanted)
        assert {k: ours.get(k) for k in keys} == {k: theirs.get(k) for k in keys}
    assert got.get("projection_dim") == wanted.get("projection_dim")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", None])
def test_a_chain_through_all_of_them_is_exact_at_one_dtype(dtype, tmp_path):
    chain = ["openai", "tf", "kerashub", "flax", "hf-bin", "open_clip", "hf-flat", "hf"]
    if dtype == "bfloat16":
        chain.remove("tf")
    here = GOLDEN / "hf"
    for number, to in enumerate(chain):
        following = tmp_path / str(number)
        convert(here, following, to=to, dtype=dtype)
        here = following
    wanted = load(GOLDEN / "hf").tensors
    assert_same_bits(load(here).tensors, {n: t.astype(dtype or t.dtype) for n, t in wanted.items()})


@pytest.mark.parametrize("to", [t for t in TARGETS if t not in ("openai", "open_clip", "orbax", "gguf")])
def test_shards_are_read_back(to, tmp_path):
    convert(GOLDEN / "hf", tmp_path / "x", to=to, shard_size="20KB")
    read = load(tmp_path / "x")
    assert (len(read.files) > 3) == (to != "kerashub")  # KerasHub's preset is written whole
    assert_same_bits(read.tensors, load(GOLDEN / "hf").tensors)


@pytest.mark.parametrize(("name", "to"), [("clip.pt", "openai"), ("clip.safetensors", "open_clip")])
def test_single_files_carry_their_config(name, to, tmp_path):
    convert(GOLDEN / "hf", tmp_path / name, to=to)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    read = load(tmp_path / name)
    assert_same_bits(read.tensors, load(GOLDEN / "hf").tensors)
    assert read.config["text_config"]["num_attention_heads"] == 2
    assert read.config["vision_config"]["hidden_act"] == "gelu"


@pytest.mark.parametrize(
    ("name", "to"),
    [("x.safetensors", "hf"), ("x.bin", "hf-bin"), ("x.h5", "tf"), ("x.msgpack", "flax"), ("x.pt", "openai")],
)
def test_every_container_as_a_single_file(name, to, tmp_path):
    convert(GOLDEN / "hf", tmp_path / name, to=to)
    assert_same_bits(load(tmp_path / name, config=CONFIG).tensors, load(GOLDEN / "hf").tensors)


def test_mixed_precision_is_kept_per_tensor(tmp_path):
    convert(GOLDEN / "openai" / "tiny-openai.pt", tmp_path / "x", to="flax", config=CONFIG)
    dtypes = {n: t.dtype for n, t in load(tmp_path / "x").tensors.items()}
    assert dtypes["text_model.final_layer_norm.weight"] == dtypes["logit_scale"] == "float32"
    assert dtypes["text_projection.weight"] == "float16"
    assert dtypes["text_model.encoder.layers.1.self_attn.k_proj.bias"] == "float16"


def test_a_keras_archive_is_read(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "clip.keras", "w") as archive:  # what keras' model.save writes: a stored zip
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.write(GOLDEN / "kerashub" / name, name)
    read = load(tmp_path / "clip.keras")
    assert_same_bits(read.tensors, load(GOLDEN / "hf").tensors)
    assert read.config["vision_config"]["num_attention_heads"] == 3


def test_an_npz_file_is_read(tmp_path):
    np.savez(tmp_path / "clip.npz", **{n: t.numpy() for n, t in load(GOLDEN / "hf").tensors.items()})
    assert_same_bits(load(tmp_path / "clip.npz", config=CONFIG).tensors, load(GOLDEN / "hf").tensors)
