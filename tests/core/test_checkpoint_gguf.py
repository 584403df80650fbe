"""clip.cpp's GGUF: written, read again, read as its own converter writes it; damage and other programs' files named."""

import json
import struct
import sys

import numpy as np
import pytest

from clip_core import CLIPConfig, MissingDependencyError
from clip_core.checkpoint import CheckpointError, Tensor, clip_cpp, convert, gguf_file, inspect, load, save
from clip_core.weights import weight_table
from conformance.chains import reference, walk

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"vocab_size": 40, "max_position_embeddings": 9, "eos_token_id": 38, "hidden_act": "gelu"}
VISION = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 3}
VISION |= {"image_size": 19, "patch_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
CONFIG = {"model_type": "clip", "projection_dim": 12, "text_config": TEXT, "vision_config": VISION}
TOKENS = [f"t{i}" for i in range(37)] + ["<|startoftext|>", "<|endoftext|>", "last"]
VOCABULARY = json.dumps({token: i for i, token in enumerate(TOKENS)}).encode()


def written(folder, vocabulary=VOCABULARY, dtype="float32", **changes):
    """(config, tensors) of a folder in transformers' layout; the convolution's numbers are float16's."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        tower, _, name = key.partition("__")
        config[f"{tower}_config"][name] = value
    made = CLIPConfig.from_dict(config)
    numbers = np.random.default_rng(0)
    tensors = {}
    for name, weight in weight_table(made).items():
        values = numbers.normal(0, 0.3, weight.shape)
        own = "float16" if weight.kind == "conv" else dtype
        tensors[name] = Tensor.from_numpy(np.asarray(values, own))
    save(folder, tensors, config, files={"vocab.json": vocabulary, "merges.txt": b"#version\n"})
    return made, tensors


def outputs(config, tensors):
    rng = np.random.default_rng(1)
    inputs = {"ids": np.array([[1, 2, 38], [38, 3, 39]]), "pixels": rng.normal(size=(2, 3, 19, 19))}
    return reference.outputs(config, {n: t.astype("float64").numpy() for n, t in tensors.items()}, inputs)


@pytest.mark.parametrize("target", ["b", "b.gguf"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_round_trip_keeps_everything(dtype, target, tmp_path):
    made, tensors = written(tmp_path / "a", dtype=dtype)
    convert(tmp_path / "a", tmp_path / target, to="gguf")
    read = load(tmp_path / target)
    assert read.dialect == "gguf" and set(read.tensors) == set(tensors)
    assert walk.acting(CLIPConfig.from_dict(read.config)) == walk.acting(made)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read.tensors[name].astype("float32").numpy(), tensor.astype("float32").numpy())
    found = inspect(tmp_path / target)
    assert (found["format"], found["components"]) == ("gguf", [])


def test_a_file_of_clip_cpp_s_converter(tmp_path):
    """It says heads, epsilons, activation and vocabulary, and nothing of the logit scale."""
    made, tensors = written(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.gguf", to="gguf")
    entries, metadata = gguf_file.read(tmp_path / "b.gguf")
    stated = json.loads(metadata["gguf"])
    own = {key: value for key, value in stated.items() if not key.startswith(("triclip.", "end_of_text"))}
    gguf_file.write(tmp_path / "c.gguf", entries, {**own, "tokenizer.ggml.tokens": TOKENS * 2})  # longer than is kept
    saved = convert(tmp_path / "c.gguf", tmp_path / "d")
    assert any("no logit_scale: 4.6052" in note for note in saved.notes)
    read = load(tmp_path / "d")
    config = CLIPConfig.from_dict(read.config)
    for name in ("hidden_act", "num_attention_heads", "layer_norm_eps", "intermediate_size"):
        for tower in ("text_config", "vision_config"):
            assert getattr(getattr(config, tower), name) == getattr(getattr(made, tower), name)
    assert (config.text_config.eos_token_id, config.vision_config.image_size) == (38, 19)
    for name, value in outputs(config, read.tensors).items():
        np.testing.assert_array_equal(value, outputs(made, tensors)[name])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text__hidden_act": "quick_gelu"}, "hidden_act: wanted gelu or quick_gelu in all towers"),
        ({"vision__num_channels": 1}, "num_channels: wanted 3, found 1"),
        ({"vocabulary": b'{"a": 0}'}, "wanted 40 tokens, found 1 in the model's"),
        ({"dtype": "float64"}, 'found float64: give dtype="float32"'),
    ],
)
def test_what_clip_cpp_can_t_hold(changes, message, tmp_path):
    written(tmp_path / "a", **changes)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a", tmp_path / "b.gguf", to="gguf")


def test_a_tower_without_its_projection(tmp_path):
    made, tensors = written(tmp_path / "a")
    text = {name: tensor for name, tensor in tensors.items() if name.startswith("text_model")}
    with pytest.raises(CheckpointError, match="text_projection.weight is missing"):
        save(tmp_path / "b", text, {**made.text_config.to_dict(), "model_type": "clip_text_model"}, to="gguf")


def test_a_language_model_s_projector(tmp_path):
    entries = {"v.patch_embd.weight": Tensor.from_numpy(np.zeros((2, 3, 4, 4), "f2"))}
    gguf_file.write(tmp_path / "mmproj.gguf", entries, {"clip.has_llava_projector": True})
    with pytest.raises(CheckpointError, match="a vision tower of a language model"):
        load(tmp_path / "mmproj.gguf")


def head(tensors=0, values=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


DAMAGED = {
    "version": (head(version=1), "wanted GGUF of version 2 or 3"),
    "another order of bytes": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "wanted GGUF of version 2 or 3"),
    "tensors": (head(tensors=1 << 60), "counts 1152921504606846976 entries"),
    "an array": (head(values=1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 1 << 50), "counts 1125899906842624 entries"),
    "nested": (head(values=1) + struct.pack("<Q1sIIQIQ", 1, b"a", 9, 9, 1, 4, 0) + bytes(32), "unknown type 9"),
    "a string": (head(values=1) + struct.pack("<Q", 1 << 40) + bytes(32), "a GGUF header of"),
    "a type": (head(values=1) + struct.pack("<Q1sI", 1, b"a", 77) + bytes(32), "unknown type 77"),
    "a place": (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"a", 1, 8, 0, 1 << 40), "beyond the file's end"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_named(what, tmp_path):
    content, message = DAMAGED[what]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        gguf_file.read(tmp_path / "a.gguf")


def test_a_file_that_was_cut(tmp_path):
    written(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.gguf", to="gguf")
    whole = (tmp_path / "b.gguf").read_bytes()
    for count in (4, 12, 30, 500, 2000, len(whole) // 2, len(whole) - 200):
        (tmp_path / "c.gguf").write_bytes(whole[:count])
        with pytest.raises(CheckpointError, match="c.gguf"):
            gguf_file.read(tmp_path / "c.gguf")


def test_blocks_need_the_package(tmp_path, monkeypatch):
    """One row of 32 numbers in ggml's Q8_0: a float16 scale and 32 codes."""
    codes = np.arange(-16, 16, dtype=np.int8)
    block = np.float16(0.5).tobytes() + codes.tobytes()
    info = struct.pack("<Q1sIQIQ", 1, b"a", 1, 32, 8, 0)
    start = head(tensors=1) + info
    (tmp_path / "a.gguf").write_bytes(start + bytes(-len(start) % 32) + block)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(MissingDependencyError, match=r"triclip\[gguf\]"):
            gguf_file.read(tmp_path / "a.gguf")
    pytest.importorskip("gguf")
    tensors, _ = gguf_file.read(tmp_path / "a.gguf")
    np.testing.assert_array_equal(tensors["a"].numpy(), codes * 0.5)


def test_the_header_has_what_clip_cpp_asks_for():
    """The keys that its library (clip_cpp 0.5.0) reads; without one of them it ends the process."""
    values = clip_cpp.header(
        CLIPConfig.from_dict(CONFIG).to_dict(), ("text", "vision"), 4.6, {"vocab.json": VOCABULARY}
    )
    tower = ("embedding_length", "feed_forward_length", "block_count", "projection_dim", "attention.head_count")
    wanted = {f"clip.{t}.{key}" for t in ("text", "vision") for key in (*tower, "attention.layer_norm_epsilon")}
    wanted |= {"clip.text.context_length", "tokenizer.ggml.tokens", "clip.use_gelu", "general.description"}
    wanted |= {f"clip.vision.{key}" for key in ("image_size", "patch_size", "image_mean", "image_std")}
    wanted |= {"clip.has_text_encoder", "clip.has_vision_encoder", "general.file_type", "general.name"}
    assert wanted <= values.keys()
