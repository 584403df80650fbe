"""Tensors, containers, loading options, config inference: everything outside the matrix of conversions."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import (
    CheckpointError,
    Tensor,
    convert,
    inspect,
    load,
    msgpack_file,
    safetensors_file,
    save,
    source,
    torch_file,
    torch_writer,
)
from clip_core.checkpoint.shards import shard_bytes
from clip_core.checkpoint.tensor import cast, concat, dtype_name

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CONFIG = json.loads((GOLDEN / "hf" / "config.json").read_text())
ml_dtypes = pytest.importorskip("ml_dtypes", reason="the reference for bfloat16 and float8 rounding")


@pytest.fixture
def counted(monkeypatch):
    """Bytes read from files, by file name."""
    counts: dict[str, int] = {}
    read = source.FileSource.read

    def counting(self, offset, count):
        counts[self.path.name] = counts.get(self.path.name, 0) + count
        return read(self, offset, count)

    monkeypatch.setattr(source.FileSource, "read", counting)
    return counts


# --- numbers --------------------------------------------------------------------------------------------------------


def every_float32_pattern():
    """Random bits, and every boundary between two bfloat16 numbers from both sides."""
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    return np.concatenate([bits, ties, ties + 1, ties - 1, np.arange(2**16, dtype=np.uint32) << 16]).view(np.float32)


def test_float32_to_bfloat16_rounds_as_ml_dtypes():
    values = every_float32_pattern()
    ours = cast(values, "float32", "bfloat16")
    with np.errstate(all="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    assert np.array_equal(ours[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(ours[nan].view(ml_dtypes.bfloat16).astype("f4")).all()


def test_float64_to_bfloat16_rounds_once():
    exact = np.array([1 + 2**-8, 1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40, 1 + 3 * 2**-8 - 2**-50, -(1 + 2**-8 + 2**-45)])
    got = cast(exact, "float64", "bfloat16").view(ml_dtypes.bfloat16).astype("f8")
    # by way of float32 the second would become 1, and the fourth 1 + 2**-6
    assert got.tolist() == [1, 1 + 2**-7, 1, 1 + 2**-7, -(1 + 2**-7)]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_read(name):
    codes = np.arange(256, dtype=np.uint8)
    wanted = codes.view(getattr(ml_dtypes, name)).astype("f4")
    np.testing.assert_array_equal(cast(codes, name, "float32"), wanted)


@pytest.mark.parametrize("target", ["float16", "float32", "bfloat16", "float64"])
@pytest.mark.parametrize("origin", ["float16", "bfloat16", "float32", "float64"])
def test_casts_agree_with_numpy_and_ml_dtypes(origin, target):
    def kind(name):
        return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)

    values = np.random.default_rng(1).normal(size=5000).astype(kind(origin))
    tensor = Tensor.from_numpy(values).astype(target)
    if (origin, target) == ("float64", "bfloat16"):
        return  # ml_dtypes rounds twice here; see above
    assert tensor.numpy().tobytes() == values.astype(kind(target)).tobytes()


@pytest.mark.parametrize("origin", ["float16", "bfloat16", "float32", "float64"])
def test_a_single_number_stays_an_array(origin):
    tensor = Tensor.from_numpy(np.float32(1.5)).astype(origin)
    for target in ("float16", "bfloat16", "float32"):
        got = tensor.astype(target).numpy()
        assert type(got) is np.ndarray and got.shape == ()
        assert cast(got, target, "float32") == 1.5


def test_from_numpy_knows_ml_dtypes():
    tensor = Tensor.from_numpy(np.ones(3, ml_dtypes.bfloat16))
    assert (tensor.dtype, tensor.numpy().dtype) == ("bfloat16", np.uint16)


@pytest.mark.parametrize("given", ["fp16", "half", "torch.float16", np.float16, np.dtype("float16"), "FLOAT16"])
def test_dtype_names(given):
    assert dtype_name(given) == "float16"


def test_unknown_dtype_name():
    with pytest.raises(ValueError, match="unknown name 'float17'.*bfloat16"):
        dtype_name("float17")


@pytest.mark.parametrize("shape", [(3, 5), (40, 33), (16, 16), (1, 7), (0, 4)])
def test_transposing(shape):
    array = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    got = Tensor.from_numpy(array).permute(1, 0).numpy()
    assert got.flags.c_contiguous and np.array_equal(got, array.T)


def test_bad_operations():
    tensor = Tensor.from_numpy(np.zeros((2, 3), "f4"))
    for act in (lambda: tensor.permute(0, 2), lambda: tensor.reshape(4), lambda: tensor.rows(1, 3)):
        with pytest.raises(CheckpointError, match=r"\(2, 3\)"):
            act()
    with pytest.raises(CheckpointError, match="float32 and float16"):
        concat([tensor, tensor.astype("float16")])


# --- lazy reads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hf", "hf-bin", "flax"])
def test_a_tower_reads_only_its_bytes(kind, counted):
    read = load(GOLDEN / kind, scope="text_projection")
    name = read.files[0].name
    headers = counted[name]
    wanted = sum(t.nbytes for t in read.tensors.values())
    for tensor in read.tensors.values():
        tensor.numpy()
    assert counted[name] - headers == wanted < read.files[0].stat().st_size / 2


def test_a_fused_projection_is_read_once_in_thirds(counted):
    read = load(GOLDEN / "open_clip")
    before = counted["open_clip_model.safetensors"]
    query = read.tensors["text_model.encoder.layers.0.self_attn.q_proj.weight"]
    query.numpy()
    assert counted["open_clip_model.safetensors"] - before == query.nbytes == 16 * 16 * 4


def test_hdf5_numbers_are_read_when_used(counted):
    read = load(GOLDEN / "kerashub")
    before = counted["model.weights.h5"]
    tensor = read.tensors["text_projection.weight"]
    tensor.numpy()
    assert counted["model.weights.h5"] - before == tensor.nbytes


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from clip_core.checkpoint import load, convert; "
        f"load({str(GOLDEN / 'hf-bin')!r}); load({str(GOLDEN / 'flax')!r}); "
        "print([m for m in ('torch', 'tensorflow', 'jax', 'keras', 'flax', 'h5py', 'msgpack', 'orbax', 'tensorstore',"
        " 'transformers') if m in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


# --- files ----------------------------------------------------------------------------------------------------------


def mixed():
    rng = np.random.default_rng(3)
    return {
        "a": Tensor.from_numpy(rng.normal(size=(3, 4)).astype("f4")),
        "half": Tensor.from_numpy(rng.normal(size=7).astype("f2")),
        "brain": Tensor.from_numpy(rng.integers(0, 2**16, 5).astype("u2"), "bfloat16"),
        "scalar": Tensor.from_numpy(np.float32(2.5)),
        "none": Tensor.from_numpy(np.zeros((0, 3), "f4")),
        "ids": Tensor.from_numpy(np.arange(4)),
        "mask": Tensor.from_numpy(np.array([True, False])),
    }


def test_safetensors_bytes_are_those_of_the_reference_package(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy", reason="the reference writer").save_file
    tensors = {n: t for n, t in mixed().items() if n != "brain"}
    save_file({n: t.numpy() for n, t in tensors.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    safetensors_file.write(tmp_path / "ours", tensors, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("large", [False, True])
def test_torch_reads_what_we_write(large, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="the reference reader")
    if large:  # the layout of files of more than 2 GiB
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    torch_writer.write(tmp_path / "x.pt", mixed())
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(state) == list(mixed())
    for name, tensor in mixed().items():
        got = state[name].view(torch.int16) if name == "brain" else state[name]
        assert got.numpy().tobytes() == tensor.numpy().tobytes() and tuple(got.shape) == tensor.shape
    ours, _ = torch_file.read(tmp_path / "x.pt")
    assert {n: t.numpy().tobytes() for n, t in ours.items()} == {n: t.numpy().tobytes() for n, t in mixed().items()}


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_we_read_what_torch_writes(new, protocol, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference writer")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "expanded": base[None].expand(1, 4, 6),
        "half": base.half(),
    }
    tensors |= {"parameter": torch.nn.Parameter(base), "brain": base.bfloat16(), "scalar": torch.tensor(3)}
    saved = {"state_dict": tensors, "epoch": 3, "lr": np.float64(0.1), "device": torch.device("cpu")}
    path = tmp_path / "x.pt"
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    read, _ = torch_file.read(path)
    assert set(read) == {f"state_dict.{n}" for n in tensors}
    for name, tensor in tensors.items():
        wanted = tensor.detach().contiguous()
        wanted = wanted.view(torch.int16) if name == "brain" else wanted
        assert read[f"state_dict.{name}"].numpy().tobytes() == wanted.numpy().tobytes(), name


def test_flax_reads_what_we_write_and_the_bytes_are_its_own(tmp_path, monkeypatch):
    serialization = pytest.importorskip("flax.serialization", reason="the reference reader")
    tensors = {f"a.b.{n}": t for n, t in sorted(mixed().items())}  # flax sorts the names
    msgpack_file.write(tmp_path / "x", tensors)
    tree = serialization.msgpack_restore((tmp_path / "x").read_bytes())["a"]["b"]
    assert tree["brain"].dtype == ml_dtypes.bfloat16
    assert {n: tree[n].tobytes() for n in mixed()} == {n: t.numpy().tobytes() for n, t in mixed().items()}
    assert (tmp_path / "x").read_bytes() == serialization.msgpack_serialize({"a": {"b": tree}})


def test_flax_chunks(tmp_path, monkeypatch):
    serialization = pytest.importorskip("flax.serialization", reason="the reference reader and writer")
    monkeypatch.setattr(msgpack_file, "CHUNK", 64)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    array = np.arange(60, dtype="f4").reshape(5, 12)
    msgpack_file.write(tmp_path / "x", {"w.kernel": Tensor.from_numpy(array)})
    assert np.array_equal(serialization.msgpack_restore((tmp_path / "x").read_bytes())["w"]["kernel"], array)
    (tmp_path / "y").write_bytes(serialization.msgpack_serialize({"w": {"kernel": array}}))
    for name in "xy":
        read, _ = msgpack_file.read(tmp_path / name)
        assert np.array_equal(read["w.kernel"].numpy(), array)


def test_a_file_of_more_than_4_gib(tmp_path):
    """Sparse, so that it takes no room: offsets beyond 2 and 4 GiB, and only the last tensor is read."""
    size = 5 * 2**30
    entries = {"big": ("U8", [size]), "last": ("F32", [2])}
    header, position = {}, 0
    for name, (dtype, shape) in entries.items():
        end = position + shape[0] * (4 if dtype == "F32" else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header).encode()
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + position)
        file.seek(8 + len(raw) + size)
        file.write(np.array([1.5, -2], "<f4").tobytes())
    tensors, _ = safetensors_file.read(tmp_path / "x.safetensors")
    assert tensors["last"].numpy().tolist() == [1.5, -2]
    assert tensors["big"].rows(size - 3, size).numpy().tolist() == [0, 0, 0]


# --- loading --------------------------------------------------------------------------------------------------------


def test_position_ids_are_ignored_and_said():
    read = load(GOLDEN / "hf-legacy")
    assert len(read.tensors) == 78
    assert sorted(read.ignored) == [f"{t}_model.embeddings.position_ids" for t in ("text", "vision")]


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.safetensors, model.safetensors.index.json, pytorch_model.bin"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="model.fp16.safetensors"):
        load(GOLDEN / "hf", variant="fp16")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="leaves the folder"):
        load(tmp_path, subfolder="../x")


def test_safetensors_is_preferred(tmp_path):
    shutil.copytree(GOLDEN / "hf", tmp_path, dirs_exist_ok=True)
    for name in ("hf-bin/pytorch_model.bin", "flax/flax_model.msgpack", "tf/tf_model.h5"):
        shutil.copy(GOLDEN / name, tmp_path)
    assert load(tmp_path).container == "safetensors"


def test_two_unknown_files_are_not_guessed_between(tmp_path):
    for name in ("a.pt", "b.pt"):
        shutil.copy(GOLDEN / "openai" / "tiny-openai.pt", tmp_path / name)
    with pytest.raises(CheckpointError, match="which of its files is meant.*a.pt, b.pt"):
        load(tmp_path)


def test_a_pipeline_folder_and_its_tokenizer(tmp_path):
    shutil.copytree(GOLDEN / "hf-text-projection", tmp_path / "text_encoder_2")
    (tmp_path / "tokenizer_2").mkdir()
    (tmp_path / "tokenizer_2" / "merges.txt").write_text("of the pipeline")
    (tmp_path / "tokenizer_2" / "vocab.json").write_text("{}")
    assert len(load(tmp_path, component="text_encoder_2").tensors) == 37
    convert(tmp_path, tmp_path / "out", component="text_encoder_2")
    assert (tmp_path / "out" / "merges.txt").read_text() == "of the pipeline"


@pytest.mark.parametrize("scope", ["text", "text_projection", "vision", "vision_projection", "full", None])
def test_scopes(scope):
    names = set(load(GOLDEN / "hf", scope=scope).tensors)
    assert any(n.startswith("text_model.") for n in names) == (scope in ("text", "text_projection", "full", None))
    assert ("visual_projection.weight" in names) == (scope in ("vision_projection", "full", None))


def test_more_than_clip_is_refused_in_foreign_dialects(tmp_path):
    tensors = dict(safetensors_file.read(GOLDEN / "open_clip" / "open_clip_model.safetensors")[0])
    tensors["logit_bias"] = Tensor.from_numpy(np.zeros(1, "f4"))
    tensors["transformer.resblocks.0.ls_1.gamma"] = Tensor.from_numpy(np.zeros(16, "f4"))
    safetensors_file.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=r"not a plain CLIP.*\n\+ logit_bias\n\+ transformer.resblocks.0.ls_1.gamma"
    ):
        load(tmp_path / "x.safetensors")


def test_converting_lists_every_difference(tmp_path):
    tensors = dict(load(GOLDEN / "hf").tensors)
    del tensors["text_model.final_layer_norm.bias"]
    tensors["text_model.encoder.layers.1.mlp.fc2.bias"] = Tensor.from_numpy(np.zeros(3, "f4"))
    tensors["extra"] = Tensor.from_numpy(np.zeros(3, "f4"))
    save(tmp_path / "x", tensors, CONFIG)
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "x", tmp_path / "y")
    for line in ("- text_model.final_layer_norm.bias", "+ extra", "fc2.bias: got (3,), want (16,)"):
        assert line in str(caught.value)
    assert not (tmp_path / "y").exists()


# --- configs --------------------------------------------------------------------------------------------------------


def state_of(text_width, vision_width, tmp_path, name="x.pt"):
    """An OpenAI state dict of one layer with these widths."""
    from clip_core.checkpoint.dialects import OPENAI, translate
    from clip_core.config import CLIPConfig
    from clip_core.weights import weight_table

    text = {"hidden_size": text_width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**text, "hidden_size": vision_width, "image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config={**text, "vocab_size": 49408}, vision_config=vision, projection_dim=4)
    tensors = {n: Tensor.from_numpy(np.zeros(w.shape, "f2")) for n, w in weight_table(config).items()}
    torch_writer.write(tmp_path / name, translate(tensors, OPENAI))
    return tmp_path / name


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16), (1408, 16), (1664, 16)])
def test_vision_heads_are_inferred(width, heads, tmp_path):
    read = load(state_of(64, width, tmp_path, "ViT-B-32.pt"))
    assert read.config["vision_config"]["num_attention_heads"] == heads
    assert read.config["text_config"]["num_attention_heads"] == 1
    assert read.config["vision_config"]["image_size"] == 28
    assert read.config["text_config"]["eos_token_id"] == 2  # OpenAI's code pools at the largest id
    assert any("num_attention_heads" in note and "assumed" in note for note in read.notes)
    assert any("hidden_act quick_gelu was assumed" in note for note in read.notes)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("vit_b_32-quickgelu-laion400m_avg.pt", "quick_gelu"),
        ("ViT-B-32-laion2B-s34B-b79K.pt", "gelu"),
        ("datacomp_xl.pt", "gelu"),
        ("metaclip-b32.pt", "quick_gelu"),
        ("ViT-B-32.pt", "quick_gelu"),
    ],
)
def test_the_activation_follows_the_tag(name, act, tmp_path):
    assert load(state_of(64, 64, tmp_path, name)).config["text_config"]["hidden_act"] == act


def test_heads_that_cannot_be_told_are_not_guessed(tmp_path):
    path = state_of(48, 64, tmp_path, "ViT-B-32.pt")
    with pytest.raises(CheckpointError, match=r"text tower's number of heads is not in the file.*48.*Give config="):
        load(path)
    text = {"num_attention_heads": 3, "hidden_act": "gelu"}
    given = {"text_config": text, "vision_config": {"num_attention_heads": 1, "hidden_act": "gelu"}}
    assert load(path, config=given).config["text_config"] == text
    (tmp_path / "c.json").write_text(json.dumps({"text_config": text, "vision_config": {}}))
    with pytest.raises(CheckpointError, match="vision tower's number of heads.*64, is no published CLIP's"):
        convert(path, tmp_path / "y", config=tmp_path / "c.json")
    (tmp_path / "c.json").write_text(json.dumps(given))
    convert(path, tmp_path / "y", config=tmp_path / "c.json")
    assert load(tmp_path / "y").config["text_config"]["num_attention_heads"] == 3


def test_shapes_win_over_the_config_and_it_is_said(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["text_config"].update(hidden_size=512, projection_dim=99)
    config["projection_dim"] = 512
    save(tmp_path / "x", load(GOLDEN / "hf").tensors, config)
    saved = convert(tmp_path / "x", tmp_path / "y")
    assert any("hidden_size 512, the weights say 16" in note for note in saved.notes)
    made = load(tmp_path / "y").config
    assert made["projection_dim"] == made["text_config"]["projection_dim"] == 8


def test_a_config_beside_a_single_file_is_used_when_it_fits(tmp_path):
    shutil.copy(GOLDEN / "openai" / "tiny-openai.pt", tmp_path)
    shutil.copy(GOLDEN / "hf" / "config.json", tmp_path)
    read = load(tmp_path / "tiny-openai.pt")
    assert read.config["vision_config"]["num_attention_heads"] == 3 and "beside the file" in read.notes[0]
    other = json.loads(json.dumps(CONFIG))
    other["text_config"]["hidden_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="number of heads"):
        load(tmp_path / "tiny-openai.pt")


def test_open_clip_preprocessing_comes_along(tmp_path):
    shutil.copytree(GOLDEN / "open_clip", tmp_path / "x")
    path = tmp_path / "x" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"] = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    path.write_text(json.dumps(config))
    convert(tmp_path / "x", tmp_path / "y")
    made = json.loads((tmp_path / "y" / "preprocessor_config.json").read_text())
    assert (made["image_mean"], made["image_std"], made["resample"]) == ([0.5] * 3, [0.25] * 3, 2)
    assert (made["size"], made["do_center_crop"]) == ({"height": 16, "width": 16}, False)
    convert(tmp_path / "y", tmp_path / "z", to="open_clip")
    back = json.loads((tmp_path / "z" / "open_clip_config.json").read_text())
    assert back["preprocess_cfg"] == config["preprocess_cfg"]
    assert back["model_cfg"] == config["model_cfg"]


def test_inspect():
    facts = inspect(GOLDEN / "open_clip")
    assert (facts["format"], facts["dialect"], facts["dtypes"]) == ("safetensors", "openai", {"float32": 78})
    assert facts["parameters"]["total"] == sum(t.size for t in load(GOLDEN / "hf").tensors.values())
    assert facts["config"]["vision_config"]["patch_size"] == 8
    assert json.dumps(facts)


@pytest.mark.parametrize(
    ("text", "count"), [("5GB", 5 * 10**9), ("2GiB", 2**31), ("500mb", 5 * 10**8), (7, 7), (None, None)]
)
def test_shard_sizes(text, count):
    assert shard_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0B", 0, -5, "5 apples", True])
def test_bad_shard_sizes(text):
    with pytest.raises(ValueError, match="shard_size"):
        shard_bytes(text)


def test_unknown_layout(tmp_path):
    with pytest.raises(ValueError, match="to: unknown layout 'onnx'; wanted one of hf"):
        convert(GOLDEN / "hf", tmp_path / "x", to="onnx")


def test_progress_is_reported(tmp_path):
    seen = []
    convert(GOLDEN / "hf", tmp_path / "x", to="flax", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(t.nbytes for t in load(GOLDEN / "hf").tensors.values())


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float64"])
def test_a_conversion_goes_by_pieces(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding needs several arrays of what is rounded: never of a whole tensor."""
    monkeypatch.setattr("clip_core.checkpoint.tensor._PIECE", 7)
    array, asked = np.random.default_rng(0).standard_normal((5, 4), np.float32), []
    whole = Tensor.from_numpy(array)

    def part(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return whole.part(start, stop)

    source = replace(whole, load=lambda: pytest.fail("all at once"), part=part)
    got = source.astype(target).numpy()
    assert asked == [7, 7, 6] and got.shape == array.shape
    assert np.array_equal(got, replace(whole, part=None).astype(target).numpy())
