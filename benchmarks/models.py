"""Models, inputs and checks that the rows about models share. Functions import what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BATCH = 16
TEXTS, LENGTH = 64, 16
FLOP_PER_IMAGE = 8.8e9


def pixels(batch: int = BATCH) -> Any:
    """Normalised pixels [batch, 3, 224, 224]."""
    import numpy as np

    return np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)


def ids(texts: int = TEXTS, length: int = LENGTH) -> Any:
    """Token ids [texts, length], int64, each row from start to end token."""
    import numpy as np

    rows = np.random.default_rng(0).integers(300, 49_000, (texts, length))
    rows[:, 0], rows[:, -1] = 49_406, 49_407
    return rows


def torch_model(data: Path, dtype: str = "float32") -> Any:
    from clip_torch import CLIPModel

    return CLIPModel.from_pretrained(data / "vit_b32", dtype=dtype).eval()


def tf_model(data: Path) -> Any:
    from clip_tf import TFCLIPModel

    return TFCLIPModel.from_pretrained(data / "vit_b32")


def flax_model(data: Path) -> Any:
    from clip_flax import FlaxCLIPModel

    return FlaxCLIPModel.from_pretrained(data / "vit_b32")


def hf_torch(data: Path, dtype: str = "float32") -> Any:
    """transformers' model with its fastest attention."""
    import torch
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(data / "vit_b32", torch_dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


def hf_tf(data: Path) -> Any:
    """In an environment with TF_USE_LEGACY_KERAS=1."""
    from transformers import TFCLIPModel

    return TFCLIPModel.from_pretrained(data / "vit_b32", from_pt=True)


def hf_flax(data: Path) -> Any:
    from transformers import FlaxCLIPModel

    return FlaxCLIPModel.from_pretrained(data / "vit_b32", from_pt=True)


def onnx_session(data: Path, name: str) -> Any:
    """`run` of ONNX Runtime: one array in, one out."""
    import onnxruntime

    from clip_core.machine import usable_cpus

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    session = onnxruntime.InferenceSession(data / "onnx" / f"{name}.onnx", options)
    asked = session.get_inputs()[0].name
    return lambda array: session.run(None, {asked: array})[0]


def openvino_model(data: Path, name: str) -> Any:
    """`run` of OpenVINO in float32: one array in, one out."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(data / "onnx" / f"{name}.onnx", "CPU", settings)
    return lambda array: model([array])[0]


def tensor(output: Any) -> Any:
    """Features as NumPy: transformers 5 wraps them in an output object."""
    output = getattr(output, "pooler_output", output)
    return output.float().numpy()


def compare(results: dict[str, Any], bound: float) -> str:
    """That all sides returned the same vectors: the largest difference over the largest number stays below `bound`."""
    import numpy as np

    (first, want), *rest = ((label, result) for label, result in results.items() if result is not None)
    errors = {label: float(np.abs(got - want).max() / np.abs(want).max()) for label, got in rest}
    assert all(np.isfinite(want).ravel()) and max(errors.values()) <= bound, f"from {first}: {errors}"
    return f"Largest relative difference between the sides' vectors: {max(errors.values()):.1g}."
