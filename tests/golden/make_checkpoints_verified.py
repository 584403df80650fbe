"""Checks that the real libraries load the files that triclip writes, with equal outputs, and records the result.

    python make_checkpoints_verified.py write   FOLDER    triclip's own environment: one model in every layout
    python make_checkpoints_verified.py hf      FOLDER    transformers 4.37.2, 4.57.6 (each with TensorFlow and Flax)
    python make_checkpoints_verified.py hf5     FOLDER    transformers 5.23
    python make_checkpoints_verified.py open_clip FOLDER  open_clip_torch 3.3 and OpenAI's clip package
    python make_checkpoints_verified.py kerashub FOLDER   keras-hub 0.32
    python make_checkpoints_verified.py orbax   FOLDER    orbax-checkpoint

The results are in checkpoints/verified.json. The models: `tiny`, the fixtures' (make_checkpoints.py), and `wide`, with
64 numbers a head and quick_gelu, which is all that OpenAI's own code can build.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
if importlib.util.find_spec("tf_keras"):  # transformers 4.57 needs Keras 2 beside TensorFlow 2.21
    os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402

GOLDEN = Path(__file__).parent / "checkpoints"
RECORD = GOLDEN / "verified.json"
TOLERANCE = 2e-5  # float32; another framework sums in another order


def inputs(model):
    if model == "tiny":
        stored = np.load(GOLDEN / "outputs.npz")
        return stored["ids"], stored["pixels"]
    rng = np.random.default_rng(2)
    ids = rng.integers(2, 98, (3, 12))
    ids[:, -1] = 99
    return ids, rng.normal(size=(2, 3, 16, 16)).astype(np.float32)


def wanted(folder, model):
    return np.load(GOLDEN / "outputs.npz" if model == "tiny" else folder / "wide-outputs.npz")


def record(library, layout, folder, text=None, image=None, model="tiny"):
    """Compare normalised embeddings and note the largest difference."""
    differences = {}
    for name, got in (("text_embeds", text), ("image_embeds", image)):
        if got is not None:
            got = np.asarray(got, np.float32)
            got = got / np.linalg.norm(got, axis=-1, keepdims=True)
            differences[name] = float(np.abs(got - wanted(folder, model)[name]).max())
    print(library, layout, {k: f"{v:.1e}" for k, v in differences.items()})
    assert max(differences.values()) < TOLERANCE, (library, layout, differences)
    results = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    results.setdefault(library, {})[layout] = {k: float(f"{v:.2g}") for k, v in differences.items()}
    RECORD.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def write(folder):
    from clip_core.checkpoint import convert, load, save
    from clip_core.config import CLIPConfig
    from clip_core.weights import weight_table

    for to in ("hf", "hf-bin", "tf", "flax", "open_clip", "kerashub", "orbax"):
        convert(GOLDEN / "hf", folder / to, to=to)
    for to in ("hf", "hf-bin", "tf", "flax"):
        convert(GOLDEN / "hf", folder / f"{to}-sharded", to=to, shard_size="30KB")
    for tower in ("text", "vision"):
        read = load(GOLDEN / "hf", scope=tower)
        config = read.config[f"{tower}_config"] | {"model_type": f"clip_{tower}_model"}
        save(folder / f"hf-flat-{tower}", read.tensors, config, to="hf-flat")
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": 100,
            "max_position_embeddings": 12,
            "eos_token_id": 2,
            "projection_dim": 16,
        },
        vision_config={**tower, "image_size": 16, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=w.shape).astype("f4") * 0.1 for n, w in weight_table(config).items()}
    # what OpenAI's loader rounds to float16 must be exact there, or its outputs would differ
    weights = {n: a.astype("f2").astype("f4") for n, a in weights.items()}
    save(folder / "wide-hf", weights, config.to_dict())
    convert(folder / "wide-hf", folder / "wide.pt", to="openai")
    convert(folder / "wide-hf", folder / "wide-half.pt", to="openai", dtype="float16")


def hf(folder):
    import torch
    import transformers
    from transformers import CLIPModel, FlaxCLIPModel, TFCLIPModel

    library = f"transformers {transformers.__version__}"
    ids, pixels = inputs("tiny")
    for layout in ("hf", "hf-bin", "hf-sharded", "hf-bin-sharded"):
        model, info = CLIPModel.from_pretrained(folder / layout, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            out = model.eval()(torch.from_numpy(ids), torch.from_numpy(pixels))
        record(library, layout, folder, out.text_embeds, out.image_embeds)
    for layout in ("tf", "tf-sharded"):
        model, info = TFCLIPModel.from_pretrained(folder / layout, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        out = model(ids.astype("i4"), pixels)
        record(library, layout, folder, out.text_embeds, out.image_embeds)
    for layout in ("flax", "flax-sharded"):
        out = FlaxCLIPModel.from_pretrained(folder / layout)(ids, pixels)
        record(library, layout, folder, out.text_embeds, out.image_embeds)
    wide = CLIPModel.from_pretrained(folder / "wide-hf").eval()
    ids, pixels = inputs("wide")
    with torch.no_grad():
        out = wide(torch.from_numpy(ids), torch.from_numpy(pixels))
    np.savez(folder / "wide-outputs.npz", text_embeds=out.text_embeds, image_embeds=out.image_embeds)


def hf5(folder):
    import torch
    import transformers
    from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel

    library = f"transformers {transformers.__version__}"
    ids, pixels = (torch.from_numpy(a) for a in inputs("tiny"))
    for layout in ("hf", "hf-sharded"):
        model, info = CLIPModel.from_pretrained(folder / layout, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            out = model.eval()(ids, pixels)
        record(library, layout, folder, out.text_embeds, out.image_embeds)
    full = model
    with torch.no_grad():
        text, info = CLIPTextModel.from_pretrained(folder / "hf-flat-text", output_loading_info=True)
        assert not any(info.values()), info
        record(library, "hf-flat-text", folder, full.text_projection(text.eval()(ids).pooler_output))
        vision, info = CLIPVisionModel.from_pretrained(folder / "hf-flat-vision", output_loading_info=True)
        assert not any(info.values()), info
        record(library, "hf-flat-vision", folder, None, full.visual_projection(vision.eval()(pixels).pooler_output))


def open_clip(folder):
    import open_clip as library
    import torch
    from clip.model import build_model

    def outputs(model, name, layout, kind):
        ids, pixels = (torch.from_numpy(a) for a in inputs(kind))
        with torch.no_grad():
            text, image = model.eval().encode_text(ids), model.encode_image(pixels)
        record(name, layout, folder, text, image, kind)

    version = f"open_clip {library.__version__}"
    model = library.create_model(f"local-dir:{folder / 'open_clip'}")
    outputs(model, version, "open_clip", "tiny")
    for layout in ("wide.pt", "wide-half.pt"):
        outputs(
            library.load_openai_model(str(folder / layout), precision="fp32", device="cpu"), version, layout, "wide"
        )
        state = torch.load(folder / layout, weights_only=True)
        outputs(build_model(state).float(), "clip (OpenAI), build_model", layout, "wide")


def kerashub(folder):
    import keras_hub
    from keras import ops

    model = keras_hub.models.CLIPBackbone.from_preset(str(folder / "kerashub"))
    ids, pixels = inputs("tiny")
    text, image = model.get_text_embeddings(ids), model.get_vision_embeddings(pixels.transpose(0, 2, 3, 1))
    name = f"keras-hub {keras_hub.__version__}"
    record(name, "kerashub", folder, ops.convert_to_numpy(text), ops.convert_to_numpy(image))


def orbax(folder):
    import orbax.checkpoint as ocp

    from clip_core.checkpoint import load

    with ocp.CheckpointManager((folder / "orbax").resolve(), item_names=("text_encoder_state",)) as manager:
        restored = manager.restore(0, args=ocp.args.Composite(text_encoder_state=ocp.args.StandardRestore()))
    got = restored["text_encoder_state"]["params"]["text_projection"]["kernel"]
    worst = np.abs(np.asarray(got).T - load(GOLDEN / "hf").tensors["text_projection.weight"].numpy()).max()
    results = json.loads(RECORD.read_text())
    results[f"orbax-checkpoint {ocp.__version__}"] = {"orbax": {"text_projection": float(worst)}}
    RECORD.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    assert worst == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
