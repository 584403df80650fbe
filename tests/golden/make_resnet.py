"""Writes checkpoints/resnet/: a small CLIP with OpenAI's ResNet, by the real libraries, and what they compute of it.

    python make_resnet.py [FOLDER] where open_clip_torch 3.3.0 and OpenAI's clip package can be imported

`tiny`, the fixture (OpenAI's own code takes a head for every 64 numbers, so it is no smaller):
    openai.pt           OpenAI's TorchScript archive, traced; convolutions and products in float16
    open_clip/          open_clip_model.safetensors and open_clip_config.json
    outputs.npz         pixels, ids; OpenAI's and open_clip's embeddings, logits and gradients in evaluation mode,
                        float32; embeddings and running statistics of a step in training mode
FOLDER/RN50.pt, ...     with random weights, the sizes of RN50 to RN50x64, beside what OpenAI's code computes: not kept.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.peers import stub_torchvision

stub_torchvision()

import clip.model  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

GOLDEN = Path(__file__).parent / "checkpoints" / "resnet"
TINY = {
    "embed_dim": 24,
    "image_resolution": 64,
    "vision_layers": (1, 2, 1, 1),
    "vision_width": 4,
    "vision_patch_size": None,
    "context_length": 12,
    "vocab_size": 100,
    "transformer_width": 64,
    "transformer_heads": 1,
    "transformer_layers": 1,
}
PUBLISHED = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": (512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, 1024),
}


def drawn(sizes, seed=0):
    """OpenAI's model with weights that leave no part idle: running statistics and last norms as after training."""
    torch.manual_seed(seed)
    model = clip.model.CLIP(**sizes)
    for name, value in model.named_parameters():
        if ".bn" in name or "downsample.1" in name:
            value.data = 0.5 + torch.rand_like(value) if name.endswith("weight") else 0.2 * torch.randn_like(value)
        elif name.endswith("bias"):
            value.data = 0.1 * torch.randn_like(value)
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(0.3 * torch.randn_like(value))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand_like(value))
        elif name.endswith("num_batches_tracked"):
            value.fill_(123456789)
    return model.float().eval()


def inputs(sizes, pictures=3):
    rng = np.random.default_rng(1)
    side = sizes["image_resolution"]
    pixels = rng.normal(size=(pictures, 3, side, side)).astype(np.float32)
    ids = rng.integers(2, sizes["vocab_size"] - 2, (2, sizes["context_length"]))
    ids[0, 5:], ids[1, -1] = 0, sizes["vocab_size"] - 1
    ids[0, 5] = sizes["vocab_size"] - 1
    return torch.from_numpy(pixels), torch.from_numpy(ids)


def of_open_clip(model, sizes):
    vision = {key: sizes[f"vision_{key}"] for key in ("layers", "width", "patch_size")}
    vision = {"image_size": sizes["image_resolution"], **vision, "layers": list(vision["layers"])}
    text = {key: sizes[key] for key in ("context_length", "vocab_size")}
    text |= {key: sizes[f"transformer_{key}"] for key in ("width", "heads", "layers")}
    config = {"embed_dim": sizes["embed_dim"], "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    other = open_clip.model.CLIP(**{**config, "vision_cfg": vision, "text_cfg": text}).eval()
    other.load_state_dict(model.state_dict())
    return other, config


def tiny():
    model = drawn(TINY)
    pixels, ids = inputs(TINY)
    other, config = of_open_clip(model, TINY)
    (GOLDEN / "open_clip").mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in other.state_dict().items()}
    save_file(state, GOLDEN / "open_clip" / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}}
    (GOLDEN / "open_clip" / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    stored = {"pixels": pixels.numpy(), "ids": ids.numpy(), **_computed(model, pixels, ids)}
    with torch.no_grad():
        stored["open_clip_image"] = other.encode_image(pixels).numpy()
        stored["open_clip_text"] = other.encode_text(ids).numpy()
    np.savez_compressed(GOLDEN / "outputs.npz", **stored)
    _archive(drawn(TINY), pixels, ids, GOLDEN / "openai.pt")


def _computed(model, pixels, ids):
    """Outputs and gradients in evaluation mode; a step in training mode, and the statistics behind it."""
    per_image, _ = model(pixels, ids)
    per_image.square().mean().backward()
    out = {"logits_per_image": per_image.detach().numpy()}
    with torch.no_grad():
        out |= {"image": model.encode_image(pixels).numpy(), "text": model.encode_text(ids).numpy()}
    for name in (
        "conv1.weight",
        "bn2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.1.conv2.weight",
        "layer4.0.bn3.bias",
    ):
        out[f"gradient:visual.{name}"] = model.get_parameter(f"visual.{name}").grad.numpy()
    for name in ("positional_embedding", "q_proj.bias", "v_proj.bias", "c_proj.bias"):
        out[f"gradient:visual.attnpool.{name}"] = model.get_parameter(f"visual.attnpool.{name}").grad.numpy()
    model.zero_grad()
    model.train()
    trained = model.encode_image(pixels)
    trained.square().mean().backward()
    out["trained:image"] = trained.detach().numpy()
    out["trained:gradient:visual.conv1.weight"] = model.visual.conv1.weight.grad.numpy()
    for name in ("bn1", "layer3.0.downsample.1"):
        for leaf in ("running_mean", "running_var", "num_batches_tracked"):
            out[f"trained:visual.{name}.{leaf}"] = model.visual.get_submodule(name).get_buffer(leaf).numpy()
    model.eval()
    return out


def _archive(model, pixels, ids, path):
    """As OpenAI's own files: traced, in half precision but for norms, with three numbers beside the weights."""
    whole = {"input_resolution": "image_resolution", "context_length": "context_length", "vocab_size": "vocab_size"}
    for name, key in whole.items():
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(TINY[key]))
    traced = torch.jit.trace(model, (pixels, ids))  # in float32: this processor may not compute in halves
    clip.model.convert_weights(model)
    halves = {name for name, value in model.named_parameters() if value.dtype == torch.float16}
    for name, value in traced.named_parameters():
        value.data = value.data.half() if name in halves else value.data
    torch.jit.save(traced, path)


def published(folder, names):
    for name in names or PUBLISHED:
        embed, side, layers, width, text = PUBLISHED[name]
        sizes = {"embed_dim": embed, "image_resolution": side, "vision_layers": layers, "vision_width": width}
        sizes |= {"vision_patch_size": None, "context_length": 77, "vocab_size": 49408}
        sizes |= {"transformer_width": text, "transformer_heads": text // 64, "transformer_layers": 12}
        model = drawn(sizes)
        pixels, ids = inputs(sizes, 1)
        with torch.no_grad():
            outputs = {"image": model.encode_image(pixels).numpy(), "text": model.encode_text(ids).numpy()}
        np.savez(folder / f"{name}.npz", pixels=pixels.numpy(), ids=ids.numpy(), **outputs)
        torch.save(model.state_dict(), folder / f"{name}.pt")


if __name__ == "__main__":
    tiny()
    if sys.argv[1:]:
        published(Path(sys.argv[1]), sys.argv[2:])
