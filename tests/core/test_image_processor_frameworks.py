"""Real tensors in and out. Each part is skipped where its framework is not installed."""

import numpy as np
import pytest

from clip_core.image.processor import CLIPImageProcessor

array = (np.arange(30 * 40 * 3, dtype=np.uint32) * 7 % 256).reshape(30, 40, 3).astype(np.uint8)


@pytest.fixture
def processor():
    return CLIPImageProcessor(size=24, crop_size=20)


@pytest.fixture
def want(processor):
    return processor(array)["pixel_values"][0]


def test_torch(processor, want):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.from_numpy(array.copy())
    first = tensor.permute(2, 0, 1)
    for images in (tensor, first, [first, tensor], first[None], tensor.int(), tensor.float().requires_grad_()):
        found = processor(images, return_tensors="pt")["pixel_values"]
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found[0].numpy(), want)
    np.testing.assert_array_equal(processor(tensor.bfloat16())["pixel_values"][0], want)  # bytes are exact in bfloat16
    raw = processor(tensor, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert raw.dtype == torch.uint8


def test_jax(processor, want):
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    for images in (jnp.asarray(array), [jnp.asarray(array)], jnp.asarray(array, jnp.bfloat16)):
        found = processor(images, return_tensors="jax")["pixel_values"]
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(found)[0], want)


def test_tensorflow(processor, want):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    for images in (tf.constant(array), [tf.constant(array)], tf.cast(array, tf.bfloat16)):
        found = processor(images, return_tensors="tf")["pixel_values"]
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found.numpy()[0], want)
