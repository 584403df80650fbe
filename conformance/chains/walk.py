"""One chain: a random model converted from format to format by triclip, and the checks at its end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.checkpoint import Checkpoint, CheckpointError, convert, load
from clip_core.checkpoint.convert import checked_config

from . import reference
from .models import CLASSES, Drawn, reasons_against, values

FORMATS = ("hf", "hf-flat", "hf-bin", "tf", "flax", "openai", "open_clip", "kerashub")
SINGLE = {"hf": ".safetensors", "hf-bin": ".bin", "openai": ".pt", "open_clip": ".safetensors"}
ACTING = ("num_attention_heads", "hidden_act", "layer_norm_eps", "num_hidden_layers", "hidden_size")
ACTING += ("intermediate_size", "eos_token_id", "vocab_size", "max_position_embeddings")
ACTING += ("image_size", "patch_size", "num_channels")
TOLERANCE = 1e-6  # of the largest output; numbers only move, so what is left is float64's rounding


def step(
    here: Path,
    folder: Path,
    to: str,
    drawn: Drawn,
    rng: random.Random,
    files: float = 0.2,
    sizes: tuple[str | None, ...] = (None, "5GB", "2KB"),
    dtype: str | None = None,
) -> Path | None:
    """The next place of the chain; None where the format can't hold the model, and said so.

    files: how often a single file is written, instead of a folder, where the format has such files.
    sizes: of the largest shard, of which one is drawn.
    """
    single = to in SINGLE and rng.random() < files
    target = folder / f"model{SINGLE[to]}" if single else folder
    against = reasons_against(to, drawn.made, drawn.scope) if not single else []
    try:
        convert(here, target, to=to, dtype=dtype, shard_size=rng.choice(sizes))
    except CheckpointError as error:
        assert any(reason in str(error) for reason in against), f"{to}: {error}"
        return None
    assert not against, f"{to} took a model that it can't hold: {against}"
    return target


def acting(config: Any) -> dict[str, Any]:
    """Every field that affects the outputs, by tower."""
    towers = {key: getattr(config, key) for key in ("text_config", "vision_config") if hasattr(config, key)}
    found: dict[str, Any] = {"projection_dim": config.projection_dim} if towers else {}
    for key, part in (towers or {"": config}).items():
        found |= {f"{key}.{name}": getattr(part, name) for name in ACTING if hasattr(part, name)}
        if found[f"{key}.hidden_act"] == "gelu_new":  # two names of one function
            found[f"{key}.hidden_act"] = "gelu_pytorch_tanh"
        if not part.num_hidden_layers:  # then there are no MLPs and no heads
            for name in ("intermediate_size", "num_attention_heads", "hidden_act"):
                del found[f"{key}.{name}"]
        end, vocabulary = part.eos_token_id, getattr(part, "vocab_size", None)
        last = vocabulary is not None and end in (2, vocabulary - 1)  # two ways to say the same
        found[f"{key}.eos_token_id"] = "the last" if last else end
    return found


def at_the_end(here: Path, drawn: Drawn) -> tuple[Checkpoint, Any, float]:
    """(checkpoint, its config, largest difference of the outputs); AssertionError where an acting field differs."""
    read = load(here)
    assert read.config is not None
    made = CLASSES[drawn.scope.split("_")[0]].from_dict(checked_config(read, []))
    got, wanted = acting(made), acting(drawn.made)
    assert got == wanted, {k: (got.get(k), wanted[k]) for k in wanted if got.get(k) != wanted[k]}
    return read, made, difference(reference.outputs(made, values(dict(read.tensors)), drawn.inputs), expected(drawn))


def expected(drawn: Drawn, last_eps: float | None = None) -> dict[str, np.ndarray]:
    return reference.outputs(drawn.made, values(drawn.tensors), drawn.inputs, last_eps)


def difference(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest difference, over the largest output of its kind; infinite for other shapes or names."""
    if set(got) != set(wanted) or any(got[n].shape != wanted[n].shape for n in wanted):
        return float("inf")
    errors = [float(np.abs(got[n] - wanted[n]).max() / np.abs(wanted[n]).max()) for n in wanted]
    return max(errors) if np.isfinite(errors).all() else float("inf")
