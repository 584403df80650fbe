"""Measurements of each export of a model: difference, size and speed.

    python -m conformance.exports torch     # or tf, flax: that framework's rows
    python -m conformance.exports b32       # PyTorch at the size of ViT-B/32, random weights: only bytes and speed
    python -m conformance.exports page      # only rewrite the tables

Rows go into conformance/exports.json, and from there into the end of docs/howto/export.md.

Embeddings are the embedded model's, of its pictures and of four sentences, on one thread. Speed is eager's CPU seconds
over the export's, for one batch of pictures, measured alternately: CPU seconds, because they depend little on other
load.
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
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SENTENCES = ["a red apple", "a smiling face", "a blue car", "a dog"]
RESULTS = Path(__file__).with_name("exports.json")
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/howto/export.md"
MARK = "<!-- from conformance/exports.json -->\n"  # all behind it is made here
GROUPS = {"torch": "PyTorch", "tf": "TensorFlow", "flax": "JAX"}
REPEATS = 15


class Export(NamedTuple):
    """A form of a model to run. The functions map NumPy arrays to embeddings, not normalised."""

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


def seconds(*runs: Callable[[], Any]) -> list[float]:
    """The least CPU seconds of each of several calls, measured alternately."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + REPEATS):
        for run, found in zip(runs, taken, strict=True):
            start = time.process_time()
            np.asarray(run())  # waits for JAX
            found.append(time.process_time() - start)
    return [min(found[1:]) for found in taken]


def measure(exports: Iterator[Export], pixels: np.ndarray, ids: np.ndarray, compare: bool = True) -> Iterator[dict]:
    """A row per export; the first is eager, the reference for the others."""
    eager: dict[str, np.ndarray] = {}
    first: Callable[[np.ndarray], Any] | None = None
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
            first = first or export.image
            base, taken = seconds(*(partial(run, pixels) for run in (first, export.image)))
            row.update(milliseconds=round(1000 * taken, 2), speed=round(base / taken, 2))
        if export.size is not None:
            row["bytes"] = export.size
        yield row


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_exports(model: Any, vision: Any, text: Any, folder: Path, everything: bool = True) -> Iterator[Export]:
    """`vision` and `text`: the same weights in the classes with a projection; text may be None."""
    import torch

    yield from small_exports(model, folder)
    yield from onnx_exports(vision, text, folder)
    if everything:
        yield from eager_exports(model)
        yield from program_exports(vision, text, folder)
        yield Export("torch.compile", *(embeds(torch.compile(run, fullgraph=True)) for run in features(model)))


def features(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return model.get_image_features, model.get_text_features


def embeds(run: Callable[..., Any]) -> Callable[[np.ndarray], Any]:
    """A function of arrays, from a function of tensors that returns a tensor or a tuple that begins with it."""
    import torch

    def call(array: np.ndarray) -> Any:
        with torch.no_grad():
            out = run(torch.from_numpy(array))
        return (out if isinstance(out, torch.Tensor) else out[0]).float().numpy()

    return call


def small_exports(model: Any, folder: Path) -> Iterator[Export]:
    """The model, and its weights in fewer bits, with the sizes of their state dicts."""
    import torch

    def both(name: str, model: Any) -> Export:
        torch.save(model.state_dict(), folder / "state.pt")
        return Export(name, *map(embeds, features(model)), size=(folder / "state.pt").stat().st_size)  # type: ignore[misc]

    yield both("eager", model)
    yield both("quantize_dynamic", torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}))
    if find_spec("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        small = copy.deepcopy(model)
        quantize_(small, Int8DynamicActivationInt8WeightConfig())
        yield both("torchao int8", small)
    for dtype in (torch.bfloat16, torch.float16):
        yield both(str(dtype).removeprefix("torch."), copy.deepcopy(model).to(dtype))


def eager_exports(model: Any) -> Iterator[Export]:
    """Eager calls in another layout and under autocast."""
    import torch

    def autocast(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return run(x)

        return call

    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    yield Export("channels_last", *map(embeds, features(last)))
    yield Export("autocast bfloat16", *(embeds(autocast(run)) for run in features(model)))


def program_exports(vision: Any, text: Any, folder: Path) -> Iterator[Export]:
    """The two towers as programs of torch.export, of any batch and length, and of TorchScript."""
    import torch
    from torch.export import Dim

    pixels, ids = (torch.from_numpy(array) for array in given())
    free = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}

    def both(name: str, programs: list[Any], save: Callable[..., Any], calls: list[Any]) -> Export:
        size = 0
        for program in programs:
            save(program, folder / "program.pt2")
            size += (folder / "program.pt2").stat().st_size
        return Export(name, *map(embeds, calls), size=size)  # type: ignore[misc]

    towers = (vision, pixels, free[0]), (text, ids, free[1])
    programs = [torch.export.export(tower, (x,), dynamic_shapes=(sizes,)) for tower, x, sizes in towers]
    yield both("torch.export", programs, torch.export.save, [program.module() for program in programs])
    for tower in (vision, text):
        tower.config.return_dict = False  # a trace has tuples
    traces = [torch.jit.trace(tower, (x,)) for tower, x, _ in towers]
    yield both("TorchScript trace", traces, torch.jit.save, traces)


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
    import tensorflow as tf

    from clip_tf import TFCLIPModel

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    pixels, ids = given()
    return measure(tf_exports(TFCLIPModel.from_pretrained("emoji"), pixels, ids.astype(np.int32), folder), pixels, ids)


def tf_exports(model: Any, pixels: np.ndarray, ids: np.ndarray, folder: Path) -> Iterator[Export]:
    import tensorflow as tf

    from clip_tf import TFCLIPModel

    def compiled(name: str, model: Any) -> Export:
        image, text = tf.function(model.get_image_features), tf.function(model.get_text_features)
        return Export(
            name, lambda x: tf.cast(image(x), tf.float32).numpy(), lambda x: tf.cast(text(x), tf.float32).numpy()
        )

    yield compiled("tf.function", model)
    yield compiled("mixed_bfloat16", TFCLIPModel.from_pretrained("emoji", dtype="mixed_bfloat16"))
    yield saved_model(model, folder)

    def examples() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for picture in pixels:
            yield "image", {"pixel_values": picture[None]}
        for row in ids:
            yield "text", {"input_ids": row[None], "attention_mask": ones(row[None])}

    small: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    half = tf.lite.TargetSpec(supported_types=[tf.float16])
    yield litert(model, folder, "LiteRT")
    yield litert(model, folder, "LiteRT float16", **small, target_spec=half)
    yield litert(model, folder, "LiteRT int8, dynamic range", **small)
    yield litert(model, folder, "LiteRT int8, representative data", **small, representative_dataset=examples)


def ones(x: np.ndarray) -> np.ndarray:
    """An attention mask that hides nothing."""
    return np.ones(x.shape, np.int32)


def saved_model(model: Any, folder: Path) -> Export:
    import tensorflow as tf

    model.export(folder / "saved", verbose=False, signatures=["image", "text"])
    served = tf.saved_model.load(str(folder / "saved")).signatures

    def image(x: np.ndarray) -> Any:
        return served["image"](pixel_values=tf.constant(x))["image_features"].numpy()

    def text(x: np.ndarray) -> Any:
        run = served["text"](input_ids=tf.constant(x, tf.int32), attention_mask=tf.constant(ones(x)))
        return run["text_features"].numpy()

    size = sum(file.stat().st_size for file in (folder / "saved").rglob("*") if file.is_file())
    return Export("SavedModel", image, text, size)


def litert(model: Any, folder: Path, name: str, **options: Any) -> Export:
    """Both towers in one file, of one picture or one text at a time."""
    import tensorflow as tf

    file = folder / "model.tflite"
    model.export(file, format="litert", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter says that it will move
        run = tf.lite.Interpreter(str(file), num_threads=1)
    images, texts = run.get_signature_runner("image"), run.get_signature_runner("text")

    def image(x: np.ndarray) -> Any:
        return np.concatenate([images(pixel_values=row[None])["image_features"] for row in x])

    def text(x: np.ndarray) -> Any:
        rows = [row[None].astype(np.int32) for row in x]
        return np.concatenate([texts(input_ids=row, attention_mask=ones(row))["text_features"] for row in rows])

    return Export(name, image, text, file.stat().st_size)


def flax_rows(folder: Path) -> Iterator[dict]:
    from clip_flax import FlaxCLIPModel

    pixels, ids = given()
    return measure(flax_exports(FlaxCLIPModel.from_pretrained("emoji"), pixels, ids), pixels, ids)


def flax_exports(model: Any, pixels: np.ndarray, ids: np.ndarray) -> Iterator[Export]:
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import export

    from clip_flax import FlaxCLIPModel, FlaxCLIPTextModelWithProjection, FlaxCLIPVisionModelWithProjection

    yield Export("jax.jit", model.get_image_features, model.get_text_features)
    half = FlaxCLIPModel.from_pretrained("emoji", dtype="bfloat16", torch_dtype="bfloat16")
    yield Export("bfloat16", half.get_image_features, half.get_text_features)
    (batch,) = export.symbolic_shape("batch")
    size = export.symbolic_shape("batch, length", constraints=["length <= 24"])
    vision, tower = (
        cls.from_pretrained("emoji") for cls in (FlaxCLIPVisionModelWithProjection, FlaxCLIPTextModelWithProjection)
    )
    programs = [
        export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, dtype))
        for run, shape, dtype in (
            (lambda x: vision(x).image_embeds, (batch, *pixels.shape[1:]), jnp.float32),
            (lambda x: tower(x).text_embeds, size, jnp.int32),
        )
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


# -- the page ---------------------------------------------------------------------------------------------------------


def tables(results: dict[str, list[dict]]) -> str:
    """The rows of all frameworks in one table, those of ViT-B/32 in another."""
    lines = [
        "| | least cosine, images | texts | largest difference | file | speed on images |",
        "|---|---|---|---|---|---|",
    ]
    for key, group in GROUPS.items():
        for row in results.get(key, ()):
            apart = max(row["image_difference"], row["text_difference"])
            cells = [f"{row['image_cosine']:.5f}", f"{row['text_cosine']:.5f}", f"{apart:.1e}" if apart else "0"]
            lines.append(_line(f"{group}: {row['name']}", *cells, _size(row), f"{row['speed']:.2f}"))
    lines += ["", "At the size of ViT-B/32, vision tower, four pictures, drawn weights:", ""]
    lines += ["| | file | milliseconds | speed |", "|---|---|---|---|"]
    for row in results.get("b32", ()):
        lines.append(_line(row["name"], _size(row), f"{row['milliseconds']:.0f}", f"{row['speed']:.2f}"))
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _size(row: dict) -> str:
    return f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else ""


def write_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text[: text.index(MARK) + len(MARK)] + "\n" + tables(json.loads(RESULTS.read_text())), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("torch", "b32", "tf", "flax", "page"))
    which = parser.parse_args().which
    warnings.simplefilter("ignore")
    rows = {"torch": torch_rows, "b32": b32_rows, "tf": tf_rows, "flax": flax_rows}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows[which](Path(folder)) if which in rows else ():
            found.append(row)
            print(json.dumps(row), flush=True)
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps({**results, which: found}, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
