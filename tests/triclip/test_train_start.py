"""The start of a run: weights from checkpoints or from the seed, positions for other sizes, processors."""

import json
import shutil

import numpy as np
import pytest

from clip_core import CLIPConfig, CLIPTokenizerFast, ConfigError, checkpoint
from clip_core.checkpoint import safetensors_file
from clip_core.hub import MODELS
from clip_core.init import initial_values
from clip_core.weights import weight_table
from triclip.train import TrainConfig
from triclip.train.config import AnchorSection, LossSection, ModelSection
from triclip.train.start import extra_parameters, fingerprint, load_processor, prepare, resample_positions

EMOJI = MODELS / "emoji"
POSITIONS = "vision_model.embeddings.position_embedding.weight"
TOWER = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
MODEL = {
    "projection_dim": 8,
    "text_config": {**TOWER, "vocab_size": 2048, "eos_token_id": 2047, "max_position_embeddings": 12},
    "vision_config": {**TOWER, "image_size": 16, "patch_size": 4},
}


def config(seed=0, loss=None, **model):
    return TrainConfig(seed=seed, model=ModelSection(**model), loss=loss or LossSection())


def test_fresh_weights_follow_the_documented_rule():
    job = prepare(config(config=MODEL))
    values = initial_values(job.model_config)
    assert list(job.weights) == list(weight_table(job.model_config)) and len(job.weights) == len(job.rules)
    for name, row in weight_table(job.model_config).items():
        drawn = job.weights[name]
        assert drawn.dtype == np.float32 and drawn.shape == row.shape
        kind, value = values[name]
        if kind == "constant":
            assert (drawn == np.float32(value)).all()
        elif drawn.size > 200:
            assert drawn.std() == pytest.approx(value, rel=0.2) and abs(drawn.mean()) < 0.2 * value


def test_fresh_weights_depend_on_seed_and_name_alone():
    first, second = prepare(config(config=MODEL)).weights, prepare(config(config=MODEL)).weights
    names = list(first)
    late = {name: second[name] for name in reversed(names)}
    assert all(first[name].tobytes() == late[name].tobytes() for name in names)
    other = prepare(config(seed=1, config=MODEL)).weights
    name = "text_projection.weight"
    assert not np.allclose(first[name], other[name])
    assert not np.allclose(first[name], first["visual_projection.weight"])
    golden = [-0.0991263, -0.33983067, -0.3211936]  # Philox of (seed, SHA-256 of the name): the same on every machine
    np.testing.assert_allclose(first[name].ravel()[:3], golden, atol=1e-7)


def test_a_config_may_be_a_file_or_an_object(tmp_path):
    (tmp_path / "clip.json").write_text(json.dumps(MODEL))
    for given in (str(tmp_path / "clip.json"), CLIPConfig(**MODEL)):
        job = prepare(config(config=given))
        assert job.model_config.text_config.hidden_size == 16 and job.model_config.projection_dim == 8


def test_what_is_no_number_of_a_config_stays_too():
    given = {**MODEL, "vision_config": {**MODEL["vision_config"], "attn_implementation": "eager"}}
    before = CLIPConfig(**given)
    for source in (given, before):
        loss = LossSection(kind="sigmoid")
        found = prepare(config(config=source, image_size=24, loss=loss)).model_config
        assert found.vision_config._attn_implementation == "eager" and found.vision_config.image_size == 24
        assert found.logit_scale_init_value == pytest.approx(np.log(10))
    assert before.vision_config.image_size == 16 and before.logit_scale_init_value == 2.6592  # not what was given


def test_a_checkpoint_s_weights_arrive_as_they_are():
    job = prepare(config(init="emoji"))
    read = checkpoint.load(EMOJI).tensors
    for name in ("logit_scale", POSITIONS, "text_model.final_layer_norm.bias"):
        assert job.weights[name].dtype == np.float32
        np.testing.assert_array_equal(job.weights[name], read[name].numpy().astype(np.float32))


def test_another_picture_size_resamples_positions():
    before, after = prepare(config(init="emoji")), prepare(config(init="emoji", image_size=64))
    assert before.model_config.vision_config.image_size == 48 and after.model_config.vision_config.image_size == 64
    old, new = before.weights[POSITIONS], after.weights[POSITIONS]
    assert new.shape == (65, old.shape[1]) and after.weights["logit_scale"] == before.weights["logit_scale"]
    np.testing.assert_array_equal(new[0], old[0])
    np.testing.assert_array_equal(new, resample_positions(old, 6, 8))
    same = prepare(config(init="emoji", image_size=50))  # as many patches
    np.testing.assert_array_equal(same.weights[POSITIONS], old)
    processor = load_processor(config(init="emoji", image_size=64), after.model_config)
    assert processor.image_processor.crop_size == {"height": 64, "width": 64}
    assert processor.image_processor.size == {"shortest_edge": 64}


def test_resampling_keeps_what_is_even_and_the_rows_order():
    even = np.ones((1 + 9, 4), np.float32)
    np.testing.assert_allclose(resample_positions(even, 3, 5), np.ones((26, 4)), atol=1e-6)
    rising = np.concatenate([[0], np.repeat(np.arange(4), 4)])[:, None].astype(np.float32)  # by row of the grid
    found = resample_positions(rising, 4, 8)[1:, 0].reshape(8, 8)
    assert np.ptp(found, axis=1).max() < 1e-6 and (np.diff(found[:, 0]) > 0).all()


def test_sigmoid_and_anchors_begin_with():
    loss = LossSection(kind="sigmoid", anchors=AnchorSection())
    job = prepare(config(config=MODEL, loss=loss), samples=30)
    extra = extra_parameters(job)
    assert extra["logit_bias"] == -10 and extra["anchors"].shape == (30, 8) and extra["anchors"].dtype == np.float32
    assert job.weights["logit_scale"] == np.float32(np.log(10))
    tuned = prepare(config(init="emoji", loss=loss))
    assert tuned.weights["logit_scale"] == prepare(config(init="emoji")).weights["logit_scale"]
    assert extra_parameters(prepare(config(config=MODEL))) == {}


def test_the_scale_and_the_bias_can_be_set():
    loss = LossSection(kind="sigmoid", logit_scale=2.0, logit_bias=-3.0)
    for model in ({"config": MODEL}, {"init": "emoji"}):
        job = prepare(config(**model, loss=loss))
        assert job.weights["logit_scale"] == 2 and extra_parameters(job)["logit_bias"] == -3


@pytest.mark.parametrize("named", ["model", "model/model.safetensors"])
def test_the_learnt_bias_is_kept_when_a_run_goes_on_from_an_exported_model(tmp_path, named):
    shutil.copytree(EMOJI, tmp_path / "model")
    (tmp_path / "model" / "training.json").write_text('{"loss_kind": "sigmoid", "logit_bias": -7.5}')
    init = str(tmp_path / named)
    assert extra_parameters(prepare(config(init=init, loss=LossSection(kind="sigmoid"))))["logit_bias"] == -7.5
    assert (
        extra_parameters(prepare(config(init=init, loss=LossSection(kind="sigmoid", logit_bias=1.0))))["logit_bias"]
        == 1
    )
    assert extra_parameters(prepare(config(init=init))) == {}
    (tmp_path / "model" / "training.json").write_text('{"logit_bias": "x"}')
    with pytest.raises(ValueError, match="training.json: wanted a number logit_bias"):
        prepare(config(init=init, loss=LossSection(kind="sigmoid")))


def test_a_bias_among_the_weights_is_taken_up(tmp_path):
    """As open_clip saves a model that was trained with the sigmoid."""
    job = prepare(config(config=MODEL))
    weights = {**job.weights, "logit_bias": np.array(-5.0, np.float32)}
    checkpoint.save(tmp_path / "plain", dict(job.weights), job.model_config.to_dict())
    tensors = {name: checkpoint.Tensor.from_numpy(value) for name, value in weights.items()}
    safetensors_file.write(tmp_path / "plain" / "model.safetensors", tensors)
    found = prepare(config(init=str(tmp_path / "plain"), loss=LossSection(kind="sigmoid")))
    assert extra_parameters(found)["logit_bias"] == -5 and "logit_bias" not in found.weights
    assert extra_parameters(prepare(config(init=str(tmp_path / "plain")))) == {}


def test_a_fingerprint_knows_the_weights():
    emoji, fresh = prepare(config(init="emoji")), prepare(config(config=MODEL))
    assert fingerprint(emoji) == fingerprint(prepare(config(init=str(EMOJI)))) != fingerprint(fresh)
    others = [config(config=MODEL, seed=1), config(config={**MODEL, "logit_scale_init_value": 1.0})]
    assert len({fingerprint(job) for job in (fresh, *map(prepare, others))}) == 3
    changed = prepare(config(init="emoji", loss=LossSection(logit_scale=1.0)))
    assert fingerprint(changed) != fingerprint(emoji)


def test_processors(tmp_path):
    job = prepare(config(init="emoji"))
    assert len(load_processor(config(init="emoji"), job.model_config).tokenizer) == 2048
    own = CLIPTokenizerFast.from_pretrained(EMOJI)
    own.save_pretrained(tmp_path)
    found = config(config=MODEL, tokenizer=str(tmp_path))
    processor = load_processor(found, prepare(found).model_config)
    assert len(processor.tokenizer) == 2048 and processor.image_processor.crop_size["width"] == 16
    with pytest.raises(ConfigError, match="model.tokenizer: wanted ids below the model's vocab_size 2048, found 49407"):
        load_processor(config(config=MODEL), prepare(config(config=MODEL)).model_config)
    wrong = {**MODEL, "text_config": {**MODEL["text_config"], "eos_token_id": 7}}
    found = config(config=wrong, tokenizer=str(tmp_path))
    with pytest.raises(ConfigError, match="model.tokenizer: wanted the end token to have id 7"):
        load_processor(found, prepare(found).model_config)


@pytest.mark.parametrize(
    "model, error, message",
    [
        ({"init": "/no/such/folder"}, FileNotFoundError, "/no/such/folder"),
        ({"config": {"projection_dim": 0}}, ConfigError, "model.config: .*projection_dim"),
        ({"config": {"text_config": 3}}, ConfigError, "model.config: .*text_config"),
        ({"config": "/no/such.json"}, FileNotFoundError, "no/such.json"),
        ({"init": "emoji", "image_size": 3}, ConfigError, "model.image_size: .*patch_size"),
    ],
)
def test_what_cannot_be_begun_with(model, error, message):
    with pytest.raises(error, match=message):
        prepare(config(**model))


def test_a_tower_alone_is_no_model_to_train(tmp_path):
    from clip_core.checkpoint import Tensor

    job = prepare(config(config=MODEL))
    tensors = {n: Tensor.from_numpy(w) for n, w in job.weights.items() if n.startswith("text_model.")}
    checkpoint.save(tmp_path / "text", tensors, {**job.model_config.text_config.to_dict()})
    with pytest.raises(ValueError, match="wanted a full CLIP model"):
        prepare(config(init=str(tmp_path / "text")))
