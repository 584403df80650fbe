"""ViT-B/32 image embeddings in PyTorch, float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="ViT-B/32 image embeddings, PyTorch, float32",
    about=(
        "Batches of 16 pictures' pixels through `get_image_features`; transformers with SDPA attention; ONNX Runtime "
        "and OpenVINO run the exported vision tower."
    ),
    data=("vit_b32", "onnx"),
    sides={
        "triclip": Side("triclip", "ours"),
        "HF 4.57": Side("hf4", "peer"),
        "HF 5.23": Side("hf5", "peer"),
        "ONNX Runtime": Side("onnx", "onnx"),
        "OpenVINO": Side("onnx", "openvino"),
        "products alone": Side("triclip", "ceiling"),
    },
    pairs=(
        Pair("triclip", "HF 4.57", at_least=1.2),
        Pair("triclip", "HF 5.23", at_least=1.2),
        Pair("triclip", "ONNX Runtime", at_least=1.05),
        Pair("triclip", "OpenVINO"),
        Pair("triclip", "products alone", at_least=0.88, share=True),
    ),
    count=models.BATCH,
    unit="pictures",
    check="same_vectors",
    limits=(
        "The matrix products are nearly all of it. With AVX-512 they go to oneDNN, which computes an MLP's activation "
        "inside the first product (MKL in `F.linear` runs at half of AVX-512's speed on AMD's processors, and is equal "
        "on Intel's); without, to `F.linear`, the activation written over its argument. The last layer is computed for "
        "the class token alone (2/3 of a twelfth less). What is left is attention (5%), norms, sums and new memory, "
        "which graph compilers (OpenVINO) fuse and PyTorch's operators can't."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    return _features(models.torch_model(data))


def peer(data: Path) -> Callable[[], Any]:
    return _features(models.hf_torch(data))


def onnx(data: Path) -> Callable[[], Any]:
    run, pixels = models.onnx_session(data, "vision"), models.pixels()
    return lambda: run(pixels)


def openvino(data: Path) -> Callable[[], Any]:
    run, pixels = models.openvino_model(data, "vision"), models.pixels()
    return lambda: run(pixels)


def ceiling(data: Path) -> Callable[[], Any]:
    return products.with_torch(products.vision())


def _features(model: Any, dtype: str = "float32") -> Callable[[], Any]:
    import torch

    pixels = torch.from_numpy(models.pixels()).to(getattr(torch, dtype))

    @torch.inference_mode()
    def run() -> Any:
        return models.tensor(model.get_image_features(pixels))

    return run


def same_vectors(results: dict[str, Any]) -> str:
    return models.compare(results, 1e-5)
