"""Models of int8 layers: near float32, copied, refused where they can't work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clip_core.config import CLIPTextConfig
from clip_core.errors import InputError
from clip_torch import CLIPModel, CLIPTextModelWithProjection, int8
from clip_torch.modeling import CLIPMLP

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_prepack")),
    reason="this PyTorch has no oneDNN",
)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The least of the rows'."""
    return float(torch.cosine_similarity(a, b, dim=-1).min())


@pytest.mark.parametrize("size", [(7,), (3, 7), (2, 3, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(size: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 5, bias=bias), torch.randn(size) + 0.3
    with torch.no_grad():
        got, want = int8.Int8Linear(layer)(x), layer(x)
    assert got.shape == want.shape and got.dtype == torch.float32
    # Half a step of an input and of a weight, each at most 1 / 180 of the largest, for 7 products.
    assert x.numel() == 0 or (got - want).abs().max() < 7 * x.abs().max() * layer.weight.abs().max() / 60


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 2.0], [-3.0, -1.0], [-1e-3, 200.0], [-101.0, 154.0], [1e-30, 0]])
def test_inputs_are_rounded_within_half_a_step(values: list[float]) -> None:
    x = torch.tensor([*values, *np.linspace(min(values), max(values), 1001)], dtype=torch.float32)
    rounded, scale, zero = int8.rounded(x)
    back = (rounded.double() - zero) * scale
    assert rounded.dtype == torch.uint8 and 0 <= zero <= 255
    assert (back - x.double()).abs().max() <= scale * 0.501


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new", "relu", "silu"])
def test_a_block_with_each_activation(act: str) -> None:
    torch.manual_seed(0)
    mlp = CLIPMLP(CLIPTextConfig(hidden_size=64, intermediate_size=256, num_attention_heads=2, hidden_act=act)).eval()
    x = torch.randn(3, 10, 64)
    with torch.no_grad():
        assert cosine(int8.Int8MLP(mlp)(x), mlp(x)) > 0.999


def test_a_tower_alone_and_its_state(emoji: Any, tmp_path: Path) -> None:
    model = int8.quantize(CLIPTextModelWithProjection.from_pretrained("emoji"))
    other = int8.quantize(CLIPTextModelWithProjection(model.config))
    other.load_state_dict(model.state_dict())
    ids = torch.tensor([[49406, 320, 49407]]) % model.config.vocab_size
    assert torch.equal(model(ids).text_embeds, other(ids).text_embeds)
    with pytest.raises(ValueError, match="quantized model has no layout"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def emoji() -> CLIPModel:
    return CLIPModel.from_pretrained("emoji")


def test_there_are_no_derivatives(emoji: CLIPModel) -> None:
    model = int8.quantize(emoji)
    assert not any(p.requires_grad for p in model.parameters())
    side = model.config.vision_config.image_size
    with pytest.raises(NotImplementedError, match="float32"):
        model.vision_model.encoder(torch.zeros(1, 5, model.vision_embed_dim, requires_grad=True))
    assert model.get_image_features(torch.zeros(1, 3, side, side)).shape == (1, model.projection_dim)


def test_what_can_not_be_quantized(emoji: CLIPModel, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = emoji.text_model.encoder.layers[1].self_attn
    attention.k_proj = nn.Sequential(attention.k_proj)
    with pytest.raises(InputError, match="found k_proj: Sequential"):
        int8.quantize(emoji)
    with pytest.raises(InputError, match="on meta"):
        int8.quantize(emoji.to("meta"))
    with pytest.raises(ValueError, match="backend torch"):
        CLIPModel.from_pretrained("emoji", dtype="int8")
