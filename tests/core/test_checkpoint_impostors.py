"""Files of other models are identified in every format; a save leaves one model in its folder."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import (
    CheckpointError,
    Tensor,
    convert,
    families,
    h5_file,
    load,
    msgpack_file,
    safetensors_file,
    save,
    torch_file,
    torch_writer,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605157884\n"
HTML = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>" * 9
STANDARD = ("model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "x.pt", "x.npz", "x.keras")


@pytest.mark.parametrize("content, what", [(LFS, "a Git LFS pointer"), (HTML, "an HTML page"), (b"", "an empty file")])
@pytest.mark.parametrize("name", STANDARD)
def test_downloads_that_failed(name, content, what, tmp_path):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=f"{name}: wanted weights, found {what}"):
            load(path)


@pytest.mark.parametrize("content, what", [(LFS, "a Git LFS pointer"), (HTML, "an HTML page")])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_files_that_failed(name, content, what, tmp_path):
    shutil.copytree(GOLDEN / "hf-sharded", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: wanted a JSON object, found {what}"):
        load(tmp_path)


WRITERS = {
    "safetensors": lambda path, tensors: safetensors_file.write(path, tensors),
    "pt": lambda path, tensors: torch_writer.write(path, tensors),
    "msgpack": lambda path, tensors: msgpack_file.write(path, tensors),
    "h5": lambda path, tensors: h5_file.write_plain(path, {n.replace(".", "/"): t for n, t in tensors.items()}),
}
VECTOR, MATRIX = np.zeros((2, 768), "f4"), np.zeros((3, 3), "f4")
OTHERS = {
    "a LoRA": {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": MATRIX},
    "a LoRA: ": {"base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": MATRIX},
    "a textual inversion": {"emb_params": VECTOR},
    "a textual inversion: ": {"<cat-toy>": VECTOR},
    "CoCa": {"text_decoder.resblocks.0.attn.in_proj_weight": MATRIX},
    "SigLIP": {"vision_model.head.attention.in_proj_weight": MATRIX},
    "EVA-CLIP": {"visual.blocks.0.attn.q_proj.weight": MATRIX},
    "a BERT": {"bert.embeddings.word_embeddings.weight": MATRIX},
    "a T5": {"shared.weight": MATRIX, "encoder.block.0.layer.0.SelfAttention.q.weight": MATRIX},
    "a GPT-2": {"h.0.attn.c_attn.weight": MATRIX},
    "a diffusion model": {"model.diffusion_model.input_blocks.0.0.weight": MATRIX},
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("what", OTHERS)
def test_other_models_are_named(what, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    WRITERS[ending](path, {name: Tensor.from_numpy(array) for name, array in OTHERS[what].items()})
    with pytest.raises(
        CheckpointError, match=f"x.{ending}: no CLIP text or vision tower in it: it is {what.strip(': ')}"
    ):
        load(path)


def test_what_is_unknown_is_listed(tmp_path):
    safetensors_file.write(tmp_path / "x.safetensors", {f"a.{i}": Tensor.from_numpy(MATRIX) for i in range(9)})
    with pytest.raises(CheckpointError, match=r"it has 9 tensors: a.0, a.1, a.2, \.\.\."):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("visual.trunk.blocks.0.attn.q_bias", "EVA-CLIP"),
        ("visual.trunk.stages.0.blocks.0.conv_dw.weight", "ConvNeXt"),
        ("visual.trunk.blocks.0.attn.qkv.weight", "timm's"),
    ],
)
def test_a_foreign_vision_tower_does_not_pass_as_a_text_tower(name, what, tmp_path):
    tensors, _ = torch_file.read(GOLDEN / "open_clip-custom" / "open_clip_pytorch_model.bin")
    rest = {n: Tensor.from_numpy(t.numpy()) for n, t in tensors.items() if not n.startswith("visual.")}
    safetensors_file.write(tmp_path / "laion.safetensors", {**rest, name: Tensor.from_numpy(MATRIX)})
    with pytest.raises(CheckpointError, match=f'its vision tower is none of CLIP\'s.*{what}.*component="text"'):
        load(tmp_path / "laion.safetensors")


@pytest.mark.parametrize(
    ("name", "what"), [("transformer.resblocks.0.ls_1.gamma", "ViT-M-16-alt"), ("text_decoder.a.weight", "CoCa")]
)
def test_a_clip_with_more_is_named(name, what, tmp_path):
    tensors, _ = safetensors_file.read(GOLDEN / "open_clip" / "open_clip_model.safetensors")
    safetensors_file.write(tmp_path / "x.safetensors", {**tensors, name: Tensor.from_numpy(MATRIX)})
    with pytest.raises(CheckpointError, match=f"not a plain CLIP: it is .*{what}.*\n.*{name}"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("to", ["hf", "hf-bin", "flax", "tf"])
def test_whole_numbers_are_no_weights(to, tmp_path):
    read = load(GOLDEN / "hf")
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    tensors = {**read.tensors, name: Tensor.from_numpy(np.zeros(read.tensors[name].shape, "i1"))}
    save(tmp_path, tensors, read.config, to=to)
    with pytest.raises(CheckpointError, match="1 weights are int8: text_model.*quantised"):
        load(tmp_path)


def test_every_family_has_an_order_that_finds_it():
    for pattern, what in families._FAMILIES:
        assert pattern and what


# --- what is there, but is no file -----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link"])
def test_a_config_that_is_no_file_is_not_passed_over(kind, single, tmp_path):
    shutil.copytree(GOLDEN / "hf", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="config.json: wanted a file, found"):
        load(tmp_path / "model.safetensors" if single else tmp_path)


def test_links_of_a_folder_are_followed_but_not_copied(tmp_path):
    shutil.copytree(GOLDEN / "hf-text-projection", tmp_path / "store")
    (tmp_path / "model").mkdir()
    for path in (tmp_path / "store").iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    assert len(load(tmp_path / "model").tensors) == 37
    (tmp_path / "secret").write_text("a password")
    (tmp_path / "model" / "merges.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="merges.txt: a link that leaves the folder is not copied"):
        convert(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_components_that_are_there_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="component: wanted one of 'text', 'vision', found 'text_encoder_9'"):
        load(GOLDEN / "hf" / "model.safetensors", component="text_encoder_9")
    shutil.copytree(GOLDEN / "hf-text-projection", tmp_path / "text_encoder")
    with pytest.raises(FileNotFoundError, match="folders text_encoder are components: say which with component="):
        load(tmp_path, component="text_encoder_3")


# --- one model in a folder -------------------------------------------------------------------------------------------


def model(value, name="hf"):
    read = load(GOLDEN / name)
    return {n: Tensor.from_numpy(np.full(t.shape, value, "f4")) for n, t in read.tensors.items()}, read.config


def names(folder):
    return sorted(p.name for p in folder.iterdir())


FILES = {
    "hf": "model.safetensors",
    "hf-bin": "pytorch_model.bin",
    "tf": "tf_model.h5",
    "flax": "flax_model.msgpack",
}


@pytest.mark.parametrize("second", FILES)
@pytest.mark.parametrize("first", FILES)
def test_the_same_model_in_two_layouts_stays_and_another_goes(first, second, tmp_path):
    save(tmp_path, *model(1.0), to=first)
    save(tmp_path, *model(1.0), to=second)
    assert names(tmp_path) == sorted({"config.json", FILES[first], FILES[second]})
    save(tmp_path, *model(2.0), to=second)
    assert names(tmp_path) == ["config.json", FILES[second]]
    assert load(tmp_path).tensors["logit_scale"].numpy() == 2.0


@pytest.mark.parametrize("first", [*FILES, "open_clip", "kerashub", "openai"])
@pytest.mark.parametrize("second", [*FILES, "open_clip", "kerashub", "openai"])
def test_converting_into_a_folder_leaves_one_model(first, second, tmp_path):
    save(tmp_path / "a", *model(1.0))
    save(tmp_path / "b", *model(2.0))
    (tmp_path / "b" / "vocab.json").write_text("{}")
    (tmp_path / "b" / "merges.txt").write_text("new")
    for name in ("tokenizer.json", "special_tokens_map.json", "vocab.json", "model.fp16.safetensors"):
        (tmp_path / "a" / name).write_text("{}")
    convert(tmp_path / "a", tmp_path / "x", to=first, shard_size="20KB" if first in FILES else None)
    shutil.copy(tmp_path / "a" / "model.fp16.safetensors", tmp_path / "x")
    (tmp_path / "x" / "README.md").write_text("mine")
    convert(tmp_path / "b", tmp_path / "x", to=second)
    convert(tmp_path / "b", tmp_path / "alone", to=second)
    assert names(tmp_path / "x") == sorted([*names(tmp_path / "alone"), "README.md"])
    assert (tmp_path / "x" / "merges.txt").read_text() == "new"
    assert load(tmp_path / "x").tensors["logit_scale"].numpy() == 2.0


def test_saving_a_model_leaves_the_tokenizer_and_the_variants(tmp_path):
    save(tmp_path, *model(1.0))
    save(tmp_path, *model(1.0), variant="fp16", dtype="float16")
    (tmp_path / "tokenizer.json").write_text("{}")
    save(tmp_path, *model(2.0), shard_size="20KB")
    kept = {"model.fp16.safetensors", "tokenizer.json", "config.json", "model.safetensors.index.json"}
    assert kept < set(names(tmp_path)) and "model.safetensors" not in names(tmp_path)
