"""MaxDiffusion's use of the Flax classes, where transformers has none: with transformers 5 installed, and without any.

MaxDiffusion itself is in no package index. Its calls are in tests/flax/test_maxdiffusion.py, which is run here in each
environment; where transformers 5 is installed, the pipeline and safety checker it grew out of (diffusers' Flax classes,
of which MaxDiffusion's are edited copies) are run as they are, with our classes under the names they import.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clip_flax

from .models import TOWER
from .record import Found, at_most, difference, works

ROOT = Path(__file__).resolve().parents[2]
TRANSFORMERS = find_spec("transformers") is not None
TITLE = f"MaxDiffusion, {'transformers 5 installed' if TRANSFORMERS else 'no transformers installed'}"
PACKAGES = ("jax", "flax", *(("transformers", "diffusers") if TRANSFORMERS else ()))
PROMPTS = ["a red fox in the snow", "two birds"]
TEXT = {**TOWER, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
VISION = {**TOWER, "image_size": 224, "patch_size": 32}


class Count:
    """What pytest reports."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.skipped or report.failed:
            self.outcomes.append(report.outcome)


def calls() -> Found:
    count = Count()
    pytest.main(["-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "flax" / "test_maxdiffusion.py")], [count])
    if not count.outcomes or set(count.outcomes) != {"passed"}:
        raise AssertionError(f"{count.outcomes}")
    return works(
        "the calls of its checkpointer, pipelines, trainers and safety checker (tests/flax/test_maxdiffusion.py)",
        "loading by subfolder, `from_pt`, string dtypes; `_do_init=False`, `init_weights` under `eval_shape`; "
        "`params` set; a subclass of FlaxPreTrainedModel with FlaxCLIPVisionModule inside.",
        tests=len(count.outcomes),
    )


def tokenizer() -> Found:
    own = clip_flax.CLIPTokenizer()
    with tempfile.TemporaryDirectory() as folder:
        own.save_pretrained(folder)
        loaded = clip_flax.CLIPTokenizer.from_pretrained(folder, dtype="bfloat16", use_fast=True)
    texts = ["fox " * 100, *PROMPTS]
    padded = {"padding": "max_length", "max_length": loaded.model_max_length, "truncation": True}
    ids = loaded(texts, **padded, return_tensors="np").input_ids
    long = loaded(texts[1:], **padded, return_overflowing_tokens=False, return_length=True, return_tensors="np")
    # v4.37's slow tokenizer counts a batch's tokens before it pads.
    if ids.shape != (3, 77) or ids[0, -1] != 49407 or long.input_ids.shape != (2, 77) or list(long.length) != [8, 4]:
        raise AssertionError(f"ids: {ids.shape}, {long.input_ids.shape}, length: {long.length}")
    return works(
        "`CLIPTokenizer.from_pretrained(folder, dtype=, use_fast=True)`, `padding='max_length'`, "
        "`return_overflowing_tokens`, `return_length`, `return_tensors='np'`"
    )


@functools.cache
def flax_classes() -> Any:
    """diffusers' Flax pipeline and checker, imported while transformers has our classes under the names it lacks."""
    import transformers

    names = (
        "CLIPConfig", "CLIPImageProcessor", "CLIPTokenizer", "CLIPVisionConfig", "FlaxCLIPTextModel",
        "FlaxPreTrainedModel",
    )  # fmt: skip
    stand_in = ModuleType("transformers.models.clip.modeling_flax_clip")
    stand_in.FlaxCLIPVisionModule = clip_flax.FlaxCLIPVisionModule
    missing = [name for name in names if name.startswith("Flax") and hasattr(transformers, name)]
    if missing:
        raise AssertionError(f"transformers {version('transformers')} has {missing}")
    for name in names:
        setattr(transformers, name, getattr(clip_flax, name))
    with mock.patch.dict(sys.modules, {stand_in.__name__: stand_in}):
        from diffusers.pipelines.stable_diffusion import pipeline_flax_stable_diffusion, safety_checker_flax
    return pipeline_flax_stable_diffusion.FlaxStableDiffusionPipeline, safety_checker_flax


def encoder() -> Any:
    return clip_flax.FlaxCLIPTextModel(clip_flax.CLIPTextConfig(**TEXT), seed=1)


@functools.cache
def pipeline() -> tuple[Any, Any]:
    """A tiny random pipeline and its parameters."""
    made, checkers = flax_classes()
    from diffusers import FlaxAutoencoderKL, FlaxDDIMScheduler, FlaxUNet2DConditionModel

    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1}
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = FlaxUNet2DConditionModel(
        sample_size=8, down_block_types=down, up_block_types=up, cross_attention_dim=32, attention_head_dim=4, **blocks
    )
    vae = FlaxAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
    )
    scheduler = FlaxDDIMScheduler()
    config = clip_flax.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    checker = checkers.FlaxStableDiffusionSafetyChecker(config, seed=2)
    text_encoder = encoder()
    pipe = made(
        vae=vae, text_encoder=text_encoder, tokenizer=clip_flax.CLIPTokenizer(), unet=unet, scheduler=scheduler,
        safety_checker=checker, feature_extractor=clip_flax.CLIPImageProcessor(),
    )  # fmt: skip
    keys = jax.random.split(jax.random.PRNGKey(3))
    params = {
        "unet": unet.init_weights(keys[0]),
        "vae": vae.init_weights(keys[1]),
        "text_encoder": text_encoder.params,
        "safety_checker": checker.params,
        "scheduler": scheduler.create_state(),
    }
    return pipe, params


def picture(prompts: list[str], text_params: Any = None) -> np.ndarray:
    pipe, params = pipeline()
    ids = pipe.prepare_inputs(prompts)
    params = params if text_params is None else {**params, "text_encoder": text_params}
    images = pipe._generate(ids, params, jax.random.PRNGKey(5), 2, 16, 16, 7.5)
    return np.asarray(images)


def flax_pipeline() -> Found:
    pipe, params = pipeline()
    ids = pipe.prepare_inputs(PROMPTS)
    first, other = picture(PROMPTS), picture(PROMPTS[::-1])
    if first.shape != (2, 16, 16, 3) or difference(first, other) < 1e-4:
        raise AssertionError(f"pictures: {first.shape}, difference {difference(first, other)}")
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params["text_encoder"])
    with jax.disable_jit():
        want = pipe.text_encoder(ids, params=params["text_encoder"], train=False)[0]
    got = jax.jit(lambda p: pipe.text_encoder(ids, params=p)[0])(params["text_encoder"])
    result = pipe(ids, params, jax.random.PRNGKey(5), 2, 16, 16)
    if np.asarray(result.images).shape != (2, 16, 16, 3) or len(result.nsfw_content_detected) != 2:
        raise AssertionError(f"{np.asarray(result.images).shape}")
    return works(
        f"diffusers {version('diffusers')}'s FlaxStableDiffusionPipeline with FlaxCLIPTextModel, CLIPTokenizer, "
        "CLIPImageProcessor: two pictures, checked",
        "transformers 5 has no Flax classes: without ours this import fails.",
        **at_most(2e-5, compiled_against_eager=difference(got, want)),
        pictures_of_exchanged_prompts_differ_by=difference(first, other),
        pictures_of_bfloat16_weights_differ_by=difference(first, picture(PROMPTS, half)),
    )


def safety_checker() -> Found:
    """Its decision against the same arithmetic in NumPy on FlaxCLIPModel's embeddings."""
    _, checkers = flax_classes()
    config = clip_flax.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    full = clip_flax.FlaxCLIPModel(config, seed=4)
    checker = checkers.FlaxStableDiffusionSafetyChecker(config, seed=2)
    draw = np.random.default_rng(0)
    pixels = draw.standard_normal((3, 3, 224, 224), np.float32)
    embeds = np.asarray(full.get_image_features(pixels))
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    concepts = draw.standard_normal((17, 16)).astype(np.float32)
    cosines = embeds @ (concepts / np.linalg.norm(concepts, axis=1, keepdims=True)).T
    limits = np.full(17, 1.0, np.float32)
    limits[3] = np.sort(cosines[:, 3])[1:].mean()  # one picture of three lies above it
    checker.params = {
        "vision_model": {"vision_model": full.params["vision_model"]},
        "visual_projection": full.params["visual_projection"],
        "concept_embeds": concepts,
        "concept_embeds_weights": limits,
        "special_care_embeds": draw.standard_normal((3, 16)).astype(np.float32),
        "special_care_embeds_weights": np.ones(3, np.float32),
    }
    got = np.asarray(checker(pixels))
    if list(got) != list(cosines[:, 3] > limits[3]) or got.sum() != 1:
        raise AssertionError(f"{got}, {cosines[:, 3]}, {limits[3]}")
    with tempfile.TemporaryDirectory() as folder:
        checker.save_pretrained(folder)
        again = checkers.FlaxStableDiffusionSafetyChecker.from_pretrained(folder)
        if list(np.asarray(again(pixels))) != list(got):
            raise AssertionError("loaded, it decides otherwise")
    return works(
        "FlaxStableDiffusionSafetyChecker on FlaxPreTrainedModel and FlaxCLIPVisionModule; saved and loaded",
        "It flags the picture that NumPy finds from `FlaxCLIPModel.get_image_features`.",
        flagged_of_3=int(got.sum()),
    )


CHECKS = (calls, tokenizer, *((flax_pipeline, safety_checker) if TRANSFORMERS else ()))
