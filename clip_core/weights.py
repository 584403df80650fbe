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


def weight_table(config: Any, scope: str = "full") -> dict[str, Weight]:
    """Canonical name -> Weight, in the order of transformers' modules.

    Args:
        config: CLIPConfig for "full"; CLIPConfig, or the tower's own config, for a tower's scope. In a CLIPConfig the
            top-level `projection_dim` sizes the projections; alone, the tower's does.
        scope: a key of `SCOPES`.
    """
    table: dict[str, Weight] = {}
    for part in SCOPES[scope]:
        sizes = _sizes(config, "vision" if part.startswith("vis") else "text")
        for name, kind, axes in _PARTS[part]:
            if kind == "layers":
                for i in range(sizes["L"]):
                    for leaf_name, leaf_kind, leaf_axes in _LAYER:
                        table.update(_rows(f"{name}.{i}.{leaf_name}", leaf_kind, leaf_axes, sizes, i))
            else:
                table.update(_rows(name, kind, axes, sizes, None))
    return table


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
    removed = sizes["pruned"].get(layer, 0) * sizes["head"]
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
