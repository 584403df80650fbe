"""Makes the fixtures under tests/golden/checkpoints: one small CLIP as the real libraries write it.

Run in order, each part in an environment with the libraries named beside it:

    python make_checkpoints.py hf        transformers 4.37.2, torch, tensorflow-cpu 2.15.1, jax 0.4.25, flax 0.8.1
    python make_checkpoints.py hf57      transformers 4.57.6, jax, flax          (flax safetensors)
    python make_checkpoints.py hf5       transformers 5.23, torch                (the flat layout)
    python make_checkpoints.py open_clip open_clip_torch 3.3, torch
    python make_checkpoints.py kerashub  keras-hub 0.32, tensorflow 2.21, keras 3.15
    python make_checkpoints.py orbax     orbax-checkpoint 0.12, jax              (MaxDiffusion's layout)

All hold the weights of `hf/model.safetensors`, so a reader is right when it gives those bits. Where a library has no
importer of its own, its parameters are set here one by one and its outputs are compared with transformers' before
anything is written, so a wrong assignment can't get into a fixture. `outputs.npz` has transformers' outputs.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1" if "hf57" in sys.argv else "0")

import numpy as np  # noqa: E402

ROOT = Path(__file__).parent / "checkpoints"
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100}
TEXT |= {"max_position_embeddings": 12, "hidden_act": "gelu", "eos_token_id": 99, "bos_token_id": 98, "pad_token_id": 1}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 16,
}
VISION |= {"patch_size": 8, "hidden_act": "gelu"}
TEXT["projection_dim"] = VISION["projection_dim"] = 8  # the towers alone size their projections by these
PROJECTION = 8
TOLERANCE = 2e-5  # float32, another framework's order of sums


def inputs():
    rng = np.random.default_rng(1)
    ids = rng.integers(2, 98, (3, 12))
    ids[:, 0], ids[:, -1] = 98, 99
    return ids, rng.normal(size=(2, 3, 16, 16)).astype(np.float32)


def reference():
    from safetensors.numpy import load_file

    return load_file(ROOT / "hf" / "model.safetensors")


def compare(text, image):
    wanted = np.load(ROOT / "outputs.npz")
    for got, name in ((text, "text_embeds"), (image, "image_embeds")):
        got = got / np.linalg.norm(got, axis=-1, keepdims=True)
        worst = np.abs(got - wanted[name]).max()
        print(f"  {name}: largest difference from transformers {worst:.2e}")
        assert worst < TOLERANCE, name


def fresh(name):
    path = ROOT / name
    shutil.rmtree(path, ignore_errors=True)
    return path


def tidy():
    """Leave out what depends on the machine: absolute paths in configs, empty extras."""
    import json

    for path in ROOT.rglob("generation_config.json"):
        path.unlink()
    for path in ROOT.rglob("config.json"):
        content = json.loads(path.read_text())
        if content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2) + "\n")
    for path in ROOT.rglob("commit_success.txt"):
        path.write_text("")


def make_hf():
    import torch
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextModelWithProjection,
        CLIPVisionModel,
        FlaxCLIPModel,
        FlaxCLIPTextModel,
        TFCLIPModel,
        TFCLIPTextModel,
    )

    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=PROJECTION)).eval()
    with torch.no_grad():  # initialisation leaves biases at 0, norms at 1: make every number tell
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    hf = fresh("hf")
    model.save_pretrained(hf)
    ids, pixels = inputs()
    with torch.no_grad():
        out = model(torch.from_numpy(ids), torch.from_numpy(pixels))
    np.savez(ROOT / "outputs.npz", ids=ids, pixels=pixels, text_embeds=out.text_embeds, image_embeds=out.image_embeds)

    model.save_pretrained(fresh("hf-bin"), safe_serialization=False)
    model.save_pretrained(fresh("hf-sharded"), max_shard_size="30KB")
    model.save_pretrained(fresh("hf-bin-sharded"), max_shard_size="30KB", safe_serialization=False)
    half = CLIPModel.from_pretrained(hf, torch_dtype=torch.float16)
    half.save_pretrained(fresh("hf-variant"), variant="fp16")
    half.save_pretrained(ROOT / "hf-variant", variant="small", max_shard_size="15KB")
    CLIPModel.from_pretrained(hf, torch_dtype=torch.bfloat16).save_pretrained(fresh("hf-bf16"))
    CLIPTextModelWithProjection.from_pretrained(hf).save_pretrained(fresh("hf-text-projection"))
    CLIPVisionModel.from_pretrained(hf).save_pretrained(fresh("hf-vision"))
    legacy = fresh("hf-legacy")
    legacy.mkdir()
    state = dict(model.state_dict())  # what transformers < 4.31 with torch < 1.6 wrote
    state["text_model.embeddings.position_ids"] = torch.arange(12).expand((1, -1))
    state["vision_model.embeddings.position_ids"] = torch.arange(5).expand((1, -1))
    torch.save(state, legacy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    shutil.copy(hf / "config.json", legacy)

    TFCLIPModel.from_pretrained(hf).save_pretrained(fresh("tf"))
    TFCLIPModel.from_pretrained(hf).save_pretrained(fresh("tf-sharded"), max_shard_size="30KB")
    TFCLIPModel.from_pretrained(hf).save_pretrained(fresh("tf-safetensors"), safe_serialization=True)
    TFCLIPTextModel.from_pretrained(hf).save_pretrained(fresh("tf-text"))
    flax = FlaxCLIPModel.from_pretrained(hf, from_pt=True)
    flax.save_pretrained(fresh("flax"))
    flax.save_pretrained(fresh("flax-sharded"), max_shard_size="30KB")
    flax.save_pretrained(fresh("flax-bf16"), params=flax.to_bf16(flax.params))
    FlaxCLIPTextModel.from_pretrained(hf, from_pt=True).save_pretrained(fresh("flax-text"))


def make_hf57():
    from transformers import FlaxCLIPModel

    FlaxCLIPModel.from_pretrained(ROOT / "flax").save_pretrained(fresh("flax-safetensors"), safe_serialization=True)
    (ROOT / "flax-safetensors" / "flax_model.msgpack").unlink(missing_ok=True)


def make_hf5():
    from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel

    full = CLIPModel.from_pretrained(ROOT / "hf")
    for cls, tower, config in (
        (CLIPTextModel, full.text_model, full.config.text_config),
        (CLIPVisionModel, full.vision_model, full.config.vision_config),
    ):
        model = cls(config)  # a fresh one saves without its prefix
        model.load_state_dict(tower.state_dict())
        model.save_pretrained(fresh("hf-flat-" + ("text" if cls is CLIPTextModel else "vision")))


OPEN_CLIP = {
    "embed_dim": PROJECTION,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 24, "patch_size": 8, "head_width": 8, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2, "mlp_ratio": 2.0},
}


def openai_state(reference):
    """OpenAI's names for the reference, written out by hand."""
    import torch

    hf = {name: torch.from_numpy(array.copy()) for name, array in reference.items()}
    state = {
        "positional_embedding": hf["text_model.embeddings.position_embedding.weight"],
        "text_projection": hf["text_projection.weight"].t().contiguous(),
        "logit_scale": hf["logit_scale"],
        "visual.class_embedding": hf["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": hf["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": hf["visual_projection.weight"].t().contiguous(),
        "visual.conv1.weight": hf["vision_model.embeddings.patch_embedding.weight"],
        "token_embedding.weight": hf["text_model.embeddings.token_embedding.weight"],
    }
    for other, own in (
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        for leaf in ("weight", "bias"):
            state[f"{other}.{leaf}"] = hf[f"{own}.{leaf}"]
    for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
        for i in range(2):
            own, other = f"{tower}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
            for leaf in ("weight", "bias"):
                fused = [hf[f"{own}.self_attn.{n}_proj.{leaf}"] for n in "qkv"]
                state[f"{other}.attn.in_proj_{leaf}"] = torch.cat(fused)
                state[f"{other}.attn.out_proj.{leaf}"] = hf[f"{own}.self_attn.out_proj.{leaf}"]
                state[f"{other}.ln_1.{leaf}"] = hf[f"{own}.layer_norm1.{leaf}"]
                state[f"{other}.ln_2.{leaf}"] = hf[f"{own}.layer_norm2.{leaf}"]
                state[f"{other}.mlp.c_fc.{leaf}"] = hf[f"{own}.mlp.fc1.{leaf}"]
                state[f"{other}.mlp.c_proj.{leaf}"] = hf[f"{own}.mlp.fc2.{leaf}"]
    return state


def make_open_clip():
    import json

    import torch
    from open_clip.model import CLIP, CustomTextCLIP, convert_weights_to_lp
    from safetensors.torch import save_file

    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    ids, pixels = inputs()
    model = CLIP(**OPEN_CLIP).eval()
    state = openai_state(reference())
    model.load_state_dict(state)
    with torch.no_grad():
        compare(model.encode_text(torch.from_numpy(ids)).numpy(), model.encode_image(torch.from_numpy(pixels)).numpy())
    folder = fresh("open_clip")
    folder.mkdir()
    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": preprocess}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))

    custom = CustomTextCLIP(**OPEN_CLIP).eval()
    names = {k: k if k.startswith("visual.") or k == "logit_scale" else f"text.{k}" for k in state}
    custom.load_state_dict({names[k]: v for k, v in state.items()})
    with torch.no_grad():
        compare(
            custom.encode_text(torch.from_numpy(ids)).numpy(), custom.encode_image(torch.from_numpy(pixels)).numpy()
        )
    folder = fresh("open_clip-custom")
    folder.mkdir()
    torch.save(custom.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))

    folder = fresh("open_clip-training")  # what open_clip_train.main saves, from a DistributedDataParallel model
    folder.mkdir()
    optimizer = torch.optim.AdamW(model.parameters())
    wrapped = {f"module.{k}": v for k, v in model.state_dict().items()}
    saved = {"epoch": 1, "name": "run", "state_dict": wrapped, "optimizer": optimizer.state_dict()}
    torch.save(saved, folder / "epoch_1.pt")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))

    folder = fresh("openai")
    folder.mkdir()
    convert_weights_to_lp(model)  # OpenAI's convert_weights: linear layers and projections to float16
    mixed = model.state_dict()
    mixed |= {"input_resolution": torch.tensor(16), "context_length": torch.tensor(12), "vocab_size": torch.tensor(100)}
    torch.save(mixed, folder / "tiny-openai.pt")
    make_jit(CLIP(**OPEN_CLIP).eval(), folder / "tiny-openai-jit.pt", ids, pixels)


def make_jit(model, path, ids, pixels):
    """A TorchScript archive, as OpenAI distributes them."""
    import torch

    class Archive(torch.nn.Module):
        """Its attributes are the model's, with the numbers that OpenAI keeps beside them."""

        def __init__(self):
            super().__init__()
            for name, child in model.named_children():
                self.add_module(name, child)
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                self.register_parameter(name, getattr(model, name))
            for name, value in (("input_resolution", 16), ("context_length", 12), ("vocab_size", 100)):
                self.register_buffer(name, torch.tensor(value))

        def forward(self, image, text):
            x = self.token_embedding(text) + self.positional_embedding
            return self.visual.conv1(image).sum() * self.logit_scale + (self.ln_final(x) @ self.text_projection).sum()

    archive = Archive()
    state = openai_state(reference())
    missing, unexpected = archive.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"input_resolution", "context_length", "vocab_size"}, (
        missing,
        unexpected,
    )
    # every submodule is traced so that the archive holds it
    torch.jit.trace(archive, (torch.from_numpy(pixels), torch.from_numpy(ids)), check_trace=False).save(str(path))


def make_kerashub():
    import keras
    import keras_hub

    hf = reference()
    vision = keras_hub.models.CLIPVisionEncoder(
        8, 24, 2, 3, 48, intermediate_activation="gelu", image_shape=(16, 16, 3)
    )
    text = keras_hub.models.CLIPTextEncoder(
        100, 16, 16, 2, 2, 32, intermediate_activation="gelu", max_sequence_length=12
    )
    model = keras_hub.models.CLIPBackbone(vision, text, PROJECTION)

    def norm(layer, name):
        layer.gamma.assign(hf[f"{name}.weight"])
        layer.beta.assign(hf[f"{name}.bias"])

    def blocks(encoder, tower, heads):
        for i, block in enumerate(encoder.encoder_layers):
            own = f"{tower}.encoder.layers.{i}"
            norm(block.layer_norm_1, f"{own}.layer_norm1")
            norm(block.layer_norm_2, f"{own}.layer_norm2")
            width = hf[f"{own}.layer_norm1.weight"].size
            for name in ("query", "key", "value"):
                dense = getattr(block.attention, f"{name}_dense")
                weight = hf[f"{own}.self_attn.{name[0]}_proj.weight"]
                dense.kernel.assign(weight.T.reshape(width, heads, width // heads))
                dense.bias.assign(hf[f"{own}.self_attn.{name[0]}_proj.bias"].reshape(heads, width // heads))
            out = block.attention.output_dense
            out.kernel.assign(hf[f"{own}.self_attn.out_proj.weight"].T.reshape(heads, width // heads, width))
            out.bias.assign(hf[f"{own}.self_attn.out_proj.bias"])
            for dense, name in ((block.dense_1, "fc1"), (block.dense_2, "fc2")):
                dense.kernel.assign(hf[f"{own}.mlp.{name}.weight"].T)
                dense.bias.assign(hf[f"{own}.mlp.{name}.bias"])

    blocks(vision, "vision_model", 3)
    blocks(text, "text_model", 2)
    norm(text.layer_norm, "text_model.final_layer_norm")
    norm(vision.pre_layer_norm, "vision_model.pre_layrnorm")
    norm(vision.layer_norm, "vision_model.post_layernorm")
    text.embedding.token_embedding.embeddings.assign(hf["text_model.embeddings.token_embedding.weight"])
    text.embedding.position_embedding.position_embeddings.assign(hf["text_model.embeddings.position_embedding.weight"])
    vision.embedding.class_embedding.assign(hf["vision_model.embeddings.class_embedding"])
    patches = hf["vision_model.embeddings.patch_embedding.weight"]
    vision.embedding.patch_embedding.kernel.assign(patches.transpose(2, 3, 1, 0))
    vision.embedding.position_embedding.embeddings.assign(hf["vision_model.embeddings.position_embedding.weight"])
    vision.embedding.position_ids.assign(np.arange(5)[None])  # KerasHub initialises them to zeros
    model.vision_projection.kernel.assign(hf["visual_projection.weight"].T)
    model.text_projection.kernel.assign(hf["text_projection.weight"].T)
    model.clip_head.logit_scale.assign(hf["logit_scale"])
    ids, pixels = inputs()
    compare(
        keras.ops.convert_to_numpy(model.get_text_embeddings(ids)),
        keras.ops.convert_to_numpy(model.get_vision_embeddings(pixels.transpose(0, 2, 3, 1))),
    )
    model.save_to_preset(str(fresh("kerashub")))
    model.save_to_preset(str(fresh("kerashub-sharded")), max_shard_size=50 / 1e6)


def make_orbax():
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from safetensors.numpy import load_file

    flat = load_file(ROOT / "flax-safetensors" / "model.safetensors")
    params: dict = {}
    for name, array in flat.items():
        if name.startswith(("text_model", "text_projection")):
            *parents, leaf = name.split(".")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = jnp.asarray(array)
    folder = fresh("orbax")
    manager = ocp.CheckpointManager(folder.resolve(), item_names=("text_encoder_state", "text_encoder_config"))
    state = {"step": jnp.asarray(0), "params": params, "opt_state": {}}
    import json

    config = json.loads((ROOT / "hf-text-projection" / "config.json").read_text())
    manager.save(
        0,
        args=ocp.args.Composite(
            text_encoder_state=ocp.args.StandardSave(state), text_encoder_config=ocp.args.JsonSave(config)
        ),
    )
    manager.wait_until_finished()
    manager.close()


if __name__ == "__main__":
    ROOT.mkdir(exist_ok=True)
    for part in sys.argv[1:]:
        globals()[f"make_{part}"]()
    tidy()
    size = sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB in {ROOT}")
