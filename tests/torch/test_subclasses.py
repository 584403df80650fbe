"""Users' subclasses: the parts they add are saved, loaded, initialised, and named in warnings."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clip_torch import (
    CheckpointError,
    CLIPConfig,
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from clip_torch.modeling import CLIPTextTransformer, CLIPVisionTransformer
from conformance import cases as data
from conformance.adaptors import Torch

ADAPTOR = Torch()
CASES = {case.name: case for case in data.cases()}


def build(cls: str) -> Any:
    return ADAPTOR.build(CASES[f"class.{cls}"])


class Classifier(CLIPVisionModel):
    """Parts of every kind: modules, a bare parameter, buffers that are saved and that are not, plain tensors."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, 3)
        self.norm = nn.BatchNorm1d(config.hidden_size)
        self.extra = nn.Parameter(torch.full((2,), 7.0))
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("offsets", torch.tensor([5, 3, 1]), persistent=False)
        self.scale = torch.ones(2)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(super().forward(pixel_values).pooler_output)) * self.extra[0]


class Around(CLIPPreTrainedModel):
    """A tower under a name of its own."""

    config_class = CLIPVisionConfig
    base_model_prefix = "encoder"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.encoder = CLIPVisionModel(config)
        self.head = nn.Linear(config.hidden_size, 2)
        self.post_init()


class Checker(CLIPPreTrainedModel):
    """As diffusers' safety checker has it: towers with heads of its own, from a full model's config."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionModel(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(17, config.projection_dim), requires_grad=False)


class Towers(CLIPPreTrainedModel):
    """The inner modules themselves, at the top."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextTransformer(config.text_config)
        self.vision_model = CLIPVisionTransformer(config.vision_config)
        self.mix = nn.Linear(4, 4)
        self.post_init()


class Taught(CLIPVisionModel):
    """A second CLIP beside its own."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.a_teacher = CLIPVisionModel(config)


CONFIGS = {Classifier: "CLIPVisionModel", Around: "CLIPVisionModel", Taught: "CLIPVisionModel"}


def made(cls: Any) -> Any:
    torch.manual_seed(1)
    return cls(build(CONFIGS.get(cls, "CLIPModel")).config)


@pytest.mark.parametrize("cls", [Classifier, Around, Checker, Towers, Taught])
@pytest.mark.parametrize("safe", [True, False])
def test_what_is_saved_is_loaded(cls: Any, safe: bool, tmp_path: Path) -> None:
    model = made(cls)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn_like(value) if value.is_floating_point() else value + 2)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    first, second = model.state_dict(), again.state_dict()
    assert list(first) == list(second) and all(first[name].equal(second[name]) for name in first)
    assert not again.training and [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_buffers_of_a_subclass_are_its_own(tmp_path: Path) -> None:
    made(Classifier).save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert again.offsets.tolist() == [5, 3, 1] and again.scale.tolist() == [1, 1]
    assert torch.allclose(again.mean, torch.tensor([0.1, 0.2, 0.3]))
    positions = again.vision_model.embeddings.position_ids
    assert positions.equal(torch.arange(positions.shape[-1])[None])


def test_what_the_file_lacks_is_initialised_and_named_once(tmp_path: Path) -> None:
    base = build("CLIPVisionModel")
    base.save_pretrained(tmp_path)
    with pytest.warns(UserWarning) as caught:
        model, info = Classifier.from_pretrained(tmp_path, output_loading_info=True)
    assert len(caught) == 1 and "- classifier.weight" in str(caught[0].message)
    assert {"classifier.weight", "classifier.bias", "extra", "mean", "norm.running_var"} <= set(info["missing_keys"])
    assert model.classifier.weight.abs().max() <= 3**0.5 * model.classifier.in_features**-0.5  # nn.Linear's own rule
    assert 0.05 < model.classifier.weight.std() < 0.4 and not model.classifier.bias.any()  # v4.37 empties biases
    assert model.extra.tolist() == [7, 7] and model.norm.running_var.eq(1).all() and model.norm.weight.eq(1).all()
    assert all(value.equal(model.state_dict()[name]) for name, value in base.state_dict().items())
    assert torch.isfinite(model(torch.zeros(2, 3, *[model.config.image_size] * 2))).all()


def test_what_the_class_lacks_is_named(tmp_path: Path) -> None:
    model = made(Classifier)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"\+ classifier.bias") as caught:
        plain, info = CLIPVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert len(caught) == 1 and "classifier.weight" in info["unexpected_keys"] and not info["missing_keys"]
    assert all(value.equal(model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_strictness_is_for_names_of_clip(tmp_path: Path) -> None:
    made(Classifier).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["vision_model.surprise"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\+ vision_model.surprise"):
        Classifier.from_pretrained(tmp_path)
    made(Around).save_pretrained(tmp_path / "around")
    weights = load_file(tmp_path / "around" / "model.safetensors")
    del weights["encoder.vision_model.pre_layrnorm.bias"], weights["head.bias"]
    save_file(weights, tmp_path / "around" / "model.safetensors")
    with pytest.raises(CheckpointError, match="- encoder.vision_model.pre_layrnorm.bias"):
        Around.from_pretrained(tmp_path / "around")
    with pytest.warns(UserWarning, match="- encoder.vision_model.pre_layrnorm.bias"):
        Around.from_pretrained(tmp_path / "around", strict=False)


def test_another_shape(tmp_path: Path) -> None:
    made(Classifier).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "classifier.weight": torch.zeros(9, 20)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"classifier.weight: got \(9, 20\), want \(3, 20\)"):
        Classifier.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="classifier.weight: got"):
        model, info = Classifier.from_pretrained(tmp_path, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["mismatched_keys"] == [("classifier.weight", (9, 20), (3, 20))]
    assert model.classifier.weight.abs().max() > 0


def test_a_base_model_under_its_prefix_and_back(tmp_path: Path) -> None:
    base = build("CLIPVisionModel")
    base.save_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="- head.weight") as caught:
        around = Around.from_pretrained(tmp_path / "base")
    assert "encoder" not in str(caught[0].message)
    assert all(value.equal(around.encoder.state_dict()[name]) for name, value in base.state_dict().items())
    assert around.base_model is around.encoder
    around.save_pretrained(tmp_path / "around")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another model's weights around a CLIP are none of its business
        again = CLIPVisionModel.from_pretrained(tmp_path / "around")
    assert all(value.equal(again.state_dict()[name]) for name, value in base.state_dict().items())


def test_towers_of_a_full_model(tmp_path: Path) -> None:
    whole = build("CLIPModel")
    whole.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="- mix.weight") as caught:
        towers = Towers.from_pretrained(tmp_path)
    assert "visual_projection" not in str(caught[0].message), "a part of CLIP that the class doesn't have"
    own, theirs = towers.state_dict(), whole.state_dict()
    assert all(own[name].equal(theirs[name]) for name in own if not name.startswith("mix"))


def test_a_file_without_any_clip(tmp_path: Path) -> None:
    class Small(CLIPPreTrainedModel):
        def __init__(self, config: CLIPConfig) -> None:
            super().__init__(config)
            self.table = nn.Embedding(3, 4)
            self.post_init()

    model = Small(build("CLIPModel").config)
    model.save_pretrained(tmp_path)
    assert Small.from_pretrained(tmp_path).table.weight.equal(model.table.weight)


def test_tied_weights_are_one_tensor_again(tmp_path: Path) -> None:
    class Tied(CLIPTextModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

        def get_output_embeddings(self) -> Any:
            return getattr(self, "lm_head", None)

    build("CLIPTextModel").save_pretrained(tmp_path / "base")
    Tied.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "tied")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in ("base", "tied"):  # the head is the table, so nothing is missing
            model = Tied.from_pretrained(tmp_path / folder)
            assert model.lm_head.weight is model.text_model.embeddings.token_embedding.weight
    assert model.lm_head.weight.equal(build("CLIPTextModel").text_model.embeddings.token_embedding.weight)


def test_a_constructor_ties_and_draws_nothing_while_a_file_is_loaded(tmp_path: Path) -> None:
    """As in v4.37: what is tied may be made after the base class's constructor."""

    class Speaker(CLIPTextModel):
        _tied_weights_keys = ["lm_head.weight"]

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

        def get_output_embeddings(self) -> nn.Module:
            return self.lm_head

    build("CLIPTextModel").save_pretrained(tmp_path)
    model = Speaker.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert torch.equal(Speaker.from_pretrained(tmp_path).lm_head.weight, model.lm_head.weight)


def test_lists_of_names_that_are_passed_over(tmp_path: Path) -> None:
    class Quiet(Classifier):
        _keys_to_ignore_on_load_missing = [r"classifier\.", "extra", "mean", "norm"]
        _keys_to_ignore_on_save = ["extra"]

    build("CLIPVisionModel").save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Quiet.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "own")
    assert "extra" not in load_file(tmp_path / "own" / "model.safetensors")


def test_a_subclass_says_how_its_parts_are_drawn(tmp_path: Path) -> None:
    class Drawn(CLIPVisionModel):
        def __init__(self, config: CLIPVisionConfig) -> None:
            super().__init__(config)
            self.head = nn.Linear(config.hidden_size, 4)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            super()._init_weights(module)
            if module is getattr(self, "head", None):
                module.weight.data.fill_(0.25)

    config = build("CLIPVisionModel").config
    assert Drawn(config).head.weight.eq(0.25).all()
    build("CLIPVisionModel").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="head"):
        assert Drawn.from_pretrained(tmp_path).head.weight.eq(0.25).all()


def test_dtypes(tmp_path: Path) -> None:
    made(Classifier).save_pretrained(tmp_path)
    model = Classifier.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float16} == {model.mean.dtype}
    assert model.offsets.dtype == torch.int64 and model.norm.num_batches_tracked.dtype == torch.int64


def test_a_config_class_of_ones_own(tmp_path: Path) -> None:
    class Config(CLIPConfig):
        model_type = "mine"

        def __init__(self, depth: int = 3, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.depth = depth

    class Mine(CLIPPreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.clip = CLIPModel(config)
            self.stack = nn.Linear(config.depth, 2)

    values = build("CLIPModel").config.to_dict()
    model = Mine(Config(depth=5, **{k: values[k] for k in ("text_config", "vision_config", "projection_dim")}))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mine"
    again = Mine.from_pretrained(tmp_path)
    assert again.config.depth == 5 and again.stack.weight.equal(model.stack.weight)
    assert again.clip.logit_scale.equal(model.clip.logit_scale)
