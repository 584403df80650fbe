"""Uses of v4.37's classes by other programs: calling a model's parts, replacing them, calling its methods."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_core import outputs
from clip_core.absent import ABSENT
from clip_torch import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionModel,
    InputError,
    modeling,
)
from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import ACROSS, relative_error

ADAPTOR = Torch()
CASES = {case.name: case for case in data.cases()}


def build(cls: str = "CLIPModel") -> Any:
    return ADAPTOR.build(CASES[f"class.{cls}"]).eval()


def inputs(cls: str = "CLIPModel") -> dict[str, torch.Tensor]:
    return ADAPTOR._inputs(CASES[f"class.{cls}"])


# -- parts, called as v4.37 calls them --------------------------------------------------------------------------------


def additive(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


def own_text_forward(tower: Any, ids: torch.Tensor, mask: torch.Tensor | None, **flags: Any) -> Any:
    """A text tower as textual inversion, ELITE, FastComposer and Taiyi write it for themselves."""
    x = tower.embeddings(input_ids=ids)
    batch, length = ids.shape
    causal = additive(torch.ones(batch, 1, length, length).triu(1) > 0, x.dtype)
    seen = None if mask is None else additive((mask != 1)[:, None, None, :].expand(batch, 1, length, length), x.dtype)
    encoded = tower.encoder(inputs_embeds=x, attention_mask=seen, causal_attention_mask=causal, **flags)
    return tower.final_layer_norm(encoded[0]), encoded


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("grad", [True, False])
def test_the_encoder_with_masks_of_ones_own(attention: str, grad: bool) -> None:
    model, given = build("CLIPTextModel"), inputs("CLIPTextModel")
    model.set_attn_implementation(attention)
    ids = given["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    mask[1] = 0
    for visible in (None, mask):
        with torch.set_grad_enabled(grad):
            want = model(ids, visible, output_hidden_states=True, output_attentions=True)
            last, encoded = own_text_forward(model.text_model, ids, visible)
            assert relative_error(last.detach(), want.last_hidden_state.detach()) <= ACROSS
            last, encoded = own_text_forward(
                model.text_model, ids, visible, output_hidden_states=True, output_attentions=True, return_dict=False
            )
        assert isinstance(encoded, tuple) and len(encoded) == 3
        for got, wanted in zip((*encoded[1], *encoded[2]), (*want.hidden_states, *want.attentions), strict=True):
            assert relative_error(got.detach(), wanted.detach()) <= ACROSS


@torch.no_grad()
def test_layers_are_called_by_position_and_give_tuples() -> None:
    model, ids = build("CLIPTextModel"), inputs("CLIPTextModel")["input_ids"]
    x = model.text_model.embeddings(ids)
    causal = additive(torch.ones(1, 1, x.shape[1], x.shape[1]).triu(1) > 0, x.dtype)
    for layer in model.text_model.encoder.layers:
        (plain,) = layer(x, None, causal)
        states, weights = layer(x, None, causal, True)
        attended, none = layer.self_attn(hidden_states=layer.layer_norm1(x), causal_attention_mask=causal)
        assert none is None and weights.shape == (x.shape[0], layer.self_attn.num_heads, x.shape[1], x.shape[1])
        assert relative_error(states, plain) <= ACROSS
        again = x + attended
        assert relative_error(again + layer.mlp(layer.layer_norm2(again)), plain) <= ACROSS
        x = plain
    assert relative_error(model.text_model.final_layer_norm(x), model(ids).last_hidden_state) <= ACROSS


def their_attention(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    causal_attention_mask: torch.Tensor | None = None,
    output_attentions: bool | None = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An attention that somebody gives to every layer, with v4.37's signature and attributes."""
    batch, length, width = hidden_states.size()
    assert width == self.embed_dim == self.num_heads * self.head_dim == self.config.hidden_size
    q = self._shape(self.q_proj(hidden_states) * self.scale, length, batch)
    k, v = (self._shape(part(hidden_states), -1, batch) for part in (self.k_proj, self.v_proj))
    scores = q @ k.transpose(-1, -2)
    for mask in (causal_attention_mask, attention_mask):
        if mask is not None:
            assert mask.shape[1:] == (1, length, length)
            scores = scores + mask
    weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
    out = (weights @ v).transpose(1, 2).reshape(batch, length, width)
    return self.out_proj(out), weights if output_attentions else None


@torch.no_grad()
@pytest.mark.parametrize("flags", [{}, {"output_attentions": True}])
def test_attention_of_others_in_every_layer(flags: dict[str, bool]) -> None:
    model, given = build(), inputs()
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    given["attention_mask"][0, 2:] = 0
    want = model(**given, **flags)
    features = model.get_image_features(given["pixel_values"])
    for layer in (*model.text_model.encoder.layers, *model.vision_model.encoder.layers):
        layer.self_attn.forward = types.MethodType(their_attention, layer.self_attn)
    got = model(**given, **flags)
    assert relative_error(got.logits_per_text, want.logits_per_text) <= ACROSS
    assert relative_error(model.get_image_features(given["pixel_values"]), features) <= ACROSS


def test_numbers_and_modules_that_programs_read() -> None:
    model = build()
    vision, config = model.vision_model.embeddings, model.config.vision_config
    grid = config.image_size // config.patch_size
    assert (vision.num_patches, vision.num_positions) == (grid**2, grid**2 + 1)
    assert (vision.embed_dim, vision.image_size, vision.patch_size) == (
        config.hidden_size, config.image_size, config.patch_size,
    )  # fmt: skip
    layer = model.text_model.encoder.layers[0]
    assert layer.embed_dim == layer.self_attn.embed_dim == model.config.text_config.hidden_size
    assert layer.self_attn.scale == layer.self_attn.head_dim**-0.5
    assert isinstance(layer.mlp.activation_fn, nn.Module) and layer.mlp.config is model.config.text_config
    assert model.text_model.eos_token_id == model.config.text_config.eos_token_id
    logits = torch.randn(3, 3)
    want = F.cross_entropy(logits, torch.arange(3))
    assert torch.allclose(modeling.contrastive_loss(logits), want)
    assert torch.allclose(modeling.clip_loss(logits), (want + F.cross_entropy(logits.T, torch.arange(3))) / 2)


# -- embeddings that were changed -------------------------------------------------------------------------------------


def test_checks_ask_what_the_module_has() -> None:
    model, width = build("CLIPTextModel"), build("CLIPTextModel").config.hidden_size
    vocabulary, places = model.config.vocab_size, model.config.max_position_embeddings
    with pytest.raises(InputError, match=f"wanted ids from 0 to {vocabulary - 1}"):
        model(torch.full((1, 3), vocabulary))
    model.set_input_embeddings(nn.Embedding(vocabulary + 9, width))
    model(torch.full((1, 3), vocabulary + 8))
    with pytest.raises(InputError, match=f"wanted ids from 0 to {vocabulary + 8}"):
        model(torch.full((1, 3), vocabulary + 9))
    embeddings = model.text_model.embeddings
    with pytest.raises(InputError, match=f"wanted at most {places} tokens"):
        model(torch.ones(1, places + 1, dtype=torch.long))
    embeddings.position_embedding = nn.Embedding(places + 5, width)
    embeddings.position_ids = torch.arange(places + 5)[None]
    assert model(torch.ones(1, places + 5, dtype=torch.long)).last_hidden_state.shape[1] == places + 5
    with pytest.raises(InputError, match=f"wanted at most {places + 5} tokens"):
        model(torch.ones(1, places + 6, dtype=torch.long))


class Hashed(nn.Module):
    """A table of somebody's own, for ids of any size."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table, self.weight = table, table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids % self.table.num_embeddings)


def test_nothing_is_checked_where_somebody_put_a_module_of_their_own() -> None:
    model, ids = build(), inputs()["input_ids"]
    want = model.get_text_features(ids)
    far = ids + 1000 * model.config.text_config.vocab_size * (ids != model.config.text_config.eos_token_id)
    model.text_model.embeddings.token_embedding = Hashed(model.text_model.embeddings.token_embedding)
    assert relative_error(model.get_text_features(far).detach(), want.detach()) <= ACROSS

    model = build()
    embeddings = model.text_model.embeddings

    def forward(self: Any, input_ids: Any = None, position_ids: Any = None, inputs_embeds: Any = None) -> torch.Tensor:
        learned = torch.zeros(input_ids.shape[0], 2, self.token_embedding.embedding_dim)  # a prompt before the text
        return torch.cat([learned, self.token_embedding(input_ids.clamp(max=5))], 1)

    embeddings.forward = types.MethodType(forward, embeddings)
    length = model.config.text_config.max_position_embeddings + 4
    out = model.text_model(torch.full((2, length), 10**6), torch.ones(2, length + 2))
    assert out.last_hidden_state.shape[1] == length + 2


@torch.no_grad()
def test_vision_positions_that_were_changed() -> None:
    model = build("CLIPVisionModel")
    embeddings, config = model.vision_model.embeddings, model.config
    pixels = torch.randn(2, config.num_channels, 2 * config.image_size, 2 * config.image_size)
    with pytest.raises(InputError, match="interpolate_pos_encoding"):
        model(pixels)
    count = (2 * config.image_size // config.patch_size) ** 2 + 1
    embeddings.position_embedding = nn.Embedding(count, config.hidden_size)
    embeddings.position_ids = torch.arange(count)[None]
    assert model(pixels).last_hidden_state.shape[1] == count
    with pytest.raises(InputError, match=f"wanted as many patches as there are positions, {count - 1}"):
        model(torch.randn(2, config.num_channels, config.image_size, config.image_size))

    model = build("CLIPVisionModel")

    class Own(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return (
                pixel_values.flatten(2)
                .mean(-1)[:, None]
                .repeat(1, 3, config.hidden_size // config.num_channels + 1)[..., : config.hidden_size]
            )

    model.vision_model.embeddings = Own()
    assert model(pixels).last_hidden_state.shape == (2, 3, config.hidden_size)


@torch.no_grad()
def test_a_vision_embedding_that_says_its_new_size() -> None:
    """What is checked is the module: its size, its channels and its stride, not the config's."""
    model = build("CLIPVisionModel")
    embeddings, config = model.vision_model.embeddings, model.config
    side, stride, channels = 3 * config.image_size, config.patch_size // 2, config.num_channels + 1
    count = (side // stride) ** 2 + 1
    embeddings.patch_embedding = nn.Conv2d(channels, config.hidden_size, stride, stride, bias=False)
    embeddings.position_embedding = nn.Embedding(count, config.hidden_size)
    embeddings.position_ids = torch.arange(count)[None]
    embeddings.image_size, embeddings.num_positions = side, count
    assert model(torch.randn(2, channels, side, side)).last_hidden_state.shape[1] == count
    for wrong in ((config.num_channels, side, side), (channels, config.image_size, config.image_size)):
        with pytest.raises(InputError, match=rf"wanted \[batch, {channels}, {side}, {side}\]"):
            model(torch.randn(2, *wrong))

    embeddings.patch_embedding = nn.Sequential(nn.Conv2d(1, config.hidden_size, stride, stride))
    embeddings.patch_embedding.weight = embeddings.patch_embedding[0].weight  # whose dtype v4.37 asks for
    assert model(torch.randn(2, 1, side, side)).last_hidden_state.shape[1] == count


def test_resized_positions(tmp_path: Path) -> None:
    model, ids = build(), inputs()["input_ids"]
    text, vision = model.get_position_embeddings()
    assert text is model.text_model.embeddings.position_embedding
    before, kept = model.get_text_features(ids), text.weight.detach().clone()
    model.resize_position_embeddings(text.num_embeddings + 7)
    assert model.config.text_config.max_position_embeddings == text.num_embeddings + 7
    assert torch.equal(model.get_text_features(ids), before)
    assert model.get_position_embeddings()[0].weight[: len(kept)].equal(kept)
    model.text_model(torch.ones(1, text.num_embeddings + 7, dtype=torch.long))

    config = model.config.vision_config
    size = 2 * (config.image_size // config.patch_size) * config.patch_size
    pixels = torch.randn(1, config.num_channels, size, size)
    want = model.get_image_features(pixels, interpolate_pos_encoding=True)
    model.resize_position_embeddings((size // config.patch_size) ** 2 + 1, tower="vision")
    assert config.image_size == size
    assert relative_error(model.get_image_features(pixels).detach(), want.detach()) <= ACROSS
    model.save_pretrained(tmp_path)
    assert torch.equal(CLIPModel.from_pretrained(tmp_path).get_image_features(pixels), model.get_image_features(pixels))
    for wrong in (0, 6):
        with pytest.raises(ValueError, match="new_num_position_embeddings"):
            model.resize_position_embeddings(wrong, tower="vision")


# -- memory that is filled later --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["assign", "to_empty", "to_empty of a real one"])
def test_positions_of_a_model_that_is_filled_later(how: str) -> None:
    want, given = build(), inputs()
    if how == "to_empty of a real one":
        model = type(want)(want.config)
        torch.full((1000,), 7)  # what memory may hold
        model.to_empty(device="cpu")
    else:
        with torch.device("meta"):
            model = type(want)(want.config)
    if how == "to_empty":
        model.to_empty(device="cpu")
    missing = model.load_state_dict(want.state_dict(), assign=how == "assign")
    assert not any(missing)
    for tower in (model.text_model, model.vision_model):
        ids = tower.embeddings.position_ids
        assert ids.equal(torch.arange(ids.shape[-1])[None]) and not ids.is_meta
    assert torch.equal(model.eval()(**given).logits_per_text, want(**given).logits_per_text)


def test_a_config_that_asks_for_gradient_checkpointing() -> None:
    config = CLIPTextConfig(**data.text(), gradient_checkpointing=True)
    model = CLIPTextModel(config)
    assert model.is_gradient_checkpointing and not hasattr(model.config, "gradient_checkpointing")
    assert not CLIPTextModel(CLIPTextConfig(**data.text())).is_gradient_checkpointing


# -- making and loading -----------------------------------------------------------------------------------------------


def test_weights_and_config_of_the_callers(tmp_path: Path) -> None:
    model = build()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    for made in (
        CLIPModel.from_pretrained(None, config=model.config, state_dict=state),
        CLIPModel.from_pretrained(tmp_path, state_dict=state, load_in_8bit=False),
        CLIPModel.from_pretrained(tmp_path, state_dict={f"clip.{name}": value for name, value in state.items()}),
    ):
        assert all(value.equal(state[name]) for name, value in made.state_dict().items())
    tower = CLIPTextModel.from_pretrained(tmp_path, state_dict=state)
    assert all(value.equal(state[name]) for name, value in tower.state_dict().items())
    with pytest.raises(TypeError, match="without a name or path it needs config="):
        CLIPModel.from_pretrained(None, state_dict=state)
    with pytest.raises(ValueError, match="load_in_8bit"):
        CLIPModel.from_pretrained(tmp_path, load_in_8bit=True)


@torch.no_grad()
def test_fewer_layers_than_the_file_has(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    ids = inputs()["input_ids"]
    want = model.text_model(ids, output_hidden_states=True).hidden_states
    depth = model.config.text_config.num_hidden_layers
    config = CLIPTextConfig.from_pretrained(tmp_path, num_hidden_layers=depth - 1)
    for skipped in (
        CLIPTextModel.from_pretrained(tmp_path, num_hidden_layers=depth - 1),
        CLIPTextModel.from_pretrained(tmp_path, config=config),
    ):
        assert len(skipped.text_model.encoder.layers) == depth - 1
        states = skipped(ids, output_hidden_states=True).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(states, want, strict=False))
    with pytest.raises(ValueError, match="- text_model.encoder.layers.2"):
        CLIPTextModel.from_pretrained(tmp_path, num_hidden_layers=depth + 1)


class Foreign:
    """Another library's config object."""

    _attn_implementation = "eager"

    def __init__(self, config: Any) -> None:
        self.values = config.to_dict()

    def to_dict(self) -> dict[str, Any]:
        return {**self.values, "transformers_version": "9", "of_theirs": 1}


def test_configs_of_others_and_of_another_part(tmp_path: Path) -> None:
    model = build()
    made = CLIPModel(Foreign(model.config))
    assert type(made.config) is CLIPConfig and made.config.text_config._attn_implementation == "eager"
    assert made.config.text_config.hidden_size == model.config.text_config.hidden_size
    model.save_pretrained(tmp_path)
    assert CLIPModel.from_pretrained(tmp_path, config=Foreign(model.config)).logit_scale.equal(model.logit_scale)
    for config in (model.config, Foreign(model.config)):
        with pytest.raises(TypeError, match="wanted a CLIPTextConfig.*found.*pass its text_config"):
            CLIPTextModel(config)
    with pytest.raises(TypeError, match=r"CLIPTextModel.from_pretrained\(...\) takes names and paths"):
        CLIPTextModel("openai/clip-vit-base-patch32")


def test_made_from_a_config() -> None:
    config = build().config
    model = CLIPModel._from_config(config, torch_dtype="float16", attn_implementation="eager")
    assert model.dtype == torch.float16 and model.config is not config
    assert model.config.vision_config._attn_implementation == "eager" != config.vision_config._attn_implementation


def test_initial_weights_follow_the_rule() -> None:
    torch.manual_seed(0)
    config = CLIPConfig(text_config=data.text(), vision_config=data.vision(), projection_dim=64)
    model = CLIPModel(config)
    layer = model.vision_model.encoder.layers[0]
    width, depth = config.vision_config.hidden_size, config.vision_config.num_hidden_layers
    wanted = {
        layer.self_attn.q_proj: width**-0.5 * (2 * depth) ** -0.5,
        layer.self_attn.out_proj: width**-0.5,
        layer.mlp.fc1: (2 * width) ** -0.5,
        layer.mlp.fc2: width**-0.5 * (2 * depth) ** -0.5,
        model.visual_projection: width**-0.5,
        model.vision_model.embeddings.position_embedding: 0.02,
    }
    for module, deviation in wanted.items():
        assert 0.7 * deviation < module.weight.std() < 1.3 * deviation
        assert getattr(module, "bias", None) is None or not module.bias.any()
    assert all(norm.weight.eq(1).all() for norm in model.modules() if isinstance(norm, nn.LayerNorm))


# -- the base class's names -------------------------------------------------------------------------------------------


def test_sizes_and_costs() -> None:
    model, ids = build("CLIPTextModel"), inputs("CLIPTextModel")["input_ids"]
    count = model.num_parameters()
    assert model.get_memory_footprint(return_buffers=False) == 4 * count
    assert model.get_memory_footprint() == 4 * count + 8 * model.config.max_position_embeddings
    assert model.half().get_memory_footprint(return_buffers=False) == 2 * count
    dense = model.num_parameters(exclude_embeddings=True)
    assert model.floating_point_ops({"input_ids": ids}) == 6 * ids.numel() * dense
    assert model.estimate_tokens({}) == 0 and model.warnings_issued == {"estimate_tokens": True}
    assert model.framework == "pt" and CLIPTextModel.can_generate() is False
    model.add_model_tags("a")
    model.add_model_tags(["a", "b"])
    assert model.model_tags == ["a", "b"] and CLIPTextModel.model_tags is None
    names = ["text_model.final_layer_norm.bias", "text_model.encoder.layers.0.mlp.fc1.weight"]
    found = model.retrieve_modules_from_names(names)
    assert found == [model.text_model.encoder.layers[0].mlp.fc1, model.text_model.final_layer_norm]


def test_masks_of_the_base_class() -> None:
    model, lowest = build("CLIPTextModel"), torch.finfo(torch.float32).min
    mask = torch.tensor([[1, 1, 0]])
    for found in (model.invert_attention_mask(mask), model.get_extended_attention_mask(mask, (1, 3))):
        assert found.shape == (1, 1, 1, 3) and found[0, 0, 0].tolist() == [0, 0, lowest]
    assert model.get_extended_attention_mask(torch.ones(1, 3, 3), (1, 3)).shape == (1, 1, 3, 3)
    with pytest.raises(ValueError, match="attention_mask: wanted"):
        model.get_extended_attention_mask(torch.ones(3), (1, 3))
    model.config.is_decoder = True
    causal = model.get_extended_attention_mask(torch.ones(1, 4), (1, 3))[0, 0]
    assert (causal == 0).tolist() == [[True, True, False, False], [True, True, True, False], [True] * 4]
    assert model.get_head_mask(None, 3) == [None] * 3
    assert model.get_head_mask(torch.ones(4), 3).shape == (3, 1, 4, 1, 1)
    assert model.get_head_mask(torch.ones(3, 4), 3, True).shape == (3, 1, 4, 1, 1, 1)


def test_what_has_no_meaning_says_what_to_use() -> None:
    model = build()
    for name, hint in ABSENT["torch_model"].items():
        assert not hasattr(model, name)
        with pytest.raises(AttributeError) as raised:
            getattr(model, name)
        assert hint in str(raised.value)
    with pytest.raises(AttributeError, match="has no attribute 'text_modle'"):
        model.text_modle  # noqa: B018


def test_outputs_that_others_derive_are_pytrees() -> None:
    from dataclasses import dataclass

    import torch.utils._pytree as pytree

    @dataclass(eq=False, repr=False)
    class Scored(outputs.CLIPOutput):
        score: Any = None

    out = Scored(logits_per_text=torch.ones(2), score=torch.zeros(1))
    doubled = pytree.tree_map(lambda x: x + 1, out)
    assert type(doubled) is Scored and doubled.score.item() == 1 and doubled.loss is None
    assert pytree.tree_map(lambda x: 2 * x, outputs.ModelOutput({"a": 1.0}))["a"] == 2


def test_loading_says_nothing_where_nothing_differs(tmp_path: Path) -> None:
    build("CLIPVisionModel").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CLIPVisionModel.from_pretrained(tmp_path)
