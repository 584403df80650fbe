"""Exports of a model by PyTorch's own functions, each compared with the eager model."""

from __future__ import annotations

import copy
import io
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.export import Dim

import clip_core
import clip_torch
from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import FORWARD, relative_error
from triclip import Clip

ADAPTOR = Torch()
CASES = {case.name: case for case in data.cases()}
# bfloat16 keeps 8 bits (4e-3 per rounding), float16 11 (5e-4); some dozens of roundings add up in a two-layer model.
HALF_BOUND = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
COMPILER = shutil.which("g++") or shutil.which("clang++")


def build(cls: str, **config: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of the conformance cases and its inputs; texts have a row that is masked entirely and one with holes."""
    case = CASES[f"class.{cls}"]
    model = ADAPTOR.build(case).eval()
    for name, value in config.items():
        setattr(model.config, name, value)
    inputs = {key: torch.from_numpy(array) for key, array in data.draw_inputs(case).items()}
    if "input_ids" in inputs:
        inputs["attention_mask"] = torch.tensor(data.MASKS["zero_row"])
        inputs["attention_mask"][2, 1] = 0
    return model, inputs


def some(inputs: dict[str, torch.Tensor], rows: int, length: int = 8) -> dict[str, torch.Tensor]:
    return {key: value[:rows, :length] if value.dim() == 2 else value[:rows] for key, value in inputs.items()}


def free(inputs: dict[str, torch.Tensor]) -> dict[str, dict[int, Any]]:
    """Every batch, and every length of texts."""
    return {key: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} if value.dim() == 2 else {0: Dim.DYNAMIC}
            for key, value in inputs.items()}  # fmt: skip


def same(got: Any, want: Any, bound: float = FORWARD) -> None:
    got, want = data.flatten(got), data.flatten(want)
    assert list(got) == list(want)
    for name, value in want.items():
        assert relative_error(got[name].detach().float(), value.detach().float()) <= bound, name


# -- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", data.CLASSES)
def test_compile(cls: str) -> None:
    """One graph: `fullgraph` raises at a break."""
    model, inputs = build(cls)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        same(compiled(**inputs), model(**inputs))
    assert type(compiled(**inputs)) is type(model(**inputs))


def test_compile_trains() -> None:
    model, inputs = build("CLIPTextModelWithProjection")
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        run(**inputs).text_embeds.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, want in gradients[0].items():
        assert torch.allclose(gradients[1][name], want, atol=1e-4 * float(want.abs().max()) + 1e-6), name


@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")
def test_compile_by_inductor() -> None:
    model, inputs = build("CLIPTextModelWithProjection")
    del model.text_model.encoder.layers[1:]
    with torch.no_grad():
        same(torch.compile(model, fullgraph=True)(**inputs), model(**inputs))


# -- torch.export -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", data.CLASSES)
def test_export_saved_and_loaded(cls: str) -> None:
    model, inputs = build(cls)
    program = torch.export.export(model, (), inputs, dynamic_shapes=free(inputs))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for fewer in (some(inputs, 3), some(inputs, 1, 5)):
        got, want = loaded(**fewer), model(**fewer)
        assert type(got) is type(want)
        same(got, want)


def test_export_keeps_the_longest_text_as_its_bound() -> None:
    model, inputs = build("CLIPTextModel")
    run = torch.export.export(model, (), inputs, dynamic_shapes=free(inputs)).module()
    long = {name: torch.ones(2, 12, dtype=torch.long) for name in inputs}
    with pytest.raises(Exception, match="11"):
        run(**long)


def test_an_exported_program_of_tuples_runs_without_this_package(tmp_path: Path) -> None:
    model, inputs = build("CLIPVisionModelWithProjection", return_dict=False)
    torch.export.save(torch.export.export(model, (), inputs, dynamic_shapes=free(inputs)), tmp_path / "vision.pt2")
    torch.save(inputs["pixel_values"][:2], tmp_path / "pixels.pt")
    code = """
        import sys, torch
        run = torch.export.load("vision.pt2").module()
        torch.save(run(pixel_values=torch.load("pixels.pt"))[0].detach(), "embeds.pt")
        assert not [name for name in sys.modules if name.startswith("clip_")]
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], cwd=tmp_path, check=True, timeout=900)
    want = model(inputs["pixel_values"][:2])[0]
    assert relative_error(torch.load(tmp_path / "embeds.pt"), want.detach()) <= FORWARD


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ["CLIPModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"])
def test_onnx(cls: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    import onnxruntime

    model, inputs = build(cls)
    for tower in ("text_model", "vision_model"):  # one layer shows what two show
        if hasattr(model, tower):
            del getattr(model, tower).encoder.layers[1:]
    names = [name for name in data.flatten(model(**inputs)) if "." not in name]
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (), file, kwargs=inputs, dynamic_shapes=free(inputs), output_names=names, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == set(inputs)
    for fewer in (inputs, some(inputs, 1, 5)):
        want = data.flatten(model(**fewer))
        got = session.run(names, {name: value.numpy() for name, value in fewer.items()})
        for name, array in zip(names, got, strict=True):
            assert array.shape == tuple(want[name].shape)
            assert relative_error(torch.from_numpy(array), want[name].detach()) <= FORWARD, name


# -- TorchScript ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", data.CLASSES)
def test_trace_saved_and_loaded(cls: str) -> None:
    """`torchscript=True` in the config gives tuples, as tracing wants them; the traced call takes any batch."""
    case = CASES[f"class.{cls}"]
    model, inputs = build(cls, torchscript=True)
    assert not model.config.use_return_dict and case.cls == cls
    order = [name for name in ("input_ids", "pixel_values", "attention_mask") if name in inputs]
    file = io.BytesIO()
    # Where a first token is hidden, gradients want another kind of attention than inference, which PyTorch's own check
    # of a trace would take.
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, tuple(inputs[name] for name in order)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for fewer in (some(inputs, 3), some(inputs, 1, 5)):
        fewer = {name: fewer[name] for name in order}
        got, want = loaded(*fewer.values()), model(**fewer)
        for have, value in zip(leaves(got), leaves(want), strict=True):
            assert relative_error(have.detach(), value.detach()) <= FORWARD


def leaves(nested: Any) -> list[torch.Tensor]:
    return torch.utils._pytree.tree_leaves(nested)


# -- layouts and dtypes -----------------------------------------------------------------------------------------------


def test_channels_last() -> None:
    model, inputs = build("CLIPModel")
    want = model(**inputs)
    model = model.to(memory_format=torch.channels_last)
    assert model.vision_model.embeddings.patch_embedding.weight.is_contiguous(memory_format=torch.channels_last)
    inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    same(model(**inputs), want)
    got = model.get_image_features(inputs["pixel_values"])
    assert relative_error((got / got.norm(dim=-1, keepdim=True)).detach(), want.image_embeds.detach()) <= FORWARD
    got.sum().backward()
    assert torch.isfinite(model.vision_model.embeddings.patch_embedding.weight.grad).all()


@pytest.mark.parametrize("dtype", HALF_BOUND, ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    model, inputs = build("CLIPModel")
    want = model(**inputs)
    with torch.autocast("cpu", dtype):
        got = model(**inputs)
        features = model.get_image_features(inputs["pixel_values"])
    assert features.dtype == dtype and got.text_model_output.last_hidden_state.dtype == torch.float32
    same(got, want, HALF_BOUND[dtype])
    if dtype == torch.bfloat16:
        got.logits_per_text.float().square().mean().backward()
        assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", HALF_BOUND, ids=str)
def test_loading_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model, inputs = build("CLIPModel")
    model.save_pretrained(tmp_path)
    half = clip_torch.CLIPModel.from_pretrained(tmp_path, torch_dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    same(half(**inputs), model(**inputs), HALF_BOUND[dtype])


# -- eight bits -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The embedded model, sentences and pictures: rounding to eight bits says nothing about drawn weights."""
    clip = Clip.from_pretrained("emoji")
    files = sorted((Path(clip_core.__file__).parent / "models/emoji/pictures").glob("*.png"))
    given = clip.processor(
        text=["a red apple", "a smiling face", "a blue car", "a dog"],
        images=[Image.open(file).convert("RGB") for file in files],
        return_tensors="pt",
        padding=True,
    )
    return clip.model, given["input_ids"], given["pixel_values"]


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def test_dynamic_int8(emoji: Any) -> None:
    model, ids, pixels = emoji
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch's advice to move to torchao
        small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
        for run in ("get_text_features", "get_image_features"):
            given = ids if run == "get_text_features" else pixels
            got, want = getattr(small, run)(given), getattr(model, run)(given)
            assert not torch.equal(got, want)
            assert cosines(got, want).min() > 0.99, run
        best = small(ids, pixels).logits_per_image.argmax(-1) == model(ids, pixels).logits_per_image.argmax(-1)
    assert best.float().mean() >= 0.9
    with pytest.raises(ValueError, match="quantized"):
        small.save_pretrained("nowhere")
    assert not Path("nowhere").exists()


def test_int8_of_torchao(emoji: Any) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model, ids, pixels = emoji
    small = copy.deepcopy(model)
    torchao.quantize_(small, torchao.Int8DynamicActivationInt8WeightConfig())
    with torch.no_grad():
        assert cosines(small.get_image_features(pixels), model.get_image_features(pixels)).min() > 0.99
        assert cosines(small.get_text_features(ids), model.get_text_features(ids)).min() > 0.99
