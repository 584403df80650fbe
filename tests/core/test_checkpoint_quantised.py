"""8-bit weights with scales: each is the float32 product of its code and its scale; other forms are named."""

import json

import numpy as np
import pytest

from clip_core.checkpoint import CheckpointError, Tensor, containers, convert, load, quantised, safetensors_file
from clip_core.weights import weight_table
from conformance.chains import models

TEXT = {"model_type": "clip_text_model", "hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 1}
TEXT |= {"vocab_size": 60, "max_position_embeddings": 6, "num_attention_heads": 1, "eos_token_id": 59}
CODES = {"float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8, "int8": np.int8}
PREFIX = "text_encoders.clip_l.transformer."


def entries_of(dtype, rows, scale="scale_weight", beside=("scale_input",), marks=True):
    """(the entries of a file, what its linear weights stand for)."""
    rng = np.random.default_rng(0)
    made = models.CLASSES["text"].from_dict(TEXT)
    entries, wanted = {}, {}
    for name, weight in weight_table(made, "text").items():
        if weight.kind != "linear" or weight.leaf != "weight":
            entries[PREFIX + name] = Tensor.from_numpy(rng.normal(size=weight.shape).astype("f2"))
            continue
        bits = rng.integers(0, 120, weight.shape).astype(CODES[dtype])  # no NaN and no infinity among them
        codes = Tensor.from_numpy(bits, dtype)
        scales = rng.uniform(0.001, 0.1, (weight.shape[0], 1) if rows else ()).astype("f4")
        layer = (PREFIX + name).removesuffix(".weight")
        entries |= {f"{layer}.weight": codes, f"{layer}.{scale}": Tensor.from_numpy(scales)}
        entries |= {f"{layer}.{leaf}": Tensor.from_numpy(np.float32(1)) for leaf in beside}
        numbers = bits if dtype == "int8" else codes.astype("float32").numpy()
        wanted[name] = (numbers.astype("f8") * scales).astype("f4")
    if marks:
        entries[PREFIX + "scaled_fp8"] = Tensor.from_numpy(np.zeros(0, np.uint8), "float8_e4m3fn")
    return entries, wanted


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("dtype", list(CODES))
def test_a_weight_is_its_code_times_its_scale(dtype, rows, tmp_path):
    entries, wanted = entries_of(dtype, rows)
    safetensors_file.write(tmp_path / "a.safetensors", entries)
    config = {key: value for key, value in TEXT.items() if key != "model_type"}
    read = load(tmp_path / "a.safetensors", config={"model_type": "clip_text_model", **config})
    assert any(f"{len(wanted)} weights are {dtype} with scales" in note for note in read.notes)
    for name, value in wanted.items():
        np.testing.assert_array_equal(read.tensors[name].numpy(), value)
    assert not [name for name in read.tensors if "scale" in name]
    convert(tmp_path / "a.safetensors", tmp_path / "b", config=read.config, dtype="float16")
    again = load(tmp_path / "b").tensors
    assert {tensor.dtype for tensor in again.values()} == {"float16"}
    for name, value in wanted.items():
        np.testing.assert_array_equal(again[name].numpy(), value.astype("f2"))


@pytest.mark.parametrize("where", ["tensors", "metadata"])
def test_newer_files_say_what_a_layer_is(where, tmp_path):
    entries, wanted = entries_of("int8", True, scale="weight_scale", beside=(), marks=False)
    layers = {name.removesuffix(".weight_scale") for name in entries if name.endswith(".weight_scale")}
    stated, metadata = {"format": "int8_tensorwise", "per_row": True}, {}
    if where == "tensors":
        note = Tensor.from_numpy(np.frombuffer(json.dumps(stated).encode(), np.uint8))
        entries |= {f"{layer}.comfy_quant": note for layer in layers}
    else:
        metadata = {"_quantization_metadata": json.dumps({"layers": dict.fromkeys(layers, stated)})}
    safetensors_file.write(tmp_path / "a.safetensors", entries, metadata)
    read = load(tmp_path / "a.safetensors", config=TEXT)
    for name, value in wanted.items():
        np.testing.assert_array_equal(read.tensors[name].numpy(), value)


# torch.arange(32.0).reshape(2, 16).sin() through comfy-kitchen 0.2.40: TensorWiseINT8Layout.quantize(per_channel=True,
# convrot=True, convrot_groupsize=16), and its dequantize
ROTATED = [
    [11, 13, -16, -50, -50, -39, 46, 127, 119, 25, -12, 41, -41, -7, 2, -23],
    [3, -9, 13, 47, 13, 29, -38, -127, -126, -35, 24, -3, 46, 11, -7, 9],
]
SCALES = [[0.013358709402382374], [0.013828219845890999]]
TURNED = [
    [
        0.006679,
        0.841599,
        0.908392,
        0.140266,
        -0.754767,
        -0.961827,
        -0.280533,
        0.661256,
        0.988545,
        0.407441,
        -0.541028,
        -1.001903,
        -0.534348,
        0.420799,
        0.995224,
        0.654577,
    ],
    [
        -0.290393,
        -0.967975,
        -0.746724,
        0.15211,
        0.919577,
        0.836607,
        -0.006914,
        -0.850435,
        -0.912663,
        -0.138282,
        0.760552,
        0.954147,
        0.26965,
        -0.65684,
        -0.988718,
        -0.407932,
    ],
]


def test_rotated_weights_are_turned_back():
    note = np.frombuffer(b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 16}', np.uint8)
    entries = {"a.weight": np.array(ROTATED, np.int8), "a.weight_scale": np.array(SCALES, "f4"), "a.comfy_quant": note}
    content = containers.Content("safetensors", {n: Tensor.from_numpy(v) for n, v in entries.items()}, {})
    found, _ = quantised.plain(content, "file")
    np.testing.assert_allclose(found.tensors["a.weight"].numpy(), TURNED, atol=1e-6)
    np.testing.assert_allclose(TURNED, np.sin(np.arange(32.0)).reshape(2, 16), atol=0.02)


FC1 = "text_model.encoder.layers.0.mlp.fc1"
OTHERS = {
    "quantised as .*nvfp4": {"comfy_quant": np.frombuffer(b'{"format": "nvfp4"}', np.uint8)},
    "convrot_groupsize: wanted a power of 4 that divides": {
        "comfy_quant": np.frombuffer(b'{"format": "int8_tensorwise", "convrot": true}', np.uint8)
    },
    "what it says of its quantisation can't be read": {"comfy_quant": np.frombuffer(b"{", np.uint8)},
    f"{FC1}.SCB: of an 8-bit weight": {"SCB": np.ones(16, "f4")},
    "wanted 1 or 16 floats, found float32 \\(3,\\)": {"scale_weight": np.ones(3, "f4")},
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_forms_are_named(message, tmp_path):
    entries, _ = entries_of("int8", False)
    beside = {f"{PREFIX}{FC1}.{leaf}": Tensor.from_numpy(value) for leaf, value in OTHERS[message].items()}
    safetensors_file.write(tmp_path / "a.safetensors", entries | beside)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a.safetensors", config=TEXT)


def test_nothing_is_written_into_a_quantised_encoder(tmp_path):
    entries, wanted = entries_of("float8_e4m3fn", False)
    safetensors_file.write(tmp_path / "a.safetensors", entries)
    convert(tmp_path / "a.safetensors", tmp_path / "b", config=TEXT)
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="float8_e4m3fn: into a quantised encoder nothing is written"):
        convert(tmp_path / "b", tmp_path / "a.safetensors", to="sd1")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert set(containers.read(tmp_path / "a.safetensors").tensors) == set(entries) and wanted


@pytest.mark.parametrize("dtype", list(CODES))
def test_a_scale_of_another_name_is_never_passed_over(dtype, tmp_path):
    entries, _ = entries_of(dtype, False, scale="scale", beside=(), marks=False)
    safetensors_file.write(tmp_path / "a.safetensors", entries)
    with pytest.raises(CheckpointError, match=r"\.scale: of an 8-bit weight"):
        load(tmp_path / "a.safetensors", config=TEXT)


def test_what_is_beside_the_encoder_is_not_looked_at(tmp_path):
    """A diffusion model in nvfp4 in the same file says nothing of the text encoder."""
    entries, wanted = entries_of("float8_e4m3fn", False)
    other = {"weight": np.ones((2, 2), np.int8), "SCB": np.ones(2, "f4"), "comfy_quant": np.frombuffer(b"{", np.uint8)}
    entries |= {f"model.diffusion_model.a.{leaf}": Tensor.from_numpy(value) for leaf, value in other.items()}
    safetensors_file.write(tmp_path / "a.safetensors", entries)
    read = load(tmp_path / "a.safetensors", component="clip_l", config=TEXT)
    np.testing.assert_array_equal(read.tensors[f"{FC1}.weight"].numpy(), wanted[f"{FC1}.weight"])


def test_a_scale_without_its_weight_is_named(tmp_path):
    entries, _ = entries_of("float8_e4m3fn", False)
    entries |= {f"{PREFIX}text_projection.scale_weight": Tensor.from_numpy(np.ones((), "f4"))}
    safetensors_file.write(tmp_path / "a.safetensors", entries)
    with pytest.raises(CheckpointError, match="text_projection.scale_weight: of an 8-bit weight"):
        load(tmp_path / "a.safetensors", config=TEXT)


def test_a_class_s_own_scales_are_its_own(tmp_path):
    """Names are no proof of quantisation: the weight is of plain numbers."""
    entries = {
        PREFIX + n: Tensor.from_numpy(np.ones(w.shape, "f4"))
        for n, w in weight_table(models.CLASSES["text"].from_dict(TEXT), "text").items()
    }
    own = {f"{PREFIX}gate.weight": np.ones(3, "f4"), f"{PREFIX}gate.weight_scale": np.ones(3, "f4")}
    safetensors_file.write(tmp_path / "a.safetensors", entries | {n: Tensor.from_numpy(v) for n, v in own.items()})
    assert {"gate.weight", "gate.weight_scale"} <= set(load(tmp_path / "a.safetensors", config=TEXT).tensors)
