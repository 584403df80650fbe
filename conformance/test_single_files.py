"""from_pretrained of every backend reads every layout, folder or single file, to the same bits."""

from pathlib import Path

import numpy as np
import pytest

from clip_core import CheckpointError, CLIPConfig
from clip_core.checkpoint import load, safetensors_file
from clip_core.checkpoint.dialects import OPENAI, translate
from clip_core.checkpoint.tensor import Tensor

from .adaptors import ADAPTORS, installed

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "checkpoints"
SOURCES = (
    "hf",
    "hf-bin-sharded",
    "tf/tf_model.h5",
    "flax-sharded",
    "kerashub",
    "open_clip-custom",
    "openai/tiny-openai.pt",
    "openai/tiny-openai-jit.pt",
)
INSTALLED = installed()


def text_class(backend):
    return ADAPTORS[backend].model_class("CLIPTextModelWithProjection")


def config():
    full = CLIPConfig.from_pretrained(GOLDEN / "hf")
    full.text_config.projection_dim = full.projection_dim
    return full.text_config


def same_bits(model, wanted):
    found = model._get_weights()
    assert set(found) == set(wanted)
    for name, tensor in found.items():
        assert tensor.astype("float32").numpy().tobytes() == wanted[name].astype("float32").numpy().tobytes(), name


@pytest.fixture(scope="module")
def reference():
    names = ("text_model.", "text_projection")
    return {name: tensor for name, tensor in load(GOLDEN / "hf").tensors.items() if name.startswith(names)}


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize("source", SOURCES)
def test_every_layout_loads(backend, source, reference):
    if source.endswith(".h5") or source == "kerashub":
        pytest.importorskip("h5py")  # the format's own extra
    stored = load(GOLDEN / source, component="text", config=config().to_dict()).tensors
    rounded = {name: tensor.astype(stored[name].dtype) for name, tensor in reference.items()}  # OpenAI's is half
    same_bits(text_class(backend).from_pretrained(GOLDEN / source, config=config()), rounded)


@pytest.mark.parametrize("backend", INSTALLED)
def test_a_component_of_a_single_file_checkpoint(backend, reference, tmp_path):
    halved = {name: Tensor.from_numpy(tensor.numpy() * np.float32(0.5)) for name, tensor in reference.items()}
    first = {f"conditioner.embedders.0.transformer.{n}": t for n, t in reference.items() if n.startswith("text_model.")}
    second = {f"conditioner.embedders.1.model.{n}": t for n, t in translate(halved, OPENAI).items()}
    path = tmp_path / "xl.safetensors"
    safetensors_file.write(path, {**first, **second, "model.diffusion_model.x": Tensor.from_numpy(np.zeros(3, "f4"))})
    model = text_class(backend).from_pretrained(path, component="text_encoder_2", config=config())
    same_bits(model, halved)
    with pytest.raises(CheckpointError, match="text_projection.weight"):  # the first encoder has no projection
        text_class(backend).from_pretrained(path, component="text_encoder", config=config())
