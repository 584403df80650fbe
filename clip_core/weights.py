"""THE weight table: every canonical name, its kind, and its shape in config terms.

Canonical names and layouts are those of transformers' nested PyTorch files: `text_model.…`, `vision_model.…`,
`text_projection.weight`, `visual_projection.weight`, `logit_scale`; linear kernels [out, in], convolutions OIHW.
Backends and foreign checkpoint dialects are derived from this table; nothing guesses a layout from a rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from .errors import CheckpointError


class Weight(NamedTuple):
    """One row of the expanded table.

    kind: linear | conv | norm | embedding: a layer, of which `leaf` names the part (weight or bias);
    batch_norm: a norm with running statistics, whose leaves are weight, bias, running_mean, running_var and
    num_batches_tracked (an integer);
    bare: a parameter that belongs to no layer (class embedding, logit scale).
    """

    kind: str
    leaf: str
    shape: tuple[int, ...]


# Which parts a model class has. "full" is CLIPModel; the projection variants hold one tower and its projection.
SCOPES: dict[str, tuple[str, ...]] = {
    "full": ("text", "text_projection", "vision", "visual_projection", "logit_scale"),
    "text": ("text",),
    "text_projection": ("text", "text_projection"),
    "vision": ("vision",),
    "vision_projection": ("vision", "visual_projection"),
}

# (name, kind, shape). D hidden, F MLP width, P projection, V vocabulary, T text positions, N image positions,
# C channels, K patch. Linear shapes are [out, in]. A leading "-" on the kind: the layer has no bias.
_LAYER = (
    ("self_attn.k_proj", "linear", "DD"),
    ("self_attn.v_proj", "linear", "DD"),
    ("self_attn.q_proj", "linear", "DD"),
    ("self_attn.out_proj", "linear", "DD"),
    ("layer_norm1", "norm", "D"),
    ("mlp.fc1", "linear", "FD"),
    ("mlp.fc2", "linear", "DF"),
    ("layer_norm2", "norm", "D"),
)
_PARTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "text": (
        ("text_model.embeddings.token_embedding", "embedding", "VD"),
        ("text_model.embeddings.position_embedding", "embedding", "TD"),
        ("text_model.encoder.layers", "layers", ""),
        ("text_model.final_layer_norm", "norm", "D"),
    ),
    "vision": (
        ("vision_model.embeddings.class_embedding", "bare", "D"),
        ("vision_model.embeddings.patch_embedding", "-conv", "DCKK"),
        ("vision_model.embeddings.position_embedding", "embedding", "ND"),
        ("vision_model.pre_layrnorm", "norm", "D"),  # the typo is the published name
        ("vision_model.encoder.layers", "layers", ""),
        ("vision_model.post_layernorm", "norm", "D"),
    ),
    "text_projection": (("text_projection", "-linear", "PD"),),
    "visual_projection": (("visual_projection", "-linear", "PD"),),
    "logit_scale": (("logit_scale", "bare", ""),),
}
# OpenAI's ModifiedResNet under its own names: the stem, blocks of four stages, and attention that pools and projects,
# in place of "vision" and "visual_projection". W a stage's width, I what comes in, E what goes out.
_STEM = (("conv1", "-conv", "SC33"), ("conv2", "-conv", "SS33"), ("conv3", "-conv", "WS33"))
_BLOCK = (("conv1", "-conv", "WI11"), ("conv2", "-conv", "WW33"), ("conv3", "-conv", "EW11"))
_SHORTCUT = (("downsample.0", "-conv", "EI11"), ("downsample.1", "batch_norm", "E"))
_POOL = (
    ("positional_embedding", "bare", "ND"),
    ("k_proj", "linear", "DD"),
    ("q_proj", "linear", "DD"),
    ("v_proj", "linear", "DD"),
    ("c_proj", "linear", "PD"),
)
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def weight_table(config: Any, scope: str = "full") -> dict[str, Weight]:
    """Canonical name -> Weight, in the order of transformers' modules.

    Args:
        config: CLIPConfig for "full"; CLIPConfig, or the tower's own config, for a tower's scope. In a CLIPConfig the
            top-level `projection_dim` sizes the projections; alone, the tower's does.
        scope: a key of `SCOPES`.
    """
    table: dict[str, Weight] = {}
    for part in SCOPES[scope]:
        if part.startswith("vis") and is_resnet(config):
            table.update(_resnet(config) if part == "vision" else {})
            continue
        sizes = _sizes(config, "vision" if part.startswith("vis") else "text")
        for name, kind, axes in _PARTS[part]:
            if kind == "layers":
                for i in range(sizes["L"]):
                    for leaf_name, leaf_kind, leaf_axes in _LAYER:
                        table.update(_rows(f"{name}.{i}.{leaf_name}", leaf_kind, leaf_axes, sizes, i))
            else:
                table.update(_rows(name, kind, axes, sizes, None))
    return table


def is_resnet(config: Any) -> bool:
    """Whether the vision tower of a config, or the tower that it is of, is OpenAI's ResNet."""
    own = getattr(config, "vision_config", config)
    return getattr(own, "model_type", "") == "clip_resnet_vision_model"


def _resnet(config: Any) -> dict[str, Weight]:
    own = getattr(config, "vision_config", config)
    width = own.width
    top = {"D": 32 * width, "P": config.projection_dim, "N": (own.image_size // 32) ** 2 + 1}
    sizes: dict[str, Any] = {"C": own.num_channels, "S": width // 2, "W": width, "1": 1, "3": 3, **top}
    table = _normed("vision_model", _STEM, sizes)
    inside = width
    for stage, blocks in enumerate(own.layers):
        sizes |= {"W": width << stage, "E": 4 * width << stage}
        for i in range(blocks):
            name = f"vision_model.layer{stage + 1}.{i}"
            sizes["I"] = inside
            table.update(_normed(name, _BLOCK, sizes))
            if i == 0:  # its width or its grid is another one than what comes in
                for leaf, kind, axes in _SHORTCUT:
                    table.update(_rows(f"{name}.{leaf}", kind, axes, sizes, None))
            inside = sizes["E"]
    for leaf, kind, axes in _POOL:
        table.update(_rows(f"vision_model.attnpool.{leaf}", kind, axes, sizes, None))
    return table


def _normed(prefix: str, convolutions: Iterable[tuple[str, str, str]], sizes: Mapping[str, Any]) -> dict[str, Weight]:
    """Convolutions `conv1`, ..., each with its batch norm, `bn1`, ..."""
    rows: dict[str, Weight] = {}
    for number, (name, kind, axes) in enumerate(convolutions, 1):
        rows |= _rows(f"{prefix}.{name}", kind, axes, sizes, None)
        rows |= _rows(f"{prefix}.bn{number}", "batch_norm", axes[0], sizes, None)
    return rows


def _sizes(config: Any, tower: str) -> dict[str, Any]:
    own = getattr(config, f"{tower}_config", config)
    sizes = {
        "D": own.hidden_size,
        "F": own.intermediate_size,
        "L": own.num_hidden_layers,
        "P": config.projection_dim,
        "pruned": {int(i): len(set(heads)) for i, heads in (own.pruned_heads or {}).items()},
        "head": own.hidden_size // own.num_attention_heads,
    }
    if tower == "text":
        return {**sizes, "V": own.vocab_size, "T": own.max_position_embeddings}
    positions = (own.image_size // own.patch_size) ** 2 + 1
    return {**sizes, "N": positions, "C": own.num_channels, "K": own.patch_size}


def _rows(name: str, kind: str, axes: str, sizes: Mapping[str, Any], layer: int | None) -> dict[str, Weight]:
    shape = tuple(sizes[axis] for axis in axes)
    if kind == "bare":
        return {name: Weight("bare", "", shape)}
    if kind == "batch_norm":
        return {f"{name}.{leaf}": Weight(kind, leaf, () if is_count(leaf) else shape) for leaf in BATCH_NORM}
    removed = 0 if layer is None else sizes["pruned"].get(layer, 0) * sizes["head"]
    if removed and ".self_attn." in name:  # pruned heads shorten the inner side of the four projections
        inner = shape[0] - removed
        shape = (shape[0], inner) if name.endswith("out_proj") else (inner, shape[1])
    rows = {f"{name}.weight": Weight(kind.lstrip("-"), "weight", shape)}
    if kind in ("linear", "norm"):
        rows[f"{name}.bias"] = Weight(kind, "bias", (shape[0],))
    return rows


def in_scope(name: str, scope: str) -> bool:
    """Whether a canonical name belongs to a scope, whatever the config."""
    prefixes = {"text": "text_model.", "vision": "vision_model."}
    return any(name.startswith(prefixes.get(part, part)) for part in SCOPES[scope])


def is_ignorable(name: str) -> bool:
    """Entries that files may hold and no model needs: the `position_ids` buffers saved until transformers 4.31."""
    return name.endswith("position_ids")


def is_count(name: str) -> bool:
    """Whether it is a batch norm's count of batches: the only weight that is an integer. Nothing is computed by it."""
    return name.endswith("num_batches_tracked")


class Difference(NamedTuple):
    """What a strict two-sided comparison found. Each list is sorted as the table or the file is."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # name, found, wanted

    def report(self) -> str:
        lines = [f"- {name}" for name in self.missing] + [f"+ {name}" for name in self.unexpected]
        lines += [f"{name}: got {tuple(got)}, want {tuple(want)}" for name, got, want in self.mismatched]
        return "\n".join(lines)


def compare(found: Mapping[str, Any], table: Mapping[str, Weight], ignore: Collection[str] = ()) -> Difference:
    """Both sides of names and shapes: `found` maps a canonical name to anything with a `shape`."""
    missing = [name for name in table if name not in found]
    unexpected = [n for n in found if n not in table and not is_ignorable(n) and n not in ignore]
    mismatched = [
        (name, tuple(found[name].shape), tuple(weight.shape))
        for name, weight in table.items()
        if name in found and tuple(found[name].shape) != tuple(weight.shape)
    ]
    return Difference(missing, unexpected, mismatched)


def check(found: Mapping[str, Any], table: Mapping[str, Weight], source: str, ignore: Iterable[str] = ()) -> None:
    """Raise CheckpointError listing every difference (`- missing`, `+ unexpected`, `name: got, want`)."""
    difference = compare(found, table, frozenset(ignore))
    if any(difference):
        raise CheckpointError(f"{source}: the weights are not those of this model:\n{difference.report()}")
