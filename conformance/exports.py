"""What each export of a model differs by, weighs and costs, measured; docs/howto/export.md shows the rows.

    python -m conformance.exports torch     # or tf, flax: that framework's rows, into conformance/exports.json
    python -m conformance.exports b32       # PyTorch at the size of ViT-B/32, drawn weights: bytes and speed alone

Embeddings are the embedded model's, of its pictures and of four sentences, by one thread. Speed is eager's CPU seconds
over the export's, of one batch of pictures: CPU seconds, because they depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SENTENCES = ["a red apple", "a smiling face", "a blue car", "a dog"]
RESULTS = Path(__file__).with_name("exports.json")
ROOT = Path(__file__).parents[1]
REPEATS = 5


class Export(NamedTuple):
    """A way to run a model. The functions take NumPy arrays and give embeddings, not normalised."""

    name: str
    image: Callable[[np.ndarray], Any] | None
    text: Callable[[np.ndarray], Any] | None
    size: int | None = None  # bytes of what is written


def given(length: int | str = 24) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [B, C, h, w] of the embedded model's pictures, and ids [4, S]."""
    from PIL import Image

    from clip_core import CLIPProcessor

    processor = CLIPProcessor.from_pretrained("emoji")
    files = sorted((ROOT / "clip_core/models/emoji/pictures").glob("*.png"))
    arrays = processor(
        text=SENTENCES, images=[Image.open(file).convert("RGB") for file in files], return_tensors="np",
        padding="max_length", max_length=length,
    )  # fmt: skip
    return arrays["pixel_values"], arrays["input_ids"]


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of a call: the least of some."""
    run()
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def measure(exports: Iterator[Export], pixels: np.ndarray, ids: np.ndarray, compare: bool = True) -> Iterator[dict]:
    """A row per export; the first is eager, what the others are compared with."""
    eager: dict[str, np.ndarray] = {}
    base = 0.0
    for export in exports:
        row: dict[str, Any] = {"name": export.name}
        for kind, run, arrays in (("image", export.image, pixels), ("text", export.text, ids)):
            if run is None or not compare:
                continue
            found = np.asarray(run(arrays), np.float64)
            found /= np.linalg.norm(found, axis=-1, keepdims=True)
            want = eager.setdefault(kind, found)
            row[f"{kind}_difference"] = float(np.abs(found - want).max())
            row[f"{kind}_cosine"] = float((found * want).sum(-1).min())
        if export.image is not None:
            taken = seconds(lambda export=export: export.image(pixels))  # type: ignore[misc]
            base = base or taken
            row.update(milliseconds=round(1000 * taken, 2), speed=round(base / taken, 2))
        if export.size is not None:
            row["bytes"] = export.size
        yield row


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_exports(model: Any, vision: Any, text: Any, folder: Path, everything: bool = True) -> Iterator[Export]:
    """`vision` and `text`: the same weights in the classes with a projection; text may be None."""
    import torch
    from torch.export import Dim

    def both(name: str, model: Any, size: int | None = None, dtype: Any = None) -> Export:
        def run(method: str) -> Any:
            def call(array: np.ndarray) -> Any:
                with torch.inference_mode():
                    return getattr(model, method)(torch.from_numpy(array)).float().numpy()

            return call

        return Export(name, run("get_image_features"), run("get_text_features"), size)

    def saved(model: Any) -> int:
        torch.save(model.state_dict(), folder / "state.pt")
        return (folder / "state.pt").stat().st_size

    yield both("eager", model, saved(model))
    small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
    yield both("quantize_dynamic", small, saved(small))
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        yield both(str(dtype).removeprefix("torch."), half, saved(half))
    yield from onnx_exports(vision, text, folder)
    if not everything:
        return
    yield both("channels_last", copy.deepcopy(model).to(memory_format=torch.channels_last))
    pixels, ids = (torch.from_numpy(array) for array in given())

    def tensors(run: Callable[..., Any]) -> Callable[[np.ndarray], Any]:
        def call(array: np.ndarray) -> Any:
            with torch.no_grad():
                out = run(torch.from_numpy(array))
                return (out if isinstance(out, torch.Tensor) else out[0]).float().numpy()

        return call

    def autocast(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return run(x)

        return call

    yield Export("autocast bfloat16", tensors(autocast(model.get_image_features)),
                 tensors(autocast(model.get_text_features)))  # fmt: skip
    batch = {0: Dim.DYNAMIC}
    programs = [
        torch.export.export(vision, (pixels,), dynamic_shapes=(batch,)),
        torch.export.export(text, (ids,), dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},)),
    ]
    sizes = []
    for program in programs:
        torch.export.save(program, folder / "program.pt2")
        sizes.append((folder / "program.pt2").stat().st_size)
    yield Export("torch.export", *(tensors(p.module()) for p in programs), size=sum(sizes))  # type: ignore[misc]
    for tower in (vision, text):
        tower.config.return_dict = False
    traced = [torch.jit.trace(vision, (pixels,)), torch.jit.trace(text, (ids,))]
    for i, trace in enumerate(traced):
        torch.jit.save(trace, folder / "trace.pt")
        sizes[i] = (folder / "trace.pt").stat().st_size
    yield Export("TorchScript trace", *(tensors(t) for t in traced), size=sum(sizes))  # type: ignore[misc]
    yield Export("torch.compile", tensors(torch.compile(model.get_image_features, fullgraph=True)),
                 tensors(torch.compile(model.get_text_features, fullgraph=True)))  # fmt: skip


def onnx_exports(vision: Any, text: Any, folder: Path) -> Iterator[Export]:
    """The two towers as files, in float32 and with their weights in eight bits by onnxruntime."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from torch.export import Dim

    size = vision.config.image_size
    inputs = {"image": torch.zeros(2, 3, size, size), "text": torch.ones(2, 7, dtype=torch.long)}
    dynamic = {"image": {0: Dim.DYNAMIC}, "text": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    towers = {"image": vision, "text": text} if text is not None else {"image": vision}
    for name, tower in towers.items():
        torch.onnx.export(
            tower, (inputs[name],), folder / f"{name}.onnx", dynamic_shapes=(dynamic[name],), dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}.8.onnx", weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for label, ending in (("ONNX", ".onnx"), ("ONNX int8", ".8.onnx")):
        runs: dict[str, Any] = {"image": None, "text": None}
        for name in towers:
            session = onnxruntime.InferenceSession(folder / f"{name}{ending}", options)
            key = session.get_inputs()[0].name
            runs[name] = lambda array, session=session, key=key: session.run(None, {key: array})[0]
        yield Export(label, runs["image"], runs["text"], sum((folder / f"{n}{ending}").stat().st_size for n in towers))


def torch_rows(folder: Path) -> Iterator[dict]:
    from clip_torch import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    classes = CLIPModel, CLIPVisionModelWithProjection, CLIPTextModelWithProjection
    models = [cls.from_pretrained("emoji") for cls in classes]
    return measure(torch_exports(*models, folder), *given())


def b32_rows(folder: Path) -> Iterator[dict]:
    from clip_core import CLIPConfig
    from clip_torch import CLIPModel, CLIPVisionModelWithProjection

    config = CLIPConfig(text_config={"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1})
    model = CLIPModel(config).eval()
    vision = CLIPVisionModelWithProjection(config.vision_config).eval()
    vision.vision_model, vision.visual_projection = model.vision_model, model.visual_projection
    pixels = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype(np.float32)
    return measure(torch_exports(model, vision, None, folder, everything=False), pixels, np.zeros(0), compare=False)


# -- TensorFlow and JAX -----------------------------------------------------------------------------------------------


def tf_rows(folder: Path) -> Iterator[dict]:
    from clip_tf import TFCLIPModel

    pixels, ids = given()
    return measure(tf_exports(TFCLIPModel.from_pretrained("emoji"), pixels, ids.astype(np.int32), folder), pixels, ids)


def tf_exports(model: Any, pixels: np.ndarray, ids: np.ndarray, folder: Path) -> Iterator[Export]:
    import tensorflow as tf

    from clip_tf import TFCLIPModel

    def features(model: Any) -> tuple[Any, Any]:
        image, text = tf.function(model.get_image_features), tf.function(model.get_text_features)
        return (lambda x: tf.cast(image(x), tf.float32).numpy()), (lambda x: tf.cast(text(x), tf.float32).numpy())

    yield Export("tf.function", *features(model))
    yield Export("mixed_bfloat16", *features(TFCLIPModel.from_pretrained("emoji", dtype="bfloat16")))
    model.export(folder / "saved", verbose=False, signatures=["image", "text"])
    served = tf.saved_model.load(str(folder / "saved")).signatures
    size = sum(file.stat().st_size for file in (folder / "saved").rglob("*") if file.is_file())

    def ones(x: np.ndarray) -> np.ndarray:
        return np.ones(x.shape, np.int32)

    yield Export(
        "SavedModel",
        lambda x: served["image"](pixel_values=tf.constant(x))["image_features"].numpy(),
        lambda x: served["text"](
            input_ids=tf.constant(x, tf.int32), attention_mask=tf.constant(ones(x))
        )["text_features"].numpy(),
        size,
    )  # fmt: skip

    def examples() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for picture in pixels:
            yield "image", {"pixel_values": picture[None]}
        for row in ids:
            yield "text", {"input_ids": row[None], "attention_mask": ones(row[None])}

    small: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    half = tf.lite.TargetSpec(supported_types=[tf.float16])
    for name, options in (
        ("LiteRT", {}),
        ("LiteRT float16", {**small, "target_spec": half}),
        ("LiteRT int8, dynamic range", small),
        ("LiteRT int8, representative data", {**small, "representative_dataset": examples}),
    ):
        file = folder / "model.tflite"
        model.export(file, format="litert", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = tf.lite.Interpreter(str(file), num_threads=1)
        image, text = run.get_signature_runner("image"), run.get_signature_runner("text")
        yield Export(
            name,
            lambda x, image=image: np.concatenate([image(pixel_values=row[None])["image_features"] for row in x]),
            lambda x, text=text: np.concatenate(
                [text(input_ids=row[None].astype(np.int32), attention_mask=ones(row[None]))["text_features"]
                 for row in x]
            ),
            file.stat().st_size,
        )  # fmt: skip


def flax_rows(folder: Path) -> Iterator[dict]:
    from clip_flax import FlaxCLIPModel

    pixels, ids = given()
    return measure(flax_exports(FlaxCLIPModel.from_pretrained("emoji"), pixels, ids), pixels, ids)


def flax_exports(model: Any, pixels: np.ndarray, ids: np.ndarray) -> Iterator[Export]:
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import export

    from clip_flax import FlaxCLIPModel

    yield Export("jax.jit", model.get_image_features, model.get_text_features)
    half = FlaxCLIPModel.from_pretrained("emoji", dtype="bfloat16", torch_dtype="bfloat16")
    yield Export("bfloat16", half.get_image_features, half.get_text_features)
    (batch,) = export.symbolic_shape("batch")
    size = export.symbolic_shape("batch, length", constraints=["length <= 24"])
    programs = [
        export.export(jax.jit(model.get_image_features))(jax.ShapeDtypeStruct((batch, *pixels.shape[1:]), jnp.float32)),
        export.export(jax.jit(model.get_text_features))(jax.ShapeDtypeStruct(size, jnp.int32)),
    ]
    content = [program.serialize() for program in programs]
    image, text = (jax.jit(export.deserialize(some).call) for some in content)
    yield Export("jax.export", image, lambda x: text(x.astype(np.int32)), sum(map(len, content)))
    linen = nnx.bridge.ToNNX(model.module, rngs=nnx.Rngs(0))
    nnx.bridge.lazy_init(linen, jnp.asarray(ids[:1]), jnp.transpose(pixels[:1], (0, 2, 3, 1)))
    nnx.update(linen, model.params)
    images = nnx.jit(lambda model, x: model(jnp.transpose(x, (0, 2, 3, 1)), method="get_image_features"))
    texts = nnx.jit(lambda model, x: model(x, method="get_text_features"))
    yield Export("flax.nnx", lambda x: images(linen, x), lambda x: texts(linen, x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("torch", "b32", "tf", "flax"))
    which = parser.parse_args().which
    warnings.simplefilter("ignore")
    rows = {"torch": torch_rows, "b32": b32_rows, "tf": tf_rows, "flax": flax_rows}[which]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder)):
            found.append(row)
            print(json.dumps(row), flush=True)
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps({**results, which: found}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
