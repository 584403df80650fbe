"""SavedModel without this package, LiteRT in eight bits, mixed precision and tf.distribute, against eager calls."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import clip_core
import clip_tf

ROOT = Path(__file__).parents[2]  # of conformance/; the package may be installed elsewhere
ROUNDING = 1e-5  # of order-1 values, in other kernels


def program(code: str, folder: Path, *arguments: Any) -> None:
    """Run in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_saved_model_without_this_package(model: Any, inputs: dict, tmp_path: Path) -> None:
    model.export(tmp_path / "clip", verbose=False)
    kept = tf.train.list_variables(str(tmp_path / "clip/variables/variables"))
    numbers = sum(int(np.prod(shape)) for name, shape in kept if not name.startswith("_CHECKPOINTABLE"))
    assert numbers == model.count_params()  # every weight once
    pixels = inputs["pixel_values"]
    np.save(tmp_path / "pixels.npy", pixels)
    code = """
        import sys, numpy as np, tensorflow as tf
        run = tf.saved_model.load("clip").signatures["image"]
        np.save("features.npy", run(pixel_values=tf.constant(np.load("pixels.npy")))["image_features"])
        assert not [name for name in sys.modules if name.startswith("clip_")]
    """
    program(code, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), model.get_image_features(pixels), atol=ROUNDING)


# bfloat16 keeps 8 bits (4e-3 per rounding), float16 11 (5e-4); some dozens of roundings add up.
@pytest.mark.parametrize(("policy", "bound"), [("mixed_bfloat16", 5e-2), ("mixed_float16", 1e-2)])
def test_saved_model_in_mixed_precision(model: Any, inputs: dict, tmp_path: Path, policy: str, bound: float) -> None:
    other = clip_tf.TFCLIPModel(model.config, dtype=policy)
    other.set_weights(model.get_weights())
    other.export(tmp_path / "clip", verbose=False, signatures=["image"])
    pixels = inputs["pixel_values"]
    got = tf.saved_model.load(str(tmp_path / "clip")).signatures["image"](pixel_values=tf.constant(pixels))
    got, want = got["image_features"], model.get_image_features(pixels)
    assert got.dtype.name == policy.removeprefix("mixed_")
    assert np.abs(tf.cast(got, tf.float32) - want).max() <= bound * np.abs(want).max()
    np.testing.assert_allclose(
        tf.cast(got, tf.float32), tf.cast(other.get_image_features(pixels), tf.float32), atol=bound * np.abs(want).max()
    )


# -- LiteRT in eight bits ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """The embedded model, sentences and pictures: rounding to eight bits says nothing about drawn weights."""
    model = clip_tf.TFCLIPModel.from_pretrained("emoji")
    processor = clip_tf.CLIPProcessor.from_pretrained("emoji")
    files = sorted((Path(clip_core.__file__).parent / "models/emoji/pictures").glob("*.png"))
    given = processor(
        text=["a red apple", "a smiling face", "a blue car", "a dog"],
        images=[Image.open(file).convert("RGB") for file in files],
        return_tensors="np",
        padding="max_length",
        max_length=model.config.text_config.max_position_embeddings,
    )
    ids, mask = given["input_ids"].astype(np.int32), given["attention_mask"].astype(np.int32)
    return model, ids, mask, given["pixel_values"]


def cosines(a: Any, b: Any) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def interpreter(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter says that it will move
        return tf.lite.Interpreter(str(path), num_threads=1)


def test_litert_of_dynamic_range(emoji: Any, tmp_path: Path) -> None:
    """Weights in eight bits, a quarter of the size."""
    model, ids, mask, pixels = emoji
    model.export(tmp_path / "small.tflite", format="litert", optimizations=[tf.lite.Optimize.DEFAULT])
    assert (tmp_path / "small.tflite").stat().st_size < 0.27 * 4 * model.count_params()
    run = interpreter(tmp_path / "small.tflite")
    text, image = run.get_signature_runner("text"), run.get_signature_runner("image")
    got = [text(input_ids=i[None], attention_mask=m[None])["text_features"][0] for i, m in zip(ids, mask, strict=True)]
    assert cosines(got, model.get_text_features(ids, mask)).min() > 0.99
    got = [image(pixel_values=picture[None])["image_features"][0] for picture in pixels]
    assert cosines(got, model.get_image_features(pixels)).min() > 0.99


# -- tf.distribute ----------------------------------------------------------------------------------------------------

STRATEGY = """
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import clip_tf
    from conformance.cases import IDS, full

    config = clip_tf.CLIPConfig(**full({"num_hidden_layers": 1}, {"num_hidden_layers": 1}))
    pixels = np.random.default_rng(0).standard_normal((4, 3, 21, 21)).astype(np.float32)
    ids = np.array(IDS, np.int32)
    keras.utils.set_random_seed(3)
    alone = clip_tf.TFCLIPVisionModelWithProjection(config.vision_config)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        spread = clip_tf.TFCLIPVisionModelWithProjection(config.vision_config)
        spread.set_weights(alone.get_weights())

    @tf.function
    def run(rows):
        return strategy.run(lambda rows: spread(rows).image_embeds, (rows,))

    parts = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(pixels).batch(4))
    for rows in parts:
        got = strategy.gather(run(rows), axis=0)
    np.testing.assert_allclose(got, alone(pixels).image_embeds, atol=1e-5)

    def loss(wanted, found):  # of every row, so that the mean is that of the whole batch
        return keras.ops.mean(keras.ops.square(wanted - found), axis=-1)

    wanted = np.random.default_rng(1).standard_normal(alone(pixels).image_embeds.shape).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices(({"pixel_values": pixels}, {"image_embeds": wanted})).batch(4)
    before = [w.copy() for w in alone.get_weights()]
    for model in (alone, spread):
        scope = strategy.scope() if model is spread else tf.name_scope("alone")
        with scope:
            model.compile(optimizer=keras.optimizers.SGD(0.1), loss={"image_embeds": loss})
        model.fit(data, epochs=2, verbose=0)
    moved = 0
    for old, a, b in zip(before, alone.get_weights(), spread.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)
        moved = max(moved, np.abs(old - a).max())
    assert moved > 1e-3, moved
"""


def test_mirrored_strategy(tmp_path: Path) -> None:
    """Two replicas give one device's outputs, and one device's weights after two steps of `fit`."""
    program(STRATEGY, tmp_path)
