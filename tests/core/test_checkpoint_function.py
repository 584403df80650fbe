"""A conversion keeps the model's function: defaults missing in a config, rules of pooling, orders of positions.

Chains of many random models are in test_chains.py; here each rule is tested separately.
"""

import json
import shutil

import numpy as np
import pytest

from clip_core import CLIPConfig
from clip_core.checkpoint import (
    CheckpointError,
    Tensor,
    convert,
    h5_file,
    inspect,
    load,
    positions,
    safetensors_file,
    save,
    torch_writer,
)
from clip_core.checkpoint.dialects import OPENAI, translate
from clip_core.weights import weight_table
from conformance.chains import reference

TEXT = {"hidden_size": 256, "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 6}
TEXT |= {"vocab_size": 60}
VISION = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 70, "patch_size": 32}


def written(folder, text=TEXT, vision=VISION, **top):
    """A folder as transformers writes it, defaults left out."""
    content = {"model_type": "clip", "text_config": text, "vision_config": vision, "projection_dim": 4, **top}
    made = CLIPConfig.from_dict(content)
    numbers = np.random.default_rng(0)
    table = weight_table(made)
    tensors = {n: Tensor.from_numpy(numbers.normal(0, 0.3, w.shape).astype("f4")) for n, w in table.items()}
    save(folder, tensors, content)
    return made, tensors


def outputs(config, tensors, ids):
    rng = np.random.default_rng(1)
    size = config.vision_config.image_size
    inputs = {"ids": np.array(ids), "pixels": rng.normal(size=(1, 3, size, size)).astype("f4")}
    return reference.outputs(config, {n: t.numpy() for n, t in tensors.items()}, inputs)


IDS = [[5, 59, 3, 7, 2, 1], [4, 4, 9, 2, 59, 3]]


@pytest.mark.parametrize("to", ["hf", "hf-bin", "tf", "flax", "openai", "open_clip"])
@pytest.mark.parametrize("end", [None, 59, 7, 2])
def test_what_a_config_leaves_out_has_the_default(end, to, tmp_path):
    made, tensors = written(tmp_path / "a", {**TEXT, **({} if end is None else {"eos_token_id": end})})
    saved = convert(tmp_path / "a", tmp_path / "b", to=to)
    read = load(tmp_path / "b")
    again = CLIPConfig.from_dict(read.config)
    assert again.text_config.num_attention_heads == 8 and again.vision_config.num_attention_heads == 12
    assert again.text_config.eos_token_id == (49407 if end is None else end)
    assert (again.vision_config.image_size, again.vision_config.patch_size) == (70, 32)
    for name, value in outputs(again, read.tensors, IDS).items():
        np.testing.assert_array_equal(value, outputs(made, tensors, IDS)[name])
    assert any("beyond the vocabulary" in note for note in saved.notes) == (end is None)


def test_a_given_config_has_the_defaults_too(tmp_path):
    written(tmp_path / "a")
    (tmp_path / "c.json").write_text((tmp_path / "a" / "config.json").read_text())
    convert(tmp_path / "a", tmp_path / "b.pt", to="openai")
    tensors, _ = safetensors_file.read(tmp_path / "a" / "model.safetensors")
    safetensors_file.write(tmp_path / "bare.safetensors", translate(tensors, OPENAI))
    convert(tmp_path / "bare.safetensors", tmp_path / "c", config=tmp_path / "c.json")
    text = load(tmp_path / "c").config["text_config"]
    assert (text["eos_token_id"], text["num_attention_heads"]) == (49407, 8)


def test_layers_that_the_config_denies_are_not_taken_silently(tmp_path):
    written(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    content = json.loads(path.read_text())
    content["text_config"]["num_hidden_layers"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="text: the config says num_hidden_layers 2, the weights have 1"):
        convert(tmp_path / "a", tmp_path / "b")


def test_the_overrides_of_old_files_count(tmp_path):
    written(tmp_path / "a", {"hidden_act": "gelu"} | TEXT, text_config_dict={**TEXT, "layer_norm_eps": 1e-3})
    convert(tmp_path / "a", tmp_path / "b", to="flax")
    text = load(tmp_path / "b").config["text_config"]
    assert (text["hidden_act"], text["layer_norm_eps"]) == ("quick_gelu", 1e-3)


def test_a_tower_s_config_does_not_fit_a_whole_model(tmp_path):
    written(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text(json.dumps({**TEXT, "model_type": "clip_text_model"}))
    with pytest.raises(CheckpointError, match="the config is of one tower.*component="):
        convert(tmp_path / "a", tmp_path / "b")
    convert(tmp_path / "a", tmp_path / "b", component="text")
    assert load(tmp_path / "b").config["num_attention_heads"] == 8


# --- open_clip -------------------------------------------------------------------------------------------------------


def as_open_clip(folder, **text):
    written(folder / "a", {**TEXT, "eos_token_id": 59, "hidden_act": "gelu"}, {**VISION, "hidden_act": "gelu"})
    convert(folder / "a", folder / "b", to="open_clip")
    (folder / "b" / "config.json").unlink()
    path = folder / "b" / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= text
    path.write_text(json.dumps(content))
    return folder / "b"


def test_open_clip_s_rule_of_pooling_is_kept(tmp_path):
    config = load(as_open_clip(tmp_path, pool_type="eos", eos_id=7)).config
    assert config["text_config"]["eos_token_id"] == 7
    assert config["vision_config"]["image_size"] == 70
    convert(tmp_path / "b", tmp_path / "c", to="open_clip")
    made = json.loads((tmp_path / "c" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert (made["pool_type"], made["eos_id"]) == ("eos", 7)


def test_open_clip_s_tanh_is_named_as_all_frameworks_know_it(tmp_path):
    config = load(as_open_clip(tmp_path, act_kwargs={"approximate": "tanh"})).config
    assert (config["text_config"]["hidden_act"], config["vision_config"]["hidden_act"]) == ("gelu_new", "gelu")


def test_open_clip_s_models_without_layers_go_round(tmp_path):
    written(tmp_path / "a", {**TEXT, "num_hidden_layers": 0, "eos_token_id": 59}, {**VISION, "num_hidden_layers": 0})
    convert(tmp_path / "a", tmp_path / "b", to="open_clip")
    (tmp_path / "b" / "config.json").unlink()
    convert(tmp_path / "b", tmp_path / "c", to="open_clip")
    assert load(tmp_path / "c").config["text_config"]["num_hidden_layers"] == 0


def test_open_clip_s_largest_id(tmp_path):
    assert load(as_open_clip(tmp_path)).config["text_config"]["eos_token_id"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"pool_type": "eos", "eos_id": 2}, "pool_type 'eos' with eos_id 2: CLIPTextConfig has no such rule"),
        ({"pool_type": "eos"}, "pool_type 'eos' with eos_id 2"),
        ({"pool_type": "last"}, "text_cfg.pool_type 'last'"),
        ({"hf_tokenizer_name": "facebook/xlm-v-base"}, "tokenized by 'facebook/xlm-v-base'.*no CLIP tokenizer"),
        ({"ls_init_value": 1e-4}, "text_cfg.ls_init_value"),
        ({"qk_norm": True}, "text_cfg.qk_norm True"),
        ({"proj_type": "none"}, "text_cfg.proj_type 'none'"),
        ({"act_kwargs": {"beta": 1}}, "text_cfg.act_kwargs"),
        ({"norm_kwargs": {"bias": False}}, "text_cfg.norm_kwargs"),
    ],
)
def test_open_clip_models_of_another_kind(text, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load(as_open_clip(tmp_path, **text))


# --- KerasHub --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 0, 0, 0, 0], [4, 1, 0, 2, 2], [0, 1, 2, 3, 4]])
def test_position_ids_that_are_weights_are_looked_up(order, tmp_path):
    written(tmp_path / "a", {**TEXT, "eos_token_id": 59})
    convert(tmp_path / "a", tmp_path / "b", to="kerashub")
    path = tmp_path / "b" / "model.weights.h5"
    tensors, _ = h5_file.read(path)
    table = tensors[positions.TABLE].numpy()
    assert tensors[positions.IDS].numpy().tolist() == [[0, 1, 2, 3, 4]]
    tensors[positions.IDS] = Tensor.from_numpy(np.array([order], np.int64))
    tensors = {name: Tensor.from_numpy(t.numpy(), t.dtype) for name, t in tensors.items()}
    h5_file.write_plain(path, tensors)
    read = load(tmp_path / "b")
    got = read.tensors["vision_model.embeddings.position_embedding.weight"].numpy()
    np.testing.assert_array_equal(got, table[order])
    assert any("position ids" in note for note in read.notes) == (order != [0, 1, 2, 3, 4])
    convert(tmp_path / "b", tmp_path / "c", to="kerashub")
    again, _ = h5_file.read(tmp_path / "c" / "model.weights.h5")
    assert again[positions.IDS].numpy().tolist() == [[0, 1, 2, 3, 4]]
    np.testing.assert_array_equal(again[positions.TABLE].numpy(), table[order])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 5], [-1, 0, 0, 0, 0], [0, 1]])
def test_position_ids_that_point_nowhere(order, tmp_path):
    tensors = {positions.TABLE: Tensor.from_numpy(np.zeros((5, 2), "f4"))}
    tensors[positions.IDS] = Tensor.from_numpy(np.array([order]))
    with pytest.raises(CheckpointError, match="x.h5.*wanted 5 position ids from 0 to 4"):
        positions.kerashub_positions(tensors, "x.h5", [])


def test_kerashub_says_what_it_can_t_hold(tmp_path):
    for number, (text, message) in enumerate(
        (
            ({"eos_token_id": 7}, "pooled at the largest id, this model's at eos_token_id 7"),
            ({"eos_token_id": 59, "layer_norm_eps": 1e-3}, "layer_norm_eps"),
            ({"eos_token_id": 59, "hidden_act": "gelu_new"}, "no activation"),
        )
    ):
        written(tmp_path / str(number), {**TEXT, **text})
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / str(number), tmp_path / "y", to="kerashub")


# --- guesses ---------------------------------------------------------------------------------------------------------


def bare(folder, name, dialect=None, text=TEXT, vision=VISION):
    """A weight file by itself."""
    _, tensors = written(folder / "source", text, vision)
    path = folder / name
    safetensors_file.write(path, translate(tensors, dialect) if dialect else tensors, {"format": "pt"})
    shutil.rmtree(folder / "source")
    return path


@pytest.mark.parametrize(
    ("name", "dialect", "text", "open_"),
    [
        ("x.safetensors", None, {}, ["hidden_act", "num_attention_heads", "eos_token_id"]),
        ("laion.safetensors", None, {"hidden_size": 512}, ["eos_token_id"]),
        ("x.safetensors", OPENAI, {"hidden_size": 512}, ["hidden_act"]),
        ("laion.safetensors", OPENAI, {"hidden_size": 100}, ["num_attention_heads"]),
    ],
)
def test_more_than_one_reading_is_refused_with_what_to_give(name, dialect, text, open_, tmp_path):
    path = bare(tmp_path, name, dialect, {**TEXT, "num_attention_heads": 4, **text}, {**VISION, "hidden_size": 768})
    with pytest.raises(CheckpointError, match="Give config= .*--config") as caught:
        load(path)
    for key in ("hidden_act", "num_attention_heads", "eos_token_id"):
        assert (key in str(caught.value).partition("Give config=")[0]) == (key in open_), str(caught.value)


@pytest.mark.parametrize(
    ("name", "width", "heads", "act"),
    [
        ("clip_g.safetensors", 1280, 20, "gelu"),
        ("clip_l.safetensors", 768, 12, "quick_gelu"),
        ("text_encoder.safetensors", 1024, 16, "gelu"),
        ("anything.safetensors", 1280, 20, "gelu"),
    ],
)
def test_the_text_encoders_of_diffusion_models(name, width, heads, act, tmp_path):
    path = bare(tmp_path, name, text={**TEXT, "hidden_size": width, "vocab_size": 49408})
    tensors, _ = safetensors_file.read(path)
    text = {n: Tensor.from_numpy(t.numpy()) for n, t in tensors.items() if n.startswith("text_")}
    safetensors_file.write(path, text)
    config = load(path).config
    assert (config["hidden_act"], config["num_attention_heads"], config["eos_token_id"]) == (act, heads, 49407)


def test_a_file_that_states_too_little_is_inspected_all_the_same(tmp_path):
    facts = inspect(bare(tmp_path, "x.safetensors"))
    assert facts["config"] is None and facts["dialect"] == "hf" and facts["parameters"]["text"] > 0
    assert any("Give config=" in note for note in facts["notes"])


def test_a_folder_of_weights_without_a_config_is_refused(tmp_path):
    written(tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="weights without a config.json.*docs/clients.md.*config="):
        load(tmp_path / "a")
    content = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 4}
    convert(tmp_path / "a", tmp_path / "b", config=content)
    assert load(tmp_path / "b").config["text_config"]["num_attention_heads"] == 8


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_weights_under_another_model_s_config(kind, tmp_path):
    written(tmp_path / "a")
    (tmp_path / "c.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError, match=f"c.json: wanted a CLIP, found model_type '{kind}'"):
        convert(tmp_path / "a", tmp_path / "b", config=tmp_path / "c.json")
    shutil.copy(tmp_path / "c.json", tmp_path / "a" / "config.json")
    with pytest.raises(CheckpointError, match=f"config.json: wanted a CLIP, found model_type '{kind}'"):
        load(tmp_path / "a")


# --- Long-CLIP -------------------------------------------------------------------------------------------------------


def long_clip(folder, name="longclip-B.pt", **changes):
    """(config, tensors with the joined table) of a state dict as Long-CLIP saves it."""
    small = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256}
    text = {**TEXT, **small, "max_position_embeddings": 248, "eos_token_id": 2}
    made, tensors = written(folder / "a", text, {**VISION, **small, "image_size": 64})
    numbers = np.random.default_rng(5)
    first, second = (numbers.normal(0, 0.3, (248, 64)).astype("f4") for _ in range(2))
    kept = np.arange(248)[:, None] < 20
    foreign = translate(tensors, OPENAI)
    foreign |= {"positional_embedding": Tensor.from_numpy(first), positions.LONG: Tensor.from_numpy(second)}
    torch_writer.write(folder / name, foreign | {key: Tensor.from_numpy(value) for key, value in changes.items()})
    joined = first * kept + second * ~kept  # as its code computes it
    return made, {**tensors, "text_model.embeddings.position_embedding.weight": Tensor.from_numpy(joined)}


@pytest.mark.parametrize("to", ["hf", "openai"])
def test_long_clip_s_two_position_tables_are_one(to, tmp_path):
    made, tensors = long_clip(tmp_path)
    saved = convert(tmp_path / "longclip-B.pt", tmp_path / "b", to=to)
    assert any("rows 0 to 19 of positional_embedding" in note for note in saved.notes)
    read = load(tmp_path / "b")
    text = read.config["text_config"]
    assert (text["max_position_embeddings"], text["hidden_act"], text["eos_token_id"]) == (248, "quick_gelu", 2)
    ids = [[3] * 100 + [59] + [0] * 147, [4, 9, 59] + [0] * 245]
    for name, value in outputs(made, read.tensors, ids).items():
        np.testing.assert_array_equal(value, outputs(made, tensors, ids)[name])


def test_half_of_long_clip_s_positions_is_refused(tmp_path):
    long_clip(tmp_path, **{positions.LONG: np.zeros((77, 64), "f4")})
    with pytest.raises(CheckpointError, match=r"longclip-B.pt: positional_embedding_res: wanted.*\(248, 64\) beside"):
        convert(tmp_path / "longclip-B.pt", tmp_path / "b")
