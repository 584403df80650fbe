"""Weight decay, locking and layer-wise rates by name; the learning rate and the average's decay at every step."""

import math

import pytest

from clip_core import CLIPConfig
from triclip.train.config import AnchorSection, LockSection, LossSection, ModelSection, OptimizerSection, TrainConfig
from triclip.train.rules import parameter_rules
from triclip.train.schedule import ema_decay, learning_rate

TOWER = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
CONFIG = CLIPConfig(
    text_config={**TOWER, "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 6},
    vision_config={**TOWER, "num_hidden_layers": 3, "image_size": 8, "patch_size": 4},
    projection_dim=4,
)

# The golden list: what weight decay acts on in a text tower of one layer and the rest of the model.
LAYER = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]
DECAYED = {
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
    *(f"text_model.encoder.layers.0.{part}.weight" for part in LAYER),
    "text_projection.weight",
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight",
    *(f"vision_model.encoder.layers.{i}.{part}.weight" for i in range(3) for part in LAYER),
    "visual_projection.weight",
}


def rules(**sections):
    return parameter_rules(CONFIG, TrainConfig(**sections))


def test_the_golden_decay_list():
    found = rules()
    assert {name for name, rule in found.items() if rule.decay} == DECAYED
    left_alone = set(found) - DECAYED
    assert {"logit_scale", "vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight"} <= left_alone
    assert all(name.endswith((".bias", "embedding", "logit_scale")) or "norm" in name for name in left_alone)
    assert all(rule.trainable and rule.lr_scale == 1 for rule in found.values())


def test_patterns_take_more_out():
    found = rules(optimizer=OptimizerSection(no_decay=[r"position_embedding", r"^text_projection\."]))
    out = DECAYED - {name for name, rule in found.items() if rule.decay}
    assert out == {name for name in DECAYED if "position_embedding" in name} | {"text_projection.weight"}


def test_extra_parameters():
    found = rules(
        loss=LossSection(kind="sigmoid", anchors=AnchorSection()), optimizer=OptimizerSection(layer_decay=0.5)
    )
    for name in ("logit_bias", "anchors"):
        assert found[name].trainable and not found[name].decay and found[name].lr_scale == 1
    assert "logit_bias" not in rules() and "anchors" not in rules()


def test_layer_decay_is_beits():
    found = rules(optimizer=OptimizerSection(layer_decay=0.5))
    scale = {name: rule.lr_scale for name, rule in found.items()}
    for i, expected in enumerate((0.125, 0.25, 0.5)):
        assert scale[f"vision_model.encoder.layers.{i}.mlp.fc1.weight"] == expected
        assert scale[f"vision_model.encoder.layers.{i}.layer_norm1.bias"] == expected
    for name in ("embeddings.class_embedding", "embeddings.patch_embedding.weight", "pre_layrnorm.weight"):
        assert scale[f"vision_model.{name}"] == 0.5**4
    assert scale["text_model.encoder.layers.0.self_attn.q_proj.weight"] == 0.5
    assert scale["text_model.embeddings.token_embedding.weight"] == 0.25
    for name in ("vision_model.post_layernorm.weight", "text_model.final_layer_norm.bias", "visual_projection.weight",
                 "text_projection.weight", "logit_scale"):  # fmt: skip
        assert scale[name] == 1


SIDES = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}


@pytest.mark.parametrize("lock", [["vision"], ["text"], ["vision", "text"]])
def test_locked_towers_with_their_projections(lock):
    found = rules(model=ModelSection(lock=lock))
    for name, rule in found.items():
        assert rule.trainable != name.startswith(sum((SIDES[tower] for tower in lock), ())), name
    assert found["logit_scale"].trainable


def test_part_of_a_tower_by_open_clips_groups():
    """Groups of open_clip 3.3's `VisionTransformer.lock`, from the top, of a tower of three layers."""
    groups = [
        ("visual_projection.",),
        ("vision_model.encoder.layers.2.", "vision_model.post_layernorm."),
        ("vision_model.encoder.layers.1.",),
        ("vision_model.encoder.layers.0.",),
        ("vision_model.embeddings.", "vision_model.pre_layrnorm."),
    ]
    for count in range(7):
        found = rules(model=ModelSection(lock={"vision": LockSection(count)}))
        free = sum(groups[:count], ())
        for name, rule in found.items():
            assert rule.trainable == (name.startswith(free) or not name.startswith(SIDES["vision"])), (count, name)
    found = rules(model=ModelSection(lock={"text": LockSection(2), "vision": LockSection()}))
    upper = {name for name, rule in found.items() if rule.trainable}
    layer = {
        name for name in found if name.startswith(("text_model.encoder.layers.0.", "text_model.final_layer_norm."))
    }
    assert upper == layer | {"text_projection.weight", "logit_scale"}


def rates(steps, **values):
    section = OptimizerSection(lr=1.0, **values)
    return [learning_rate(section, steps, step) for step in range(steps)]


def test_golden_schedules():
    cosine = rates(20, warmup=4, min_lr=0.1)
    # optax 0.2.8: warmup_cosine_decay_schedule(0, 1, 4, 20, 0.1)
    assert cosine[:8] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.9913534, 0.9657458, 0.9241613], abs=1e-6)
    assert cosine[12] == pytest.approx(0.55) and cosine[-1] == pytest.approx(0.1086466, abs=1e-6)
    assert rates(6, warmup=2, schedule="constant") == [0, 0.5, 1, 1, 1, 1]
    assert rates(10, warmup=2, schedule="wsd", decay_fraction=0.4) == pytest.approx(
        [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    )
    assert rates(4, schedule="wsd", decay_fraction=0.5, min_lr=0.5) == [1, 1, 1, 0.75]
    assert rates(3) == pytest.approx([1, 0.75, 0.25])
    assert rates(2, warmup=2) == [0, 0.5]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
def test_schedules_stay_in_their_bounds_beyond_the_end(schedule):
    section = OptimizerSection(lr=1.0, warmup=3, schedule=schedule, min_lr=0.2)
    values = [learning_rate(section, 12, step) for step in range(3, 20)]
    assert all(0.2 <= value <= 1 and math.isfinite(value) for value in values)
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    if schedule != "constant":
        assert values[-1] == values[12 - 3] == 0.2


def test_golden_average():
    found = [ema_decay(0.9, step) for step in (0, 1, 9, 79, 80, 81, 1000)]
    assert found == pytest.approx([0.1, 2 / 11, 10 / 19, 80 / 89, 0.9, 0.9, 0.9])
    assert ema_decay(0.0, 5) == 0
