"""Runs inside another library's environment, without triclip: loads a checkpoint, computes, saves it again.

    python worker.py LIBRARY        LIBRARY: torch, tf, flax (transformers' classes), open_clip, kerashub

One JSON object a line on standard input: {"source", "target", "scope", "inputs", "options"}; one a line back:
{"outputs": path} or {"error": text}. The PyTorch libraries compute in float64, so that only what was lost shows.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # small models: compiling is what takes time
# transformers' TF classes are Keras 2's: from its own package where TensorFlow's keras is 3
os.environ["TF_USE_LEGACY_KERAS"] = "1" if importlib.util.find_spec("tf_keras") else "0"
if sys.argv[1:] and sys.argv[1] in ("torch", "tf", "flax"):  # transformers imports no other framework then
    os.environ.update({f"USE_{name.upper()}": str(int(name == sys.argv[1])) for name in ("torch", "tf", "flax")})
KEPT: list[Any] = []
CLASSES = {
    "full": "CLIPModel",
    "text": "CLIPTextModel",
    "text_projection": "CLIPTextModelWithProjection",
    "vision": "CLIPVisionModel",
    "vision_projection": "CLIPVisionModelWithProjection",
}


def features(model: Any, scope: str, ids: Any, pixels: Any) -> dict[str, Any]:
    """Pooled, projected, not normalised, as from `reference.outputs`."""
    found = {}
    if scope == "full":
        found = {"text": model.get_text_features(ids), "image": model.get_image_features(pixels)}
    elif scope.startswith("text"):
        found["text"] = model(ids)
    else:
        found["image"] = model(pixels)
    for key, value in found.items():
        for name in ("text_embeds", "image_embeds", "pooler_output"):
            if getattr(value, name, None) is not None:
                found[key] = getattr(value, name)
                break
    return found


def without_torchvision_s_operators() -> Any:
    """open_clip and transformers 5 import torchvision, which may have been built for another torch."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
        try:
            library.define(name)
        except RuntimeError:  # it is there
            break
    return library


def torch_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch
    import transformers

    model, info = getattr(transformers, CLASSES[job["scope"]]).from_pretrained(
        job["source"], output_loading_info=True, torch_dtype=torch.float32
    )
    _nothing_missing(info)
    ids, pixels = (torch.from_numpy(inputs[n]) if n in inputs else None for n in ("ids", "pixels"))
    model = model.double().eval()
    torch.set_default_dtype(torch.float64)  # masks are made in it
    try:
        with torch.no_grad():
            found = features(model, job["scope"], ids, None if pixels is None else pixels.double())
    finally:
        torch.set_default_dtype(torch.float32)
    model.float().save_pretrained(job["target"], **job["options"])
    return {name: value.numpy() for name, value in found.items()}


def _nothing_missing(info: dict[str, Any]) -> None:
    wrong = {k: list(v) for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    wrong = {k: [n for n in v if "position_ids" not in str(n)] for k, v in wrong.items()}
    if any(wrong.values()):
        raise ValueError(f"keys: {wrong}")


def tf_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import tensorflow as tf
    import transformers

    model, info = getattr(transformers, f"TF{CLASSES[job['scope']]}").from_pretrained(
        job["source"], output_loading_info=True
    )
    _nothing_missing(info)
    ids, pixels = (tf.constant(inputs[n]) if n in inputs else None for n in ("ids", "pixels"))
    found = features(model, job["scope"], ids, pixels)
    model.save_pretrained(job["target"], safe_serialization=job["options"].get("safe_serialization", False))
    tf.keras.backend.clear_session()
    return {name: value.numpy() for name, value in found.items()}


def flax_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import jax
    import transformers

    name = f"Flax{CLASSES[job['scope']]}"
    # with _do_init it draws random weights first, which takes most of the time
    model, params = getattr(transformers, name).from_pretrained(job["source"], _do_init=False)
    params = model.to_fp32(params)  # else it computes partly in half precision

    @jax.jit
    def compute(params: Any, ids: Any, pixels: Any) -> dict[str, Any]:
        if job["scope"] == "full":
            text, image = model.get_text_features(ids, params=params), model.get_image_features(pixels, params=params)
            return {"text": text, "image": image}
        return features(functools.partial(model, params=params), job["scope"], ids, pixels)

    found = compute(params, inputs.get("ids"), inputs.get("pixels"))
    model.save_pretrained(job["target"], params=params)
    jax.clear_caches()
    return {name: np.asarray(value) for name, value in found.items()}


def open_clip_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import open_clip
    import torch
    from safetensors.torch import load_file, save_file

    source, target = Path(job["source"]), Path(job["target"])
    stated = json.loads((source / "open_clip_config.json").read_text())
    model = open_clip.model.CLIP(**stated["model_cfg"])
    state = load_file(source / "open_clip_model.safetensors")
    model.load_state_dict(state)
    model = model.double().eval()
    with torch.no_grad():
        ids, pixels = torch.from_numpy(inputs["ids"]), torch.from_numpy(inputs["pixels"]).double()
        found = {"text": model.encode_text(ids), "image": model.encode_image(pixels)}
    target.mkdir(parents=True)
    dtypes = {name: tensor.dtype for name, tensor in state.items()}
    again = {name: tensor.to(dtypes[name]).contiguous() for name, tensor in model.state_dict().items()}
    if job["options"].get("safe_serialization", True):
        save_file(again, target / "open_clip_model.safetensors")
    else:
        torch.save(again, target / "open_clip_pytorch_model.bin")
    (target / "open_clip_config.json").write_text(json.dumps(stated))
    return {name: value.numpy() for name, value in found.items()}


def kerashub_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import keras
    import keras_hub

    model = keras_hub.models.Backbone.from_preset(job["source"], dtype="float32")
    pixels = np.moveaxis(inputs["pixels"], 1, -1)
    found = {
        "text": model.get_text_embeddings(inputs["ids"].astype("int32")),
        "image": model.get_vision_embeddings(pixels),
    }
    model.save_to_preset(job["target"])
    keras.utils.clear_session()
    return {name: np.asarray(value) for name, value in found.items()}


STEPS = {"torch": torch_step, "tf": tf_step, "flax": flax_step, "open_clip": open_clip_step, "kerashub": kerashub_step}


def main() -> None:
    step = STEPS[sys.argv[1]]
    if sys.argv[1] in ("torch", "open_clip"):
        KEPT.append(without_torchvision_s_operators())
    answers, sys.stdout = sys.stdout, sys.stderr  # a library's own output is not an answer
    for line in sys.stdin:
        job = json.loads(line)
        try:
            with np.load(job["inputs"]) as inputs:
                found = step(job, dict(inputs))
            path = f"{job['inputs']}.out.npz"
            np.savez(path, **{name: np.asarray(value, np.float64) for name, value in found.items()})
            answer = {"outputs": path}
        except Exception:  # any exception of a library is its answer
            answer = {"error": traceback.format_exc()[-1500:]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
