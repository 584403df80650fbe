"""Small random CLIPs over all values of v4.37's configs that affect the outputs."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_core.checkpoint import Tensor, save
from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.weights import weight_table

from .reference import ACTIVATIONS

CLASSES = {"full": CLIPConfig, "text": CLIPTextConfig, "vision": CLIPVisionConfig}
DTYPES = ("float32", "float32", "float16", "bfloat16")
FULL_ONLY = ("open_clip", "kerashub")  # which have no class for one tower, and not every value of a config
_NO_ACTIVATION = {"torch": ("selu",), "tf": ("selu", "gelu_pytorch_tanh"), "flax": ("selu", "gelu_pytorch_tanh")}
_NO_CLASS = {"tf": ("text_projection", "vision_projection"), "flax": ("vision_projection",)}


class Drawn(NamedTuple):
    """config: a config.json's content, which leaves some defaults out. scope: a key of `weights.SCOPES`."""

    config: dict[str, Any]
    scope: str
    tensors: dict[str, Tensor]
    inputs: dict[str, np.ndarray]

    @property
    def made(self) -> Any:
        return CLASSES[self.scope.split("_")[0]].from_dict(self.config)


def draw(seed: int, small: bool = False, home: str | None = None) -> Drawn:
    """The model of a seed. small: never 49,408 tokens or 12 layers. home: a kind of library that can hold it."""
    for attempt in itertools.count():
        drawn = _draw(random.Random(seed + 1_000_003 * attempt), small, home)
        if home is None or holds(home, drawn):
            return drawn
    raise AssertionError


def holds(kind: str, drawn: Drawn) -> bool:
    """Whether a library has a class for the model, its activations, and what its format can't state."""
    parts = [getattr(drawn.made, key, drawn.made) for key in ("text_config", "vision_config")]
    acts = {part.hidden_act for part in parts}
    if drawn.scope in _NO_CLASS.get(kind, ()) or acts & set(_NO_ACTIVATION.get(kind, ())):
        return False
    if kind in FULL_ONLY:
        built = all(part.num_hidden_layers for part in parts) or kind != "open_clip"  # it builds no empty tower
        return built and not reasons_against(kind, drawn.made, drawn.scope)
    return kind != "flax" or getattr(parts[1], "num_channels", 3) == 3  # its classes are built with 3


def reasons_against(to: str, config: Any, scope: str) -> list[str]:
    """Why a format can't hold a model, one of which its refusal must name. Empty: it can."""
    if to not in FULL_ONLY:
        return []
    if scope != "full":
        return ["only full models"]
    text, vision = config.text_config, config.vision_config
    acts = {text.hidden_act, vision.hidden_act}
    if to == "open_clip":
        plain = acts == {"quick_gelu"} or acts <= {"gelu", "gelu_new", "gelu_pytorch_tanh"}
        return ["hidden_act"] * (not plain) + ["num_channels"] * (vision.num_channels != 3)
    found = ["no activation"] * (not acts <= {"quick_gelu", "gelu", "relu", "selu"})
    found += ["layer_norm_eps"] * ({text.layer_norm_eps, vision.layer_norm_eps} != {1e-5})
    return found + ["eos_token_id"] * (text.eos_token_id not in (2, text.vocab_size - 1))


def _draw(rng: random.Random, small: bool, home: str | None) -> Drawn:
    scope = rng.choice(("full",) * 6 + ("text", "text_projection", "vision", "vision_projection"))
    text, vision = _text(rng, small), _vision(rng, small)
    if home in FULL_ONLY:  # else nearly all would be refused by them
        scope = "full"
        _like(home, text, vision, rng)
    if scope == "full":
        config: dict[str, Any] = {"model_type": "clip", "text_config": text, "vision_config": vision}
        config["projection_dim"] = rng.choice((3, 8, 12, 512))
        if rng.random() < 0.1:  # the form of old files, which overrides
            config["text_config_dict"] = config.pop("text_config")
    else:
        config = text if scope.startswith("text") else vision
        config["model_type"] = f"clip_{scope.split('_')[0]}_model"
    made = CLASSES[scope.split("_")[0]].from_dict(config)
    return Drawn(config, scope, _tensors(made, scope, rng), _inputs(made, rng))


def _like(home: str, text: dict[str, Any], vision: dict[str, Any], rng: random.Random) -> None:
    """Activations, and for KerasHub the epsilon, that the library has."""
    acts = rng.choice((("quick_gelu",), ("gelu", "gelu_new", "gelu_pytorch_tanh")))
    for part in (text, vision):
        part["hidden_act"] = rng.choice(acts)
        if home == "kerashub":
            part |= {"hidden_act": rng.choice(("quick_gelu", "gelu", "relu", "selu")), "layer_norm_eps": 1e-5}


def _shared(rng: random.Random, width: int, default_heads: int, small: bool) -> dict[str, Any]:
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    part = {
        "hidden_size": width,
        "intermediate_size": rng.choice((4 * width, 2 * width, width + 5, 3 * width - 1)),
        "num_hidden_layers": rng.choice((0, 1, 2, 2)),
        "num_attention_heads": rng.choice(divisors),
        "hidden_act": rng.choice(list(ACTIVATIONS)),
        "layer_norm_eps": rng.choice((1e-5, 1e-5, 1e-6, 1e-3, 1e-12)),
        "projection_dim": rng.choice((4, 8, 512)),
    }
    if rng.random() < 0.3:
        part["hidden_act"], part["layer_norm_eps"] = rng.choice(("quick_gelu", "gelu")), 1e-5  # what others can hold
    for name, default in (("hidden_act", "quick_gelu"), ("layer_norm_eps", 1e-5), ("projection_dim", 512)):
        if part[name] == default and rng.random() < 0.7 or rng.random() < 0.1:
            del part[name]
    if width % default_heads == 0 and rng.random() < 0.4:
        del part["num_attention_heads"]
    if not small and rng.random() < 0.05:
        del part["num_hidden_layers"]
    return part


def _text(rng: random.Random, small: bool) -> dict[str, Any]:
    part = _shared(rng, rng.choice((8, 16, 24, 40, 36, 30)), 8, small)
    if rng.random() < 0.1:
        part |= {"hidden_size": 256}  # a width of which a guess and the default differ
        part.pop("num_attention_heads", None)
    vocabulary = rng.choice((30, 57, 120)) if small or rng.random() < 0.9 else rng.choice((49408, 49411))
    part["vocab_size"] = vocabulary
    part["max_position_embeddings"] = rng.choice((6, 9, 17))
    end = rng.choice(("default", 2, "last", "last", "middle"))
    if end != "default":
        part["eos_token_id"] = {"last": vocabulary - 1, "middle": vocabulary // 2, 2: 2}[end]
    if vocabulary == 49408 and rng.random() < 0.5:
        del part["vocab_size"]
    return part


def _vision(rng: random.Random, small: bool) -> dict[str, Any]:
    part = _shared(rng, rng.choice((12, 24, 36, 16, 20)), 12, small)
    patch = rng.choice((4, 7, 8, 32))
    part |= {"patch_size": patch, "image_size": patch * rng.choice((1, 2, 3)) + rng.randrange(patch)}
    part["num_channels"] = rng.choice((3, 3, 3, 1, 4))
    if part["patch_size"] == 32 and rng.random() < 0.5:
        del part["patch_size"]
        if not small and rng.random() < 0.5:
            del part["image_size"]
    if part["num_channels"] == 3 and rng.random() < 0.5:
        del part["num_channels"]
    return part


def _tensors(made: Any, scope: str, rng: random.Random) -> dict[str, Tensor]:
    numbers = np.random.default_rng(rng.randrange(2**32))
    dtype = rng.choice(DTYPES)
    mixed = rng.random() < 0.15  # as OpenAI's files: half precision but for norms and embeddings
    tensors = {}
    for name, weight in weight_table(made, scope).items():
        values = numbers.normal(0, 0.3, weight.shape)
        if weight.kind == "norm" and weight.leaf == "weight":
            values = 1 + values
        own = ("float16" if weight.kind == "linear" else "float32") if mixed else dtype
        tensors[name] = Tensor.from_numpy(np.asarray(values, np.float32)).astype(own)
    return {name: Tensor.from_numpy(t.numpy(), t.dtype) for name, t in tensors.items()}


def _inputs(made: Any, rng: random.Random) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(rng.randrange(2**32))
    inputs = {}
    text, vision = getattr(made, "text_config", made), getattr(made, "vision_config", made)
    if hasattr(text, "vocab_size"):
        ids = numbers.integers(0, text.vocab_size, (4, text.max_position_embeddings))
        end = text.eos_token_id if text.eos_token_id < text.vocab_size else text.vocab_size - 1
        ids[np.arange(3), numbers.integers(0, ids.shape[1], 3)] = end
        ids[0, -1] = end
        ids[3, 1] = text.vocab_size - 1 if end == 2 else end
        inputs["ids"] = ids
    if hasattr(vision, "image_size"):
        size = (2, vision.num_channels, vision.image_size, vision.image_size)
        inputs["pixels"] = numbers.normal(size=size).astype(np.float32)
    return inputs


def values(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The numbers of tensors, in float64."""
    return {name: t.astype("float64").numpy() for name, t in tensors.items()}


def write(drawn: Drawn, folder: Path) -> None:
    """Write it in transformers' layout, with the drawn config."""
    save(folder, drawn.tensors, drawn.config)
    (folder / "config.json").write_text(json.dumps(drawn.config), encoding="utf-8", newline="\n")
