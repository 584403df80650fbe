"""CLIPs inside single-file checkpoints: prefixes, components, and replacement in place, every other byte untouched."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import (
    CheckpointError,
    containers,
    convert,
    load,
    safetensors_file,
    scope,
    torch_writer,
)
from clip_core.checkpoint.dialects import HF, HF_FLAT_TEXT, OPENAI, translate
from clip_core.checkpoint.tensor import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CONFIG = json.loads((GOLDEN / "hf" / "config.json").read_text())


@pytest.fixture(scope="module")
def reference():
    return dict(load(GOLDEN / "hf").tensors)


def text_of(tensors, projection=True):
    names = ("text_model.", "text_projection") if projection else ("text_model.",)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(names)}


def vision_of(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("vision_model.", "visual_projection"))}


def under(prefix, tensors, dialect=HF):
    return {prefix + name: tensor for name, tensor in translate(tensors, dialect).items()}


def other_parts():
    rng = np.random.default_rng(0)
    return {
        "model.diffusion_model.input_blocks.0.0.weight": Tensor.from_numpy(rng.normal(size=(4, 4, 3, 3)).astype("f2")),
        "first_stage_model.encoder.conv_in.weight": Tensor.from_numpy(rng.normal(size=(8, 3)).astype("f4")),
        "zz.last": Tensor.from_numpy(np.arange(5)),
    }


def scaled(tensors, factor):
    """Another model of the same shape."""
    return {n: Tensor.from_numpy((t.numpy() * factor).astype(t.numpy().dtype)) for n, t in tensors.items()}


LAYOUTS = {
    # prefix, dialect, what the file holds, component that is asked for
    "sd1": ("cond_stage_model.transformer.", HF, "text", "text_encoder"),
    "sd1-flat": ("cond_stage_model.transformer.", HF_FLAT_TEXT, "text", "text_encoder"),
    "sd2": ("cond_stage_model.model.", OPENAI, "text+projection", "text_encoder"),
    "sdxl-l": ("conditioner.embedders.0.transformer.", HF, "text", "text_encoder"),
    "sdxl-g": ("conditioner.embedders.1.model.", OPENAI, "text+projection", "text_encoder_2"),
    "refiner": ("conditioner.embedders.0.model.", OPENAI, "text+projection", "text_encoder_2"),
    "sd3-l": ("text_encoders.clip_l.transformer.", HF, "text+projection", "clip_l"),
    "sd3-g": ("text_encoders.clip_g.transformer.", HF, "text+projection", "text_encoder_2"),
    "comfy-l": ("clip_l.transformer.", HF, "text+projection", "clip_l"),
    "unclip": ("embedder.model.", OPENAI, "vision", "image_encoder"),
    "svd": ("conditioner.embedders.0.open_clip.model.", OPENAI, "vision", "vision"),
    "zero123": ("cond_stage_model.model.", OPENAI, "vision", "vision"),
    "safety": ("vision_model.", HF, "vision", "safety_checker"),
    "unknown": ("some.where.else.", HF, "text", "text"),
    "plain clip_g": ("", HF, "text+projection", "clip_g"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_prefix_is_read(layout, reference, tmp_path):
    prefix, dialect, kind, component = LAYOUTS[layout]
    held = vision_of(reference) if kind == "vision" else text_of(reference, kind != "text")
    content = {**under(prefix, held, dialect), **other_parts()} if prefix else under(prefix, held, dialect)
    if layout == "safety":  # its projection has no prefix
        content["visual_projection.weight"] = content.pop("vision_model.visual_projection.weight")
    safetensors_file.write(tmp_path / "x.safetensors", content, {"format": "pt"})
    config = CONFIG["vision_config" if kind == "vision" else "text_config"]
    for asked in (component, None):
        read = load(tmp_path / "x.safetensors", component=asked, config=config)
        assert read.prefix == prefix
        assert set(read.tensors) == set(held)
        for name, tensor in held.items():
            assert read.tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_comfyui_bare_projection_is_transposed(reference, tmp_path):
    content = under("clip_g.transformer.", text_of(reference, False))
    content["clip_g.transformer.text_projection"] = reference["text_projection.weight"].permute(1, 0)
    safetensors_file.write(tmp_path / "x.safetensors", content)
    read = load(tmp_path / "x.safetensors", config=CONFIG["text_config"])
    assert np.array_equal(read.tensors["text_projection.weight"].numpy(), reference["text_projection.weight"].numpy())


FIRST = "conditioner.embedders.0.transformer."


def sdxl(path, reference, write=safetensors_file.write):
    first, second = text_of(reference, False), scaled(text_of(reference), 0.5)
    content = {
        **other_parts(),
        **under("conditioner.embedders.0.transformer.", first),
        f"{FIRST}text_model.embeddings.position_ids": Tensor.from_numpy(np.arange(12)[None]),
        **under("conditioner.embedders.1.model.", second, OPENAI),
        "conditioner.embedders.1.model.logit_scale": Tensor.from_numpy(np.float32(4.6)),
    }
    write(path, content)
    return first, second


def test_sdxl_components(reference, tmp_path):
    first, second = sdxl(tmp_path / "xl.safetensors", reference)
    config = CONFIG["text_config"]
    read = load(tmp_path / "xl.safetensors", config=config)
    assert set(read.tensors) == set(first) and len(read.ignored) == 1
    assert any("text_encoder_2" in note for note in read.notes)  # what was chosen is said
    read = load(tmp_path / "xl.safetensors", component="text_encoder_2", config=config)
    assert set(read.tensors) == {*second, "logit_scale"}
    with pytest.raises(CheckpointError, match="image_encoder.*it has.*text_encoder_2"):
        load(tmp_path / "xl.safetensors", component="image_encoder")
    assert len(scope.find(safetensors_file.read(tmp_path / "xl.safetensors")[0])) == 2


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_encoders_are_replaced_in_place_and_nothing_else(ending, reference, tmp_path):
    write = safetensors_file.write if ending == ".safetensors" else torch_writer.write
    base = tmp_path / f"xl{ending}"
    sdxl(base, reference, write)
    before = base.read_bytes()
    names = containers_read(base)
    source = tmp_path / "source.safetensors"
    new_first, new_second = scaled(text_of(reference, False), 3.0), scaled(text_of(reference), -2.0)
    safetensors_file.write(
        source,
        {
            **under("conditioner.embedders.0.transformer.", new_first),
            **under("conditioner.embedders.1.model.", new_second, OPENAI),
        },
    )
    convert(source, base, to="sdxl", config=CONFIG["text_config"])
    after = base.read_bytes()
    assert len(after) == len(before)
    for component, wanted in (("text_encoder", new_first), ("text_encoder_2", new_second)):
        got = load(base, component=component, config=CONFIG["text_config"]).tensors
        for name, tensor in wanted.items():
            assert np.array_equal(got[name].numpy(), tensor.numpy()), name
    touched = np.zeros(len(before), bool)
    for name, tensor in names.items():
        if name.startswith("conditioner.") and not name.endswith(("position_ids", "logit_scale")):
            touched[tensor.place : tensor.place + tensor.nbytes] = True
    differs = np.frombuffer(before, "u1") != np.frombuffer(after, "u1")
    if ending == ".safetensors":
        assert not (differs & ~touched).any()
    else:  # a zip file keeps a checksum of each record, twice
        assert (differs & ~touched).sum() <= 8 * len(names)
        assert zipfile.ZipFile(base).testzip() is None


def containers_read(path):
    return containers.read(path).tensors


def test_replacing_one_encoder_by_component_and_by_shape(reference, tmp_path):
    base = tmp_path / "sd.safetensors"
    held = text_of(reference, False)
    safetensors_file.write(base, {**under("cond_stage_model.transformer.", held), **other_parts()})
    new = tmp_path / "new"
    safetensors_file.write(tmp_path / "n.safetensors", scaled(text_of(reference), 2.0))
    convert(tmp_path / "n.safetensors", new, config=CONFIG["text_config"])
    saved = convert(new, base, to="sd1")
    assert any("text_projection" in note for note in saved.notes)  # the file has no place for it
    got = load(base, config=CONFIG["text_config"]).tensors
    assert np.array_equal(
        got["text_model.final_layer_norm.bias"].numpy(), held["text_model.final_layer_norm.bias"].numpy() * 2
    )


def test_replacement_keeps_the_file_dtype_and_says_so(reference, tmp_path):
    base = tmp_path / "sd.safetensors"
    half = {n: t.astype("float16") for n, t in text_of(reference, False).items()}
    safetensors_file.write(base, under("cond_stage_model.transformer.", half))
    saved = convert(GOLDEN / "hf", base, to="sd1")
    assert any("written as the file's float16" in note for note in saved.notes)
    got = load(base, config=CONFIG["text_config"]).tensors
    assert all(t.numpy().tobytes() == half[n].numpy().tobytes() for n, t in got.items())


def test_another_shape_is_refused_and_the_file_untouched(reference, tmp_path):
    base = tmp_path / "sd.safetensors"
    wide = {
        n: Tensor.from_numpy(np.ones(t.shape[:-1] + (t.shape[-1] * 2,), "f4")) if t.shape[-1] == 16 else t
        for n, t in text_of(reference, False).items()
    }
    safetensors_file.write(base, under("cond_stage_model.transformer.", wide))
    before = base.read_bytes()
    with pytest.raises(CheckpointError, match="want"):
        convert(GOLDEN / "hf", base, to="sd1", component="text_encoder")
    assert base.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sd.safetensors"]


def test_a_new_single_file(reference, tmp_path):
    convert(GOLDEN / "hf", tmp_path / "new.safetensors", to="sd1")
    names = containers_read(tmp_path / "new.safetensors")
    assert all(name.startswith("cond_stage_model.transformer.text_model.") for name in names)
    got = load(tmp_path / "new.safetensors", config=CONFIG["text_config"]).tensors
    assert set(got) == set(text_of(reference, False))
