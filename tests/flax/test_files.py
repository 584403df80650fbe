"""Loading and saving transformers' Flax files and ours, and the meaning of `dtype` in both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_restore

import clip_flax
from clip_core.errors import CheckpointError
from clip_flax import FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPVisionModelWithProjection

from .conftest import CHECKPOINT

ELSEWHERE = ("hf", "hf-bin", "hf-sharded", "flax-sharded", "flax-safetensors")


def leaves_equal(left: Any, right: Any) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), left, right)
    return all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_same_weights_from_every_file_of_transformers(full: Any, name: str) -> None:
    assert leaves_equal(FlaxCLIPModel.from_pretrained(CHECKPOINT.parent / name, from_pt=True).params, full.params)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}, {"safe_serialization": True}])
def test_save_and_load(full: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    full.save_pretrained(tmp_path, **options)
    names = {path.name for path in tmp_path.iterdir()}
    if options.get("safe_serialization"):
        assert names == {"config.json", "model.safetensors"}
    elif options:
        assert "flax_model.msgpack.index.json" in names and "flax_model.msgpack" not in names
    else:
        assert names == {"config.json", "flax_model.msgpack"}  # v4.37's default in Flax
        restored = msgpack_restore((tmp_path / "flax_model.msgpack").read_bytes())
        assert leaves_equal(restored, jax.tree.map(np.asarray, full.params))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["CLIPModel"]
    assert leaves_equal(FlaxCLIPModel.from_pretrained(tmp_path).params, full.params)


def test_own_file_comes_first_and_from_pt_the_other(full: Any, tmp_path: Path) -> None:
    full.save_pretrained(tmp_path, safe_serialization=True)
    newer = jax.tree.map(lambda leaf: leaf + 1, full.params)
    full.save_pretrained(tmp_path / "newer", params=newer)  # into the same folder, it would replace the other file
    (tmp_path / "newer" / "flax_model.msgpack").rename(tmp_path / "flax_model.msgpack")
    assert leaves_equal(FlaxCLIPModel.from_pretrained(tmp_path).params, newer)
    assert leaves_equal(FlaxCLIPModel.from_pretrained(tmp_path, from_pt=True).params, full.params)


def test_parameters_keep_the_files_types_unless_torch_dtype_says_otherwise(full: Any, tmp_path: Path) -> None:
    path = CHECKPOINT.parent / "flax-bf16"
    kept = FlaxCLIPModel.from_pretrained(path)
    assert kept.dtype == jnp.float32
    assert leaves_equal(kept.params, full.to_bf16(full.params))
    widened = FlaxCLIPModel.from_pretrained(path, "bfloat16", torch_dtype="float32")
    assert widened.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(widened.params)} == {"float32"}
    half = FlaxCLIPModel.from_pretrained(CHECKPOINT, torch_dtype=jnp.float16)
    assert leaves_equal(half.params, full.to_fp16(full.params))
    mixed = {**half.params, "logit_scale": full.params["logit_scale"]}
    full.save_pretrained(tmp_path, params=mixed)
    assert leaves_equal(FlaxCLIPModel.from_pretrained(tmp_path, jnp.float16).params, mixed)


def test_bfloat16_goes_to_the_file_and_back(full: Any, tmp_path: Path) -> None:
    half = full.to_bf16(full.params)
    full.save_pretrained(tmp_path, params=half)
    assert leaves_equal(FlaxCLIPModel.from_pretrained(tmp_path, torch_dtype="auto").params, half)
    assert full.config.torch_dtype != "bfloat16"  # the model itself is as it was


def test_towers_from_a_full_model_and_with_a_subfolder(full: Any, text: Any, tmp_path: Path) -> None:
    assert leaves_equal(text.params, {"text_model": full.params["text_model"]})
    text.save_pretrained(tmp_path / "text_encoder")
    model, params = FlaxCLIPTextModel.from_pretrained(
        tmp_path, subfolder="text_encoder", from_pt=True, dtype="bfloat16", _do_init=False, seed=5
    )
    assert leaves_equal(params, text.params) and model.seed == 5
    vision = FlaxCLIPVisionModelWithProjection.from_pretrained(CHECKPOINT)
    assert leaves_equal(vision.params["visual_projection"], full.params["visual_projection"])
    out = vision(np.zeros((1, 3, 16, 16)))
    assert type(out) is clip_flax.CLIPVisionModelOutput and out.image_embeds.shape == (1, 8)


def test_missing_and_misfit_weights_are_drawn_only_when_asked(text: Any, tmp_path: Path) -> None:
    text.save_pretrained(tmp_path)
    projecting = clip_flax.FlaxCLIPTextModelWithProjection
    with pytest.raises(CheckpointError, match="- text_projection.weight"):
        projecting.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="text_projection"):
        model = projecting.from_pretrained(tmp_path, strict=False)
    assert model.params["text_projection"]["kernel"].std() > 0
    assert leaves_equal(model.params["text_model"], text.params["text_model"])
    with pytest.raises(CheckpointError, match=r"token_embedding.weight: got \(100, 16\), want \(101, 16\)"):
        FlaxCLIPTextModel.from_pretrained(tmp_path, vocab_size=101)
    with pytest.warns(UserWarning, match="token_embedding"):
        grown = FlaxCLIPTextModel.from_pretrained(tmp_path, vocab_size=101, ignore_mismatched_sizes=True)
    assert grown.params["text_model"]["embeddings"]["token_embedding"]["embedding"].shape == (101, 16)


def test_saving_foreign_parameters_is_refused(text: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="- text_model.final_layer_norm.scale"):
        text.save_pretrained(tmp_path / "new", params={"text_model": {}})
    assert not (tmp_path / "new").exists()


def test_loaded_parameters_are_the_models_own(tmp_path: Path, full: Any) -> None:
    """They must not change with the file, nor with an array they were made from."""
    full.save_pretrained(tmp_path)
    model = FlaxCLIPModel.from_pretrained(tmp_path)
    path = tmp_path / "flax_model.msgpack"
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert leaves_equal(model.params, full.params)


def test_no_other_framework_is_imported() -> None:
    program = (
        "import sys, clip_flax; m = clip_flax.FlaxCLIPTextModel.from_pretrained(sys.argv[1]); m([[1, 2]]); "
        "print(sorted({'torch', 'tensorflow', 'keras', 'transformers'} & set(sys.modules)))"
    )
    root = str(Path(clip_flax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(CHECKPOINT)], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
