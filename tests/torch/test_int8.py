"""int8 encoders: near float32, by every mask and activation, copied, and refused where they can't work."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clip_core.config import CLIPConfig
from clip_core.errors import InputError, MissingDependencyError
from clip_torch import CLIPModel, CLIPTextModelWithProjection, int8

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed")


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The least of the rows'."""
    return torch.cosine_similarity(a, b, dim=-1).min().item()


def random_model(act: str = "quick_gelu", layers: int = 2) -> CLIPModel:
    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "hidden_act": act}
    tower |= {"num_hidden_layers": layers, "initializer_factor": 3.0}
    text = {**tower, "vocab_size": 99, "max_position_embeddings": 12, "eos_token_id": 98, "bos_token_id": 97}
    vision = {**tower, "image_size": 24, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()


@pytest.mark.parametrize("act", [*int8.ACTIVATIONS])
def test_each_activation(act: str) -> None:
    model = random_model(act)
    small = int8.quantize(copy.deepcopy(model))
    pixels, ids = torch.randn(3, 3, 24, 24), torch.randint(0, 97, (5, 7))
    ids[:, 4] = 98
    assert cosine(small.get_image_features(pixels), model.get_image_features(pixels)) > 0.999
    assert cosine(small.get_text_features(ids), model.get_text_features(ids)) > 0.999


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_whole_outputs_and_masks(layers: int, padded: bool) -> None:
    model = random_model(layers=layers)
    small = int8.quantize(copy.deepcopy(model))
    inputs: dict[str, Any] = {"input_ids": torch.randint(0, 97, (2, 8)), "pixel_values": torch.randn(3, 3, 24, 24)}
    inputs["input_ids"][:, 5] = 98
    if padded:
        inputs["attention_mask"] = torch.tensor([[1] * 8, [1] * 6 + [0, 0]])
    ours, want = small(**inputs), model(**inputs)
    for tower in ("text_model_output", "vision_model_output"):
        assert cosine(ours[tower].last_hidden_state, want[tower].last_hidden_state) > 0.998
    for name in ("image_embeds", "text_embeds"):
        assert cosine(ours[name], want[name]) > 0.998
    alone = small.get_text_features(**{k: v for k, v in inputs.items() if k != "pixel_values"})
    assert cosine(alone, ours.text_embeds) > 0.999  # the pooled token alone, whose inputs have a range of their own


def test_copies_and_state(tmp_path: Path) -> None:
    model = int8.quantize(CLIPTextModelWithProjection.from_pretrained("emoji"))
    ids = torch.tensor([[5, 320, 7], [4, 9, 11]])
    want = model(ids).text_embeds
    other = int8.quantize(CLIPTextModelWithProjection(model.config))
    other.load_state_dict(model.state_dict())
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(ids).text_embeds, want)
    with pytest.raises(ValueError, match="quantized model has no layout"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_empty_batch() -> None:
    model = int8.quantize(random_model())
    assert model.get_image_features(torch.zeros(0, 3, 24, 24)).shape == (0, 32)


def test_what_it_does_not_have() -> None:
    model = int8.quantize(random_model())
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.zeros(1, 5, 64)
    with pytest.raises(NotImplementedError, match="derivatives.*float32"):
        model.vision_model.encoder(x.clone().requires_grad_())
    for name in ("output_attentions", "output_hidden_states"):
        with pytest.raises(NotImplementedError, match="float32"):
            model.vision_model(torch.zeros(1, 3, 24, 24), **{name: True})


def test_what_can_not_be_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    attention = model.text_model.encoder.layers[1].self_attn
    attention.k_proj = nn.Sequential(attention.k_proj)
    with pytest.raises(InputError, match="found Sequential in text_model"):
        int8.quantize(model)
    with pytest.raises(InputError, match="on meta"):
        int8.quantize(random_model().to("meta"))
    with pytest.raises(InputError, match="activations.*SELU"):
        int8.quantize(random_model("selu"))
    with pytest.raises(ValueError, match="backend torch"):
        CLIPModel.from_pretrained("emoji", dtype="int8")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"triclip\[torch,onnx\]"):
        int8.quantize(random_model())
