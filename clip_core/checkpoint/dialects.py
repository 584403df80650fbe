"""How other libraries name and lay out the rows of the weight table. Data: pairs of names and an operation.

A dialect states one direction, canonical -> foreign. Reading uses the same pairs the other way round. `{i}` is the
layer's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

from ..errors import CheckpointError
from ..weights import Weight, weight_table
from .ops import OPS
from .tensor import Tensor

MAX_LAYERS = 512


class Rule(NamedTuple):
    """One foreign tensor and the canonical ones that it holds (three for a fused projection)."""

    canonical: tuple[str, ...]
    foreign: str
    op: str


@dataclass(frozen=True)
class Dialect:
    """The naming of one library.

    Attributes:
        modules: canonical module -> foreign module, longest match first; what follows stays.
        leaves: (kind, leaf) -> (foreign leaf, operation).
        exact: canonical name -> (foreign name, operation), before everything else. The three of a fused projection
            name the same foreign tensor.
        separator: between the parts of a foreign name.
        suffix: after every foreign name.
        strip: what is left off the front of canonical names (the flat layout of transformers >= 5.6).
        towers: the towers that the dialect can hold.
        resnets: whether it has names for OpenAI's ResNet.
    """

    name: str
    modules: tuple[tuple[str, str], ...] = ()
    leaves: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    exact: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    separator: str = "."
    suffix: str = ""
    strip: str = ""
    towers: tuple[str, ...] = ("text", "vision")
    resnets: bool = True

    def rules(self, table: Mapping[str, Weight]) -> list[Rule]:
        """The rule of every row of a table."""
        found: dict[str, Rule] = {}
        for name, weight in table.items():
            if not name.startswith(self.strip):
                continue
            foreign, op = self.foreign(name, weight)
            if op == "concat3":
                first = name.rsplit(".", 2)
                parts = tuple(f"{first[0]}.{qkv}_proj.{first[2]}" for qkv in "qkv")
                found[foreign] = Rule(parts, foreign, op)
            else:
                found[foreign] = Rule((name,), foreign, op)
        return list(found.values())

    def foreign(self, name: str, weight: Weight) -> tuple[str, str]:
        """(foreign name, operation) of one row."""
        pattern, layer = _generalise(name)
        if pattern in self.exact:
            foreign, op = self.exact[pattern]
            return foreign.replace("{i}", layer) + self.suffix, op
        module = pattern.removesuffix(f".{weight.leaf}") if weight.leaf else pattern
        module = module.removeprefix(self.strip)
        leaf, op = self.leaves.get((weight.kind, weight.leaf), (weight.leaf, "identity"))
        for own, other in self.modules:
            if module == own or module.startswith(own + "."):
                module = other + module[len(own) :]
                break
        foreign = f"{module}.{leaf}" if leaf else module
        return foreign.replace("{i}", layer).replace(".", self.separator).replace("\0", ".") + self.suffix, op


def _generalise(name: str) -> tuple[str, str]:
    """'a.layers.3.b' -> ('a.layers.{i}.b', '3')."""
    head, found, tail = name.partition(".layers.")
    if not found:
        return name, ""
    layer, _, rest = tail.partition(".")
    return f"{head}.layers.{{i}}.{rest}", layer


@lru_cache(maxsize=64)
def skeleton(text_layers: int, vision_layers: int, resnet: bool = False) -> Mapping[str, Weight]:
    """The weight table with that many layers; its shapes mean nothing. resnet: with so many blocks in each stage."""

    def tower(layers: int) -> SimpleNamespace:
        sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"), 1)
        sizes |= dict.fromkeys(("num_attention_heads", "image_size", "patch_size", "num_channels"), 1)
        return SimpleNamespace(**sizes, num_hidden_layers=layers, pruned_heads={})

    vision = tower(vision_layers)
    if resnet:
        vision.__dict__.update(model_type="clip_resnet_vision_model", layers=[vision_layers] * 4, width=1)
    config = SimpleNamespace(text_config=tower(text_layers), vision_config=vision, projection_dim=1)
    return weight_table(config, "full")


def _fused(canonical: str, foreign: str) -> dict[str, tuple[str, str]]:
    return {
        f"{canonical}.{qkv}_proj.{leaf}": (f"{foreign}.in_proj_{leaf}", "concat3")
        for qkv in "qkv"
        for leaf in ("weight", "bias")
    }


def _openai(name: str, text: str) -> Dialect:
    """OpenAI's names. `text` goes before those of the text tower (CustomTextCLIP has them apart)."""
    layers, blocks = "encoder.layers.{i}", "transformer.resblocks.{i}"
    towers = (("text_model", text), ("vision_model", "visual."))
    modules: list[tuple[str, str]] = []
    exact: dict[str, tuple[str, str]] = {}
    for tower, prefix in towers:
        modules += [
            (f"{tower}.{layers}.{own}", f"{prefix}{blocks}.{other}")
            for own, other in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            )
        ]
        exact |= _fused(f"{tower}.{layers}.self_attn", f"{prefix}{blocks}.attn")
        exact[f"{tower}.embeddings.position_embedding.weight"] = (f"{prefix}positional_embedding", "identity")
    modules += [
        ("text_model.embeddings.token_embedding", f"{text}token_embedding"),
        ("text_model.final_layer_norm", f"{text}ln_final"),
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding", "visual.conv1"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
        ("vision_model", "visual"),  # a ResNet's are OpenAI's names here, too
    ]
    exact |= {
        "text_projection.weight": (f"{text}text_projection", "transpose"),
        "visual_projection.weight": ("visual.proj", "transpose"),
        "logit_scale": ("logit_scale", "scalar"),
    }
    return Dialect(name, tuple(modules), {}, exact)


_KEYS_KERAS = {
    ("linear", "weight"): ("kernel", "transpose"),
    ("conv", "weight"): ("kernel", "HWIO"),
    ("norm", "weight"): ("gamma", "identity"),
    ("norm", "bias"): ("beta", "identity"),
    ("batch_norm", "weight"): ("gamma", "identity"),
    ("batch_norm", "bias"): ("beta", "identity"),
    ("batch_norm", "running_mean"): ("moving_mean", "identity"),
    ("batch_norm", "running_var"): ("moving_variance", "identity"),
    ("embedding", "weight"): ("embeddings", "identity"),
}

HF = Dialect("hf", exact={"logit_scale": ("logit_scale", "scalar")})
HF_FLAT_TEXT = Dialect("hf-flat", strip="text_model.", towers=("text",), resnets=False)
HF_FLAT_VISION = Dialect("hf-flat", strip="vision_model.", towers=("vision",), resnets=False)
OPENAI = _openai("openai", "")
OPEN_CLIP_CUSTOM = _openai("open_clip-custom", "text.")
TF = Dialect(
    "tf",
    # \0 stands for a dot that is no separator: HF's Keras layers are called `layers_._3`
    modules=tuple(
        (f"{tower}.encoder.layers.{{i}}", f"{tower}.encoder.layers_\0_{{i}}")
        for tower in ("text_model", "vision_model")
    ),
    leaves=_KEYS_KERAS,
    exact={
        "text_model.embeddings.token_embedding.weight": ("text_model/embeddings/token_embedding/weight", "identity"),
        "logit_scale": ("logit_scale", "scalar1"),
    },
    separator="/",
    suffix=":0",
)
FLAX = Dialect(
    "flax",
    leaves={
        ("linear", "weight"): ("kernel", "transpose"),
        ("conv", "weight"): ("kernel", "HWIO"),
        ("norm", "weight"): ("scale", "identity"),
        ("batch_norm", "weight"): ("scale", "identity"),
        ("batch_norm", "running_mean"): ("mean", "identity"),
        ("batch_norm", "running_var"): ("var", "identity"),
        ("embedding", "weight"): ("embedding", "identity"),
    },
    exact={"logit_scale": ("logit_scale", "scalar")},
)


def _kerashub() -> Dialect:
    exact: dict[str, tuple[str, str]] = {
        "text_model.embeddings.token_embedding.weight": (
            "layers/clip_text_encoder/layers/token_and_position_embedding/token_embedding/vars/0",
            "identity",
        ),
        "text_model.embeddings.position_embedding.weight": (
            "layers/clip_text_encoder/layers/token_and_position_embedding/position_embedding/vars/0",
            "identity",
        ),
        "vision_model.embeddings.class_embedding": (
            "layers/clip_vision_encoder/layers/clip_vision_embedding/vars/0",
            "identity",
        ),
        "vision_model.embeddings.patch_embedding.weight": (
            "layers/clip_vision_encoder/layers/clip_vision_embedding/patch_embedding/vars/0",
            "HWIO",
        ),
        "vision_model.embeddings.position_embedding.weight": (
            "layers/clip_vision_encoder/layers/clip_vision_embedding/position_embedding/vars/0",
            "identity",
        ),
        "visual_projection.weight": ("layers/dense/vars/0", "transpose"),
        "text_projection.weight": ("layers/dense_1/vars/0", "transpose"),
        "logit_scale": ("layers/clip_head/vars/0", "scalar"),
    }
    for module, other in (
        ("text_model.final_layer_norm", "layers/clip_text_encoder/layers/layer_normalization"),
        ("vision_model.pre_layrnorm", "layers/clip_vision_encoder/layers/layer_normalization"),
        ("vision_model.post_layernorm", "layers/clip_vision_encoder/layers/layer_normalization_1"),
    ):
        exact |= _vars(module, other, "identity", "identity")
    for tower in ("text", "vision"):
        own = f"{tower}_model.encoder.layers.{{i}}"
        other = f"layers/clip_{tower}_encoder/layers/clip_encoder_layer{{i}}"  # layer 0 has no number
        for name, op in (("query", "heads_out"), ("key", "heads_out"), ("value", "heads_out")):
            exact |= _vars(f"{own}.self_attn.{name[0]}_proj", f"{other}/attention/{name}_dense", op, "heads_bias")
        exact |= _vars(f"{own}.self_attn.out_proj", f"{other}/attention/output_dense", "heads_in", "identity")
        exact |= _vars(f"{own}.mlp.fc1", f"{other}/dense_1", "transpose", "identity")
        exact |= _vars(f"{own}.mlp.fc2", f"{other}/dense_2", "transpose", "identity")
        for n in "12":
            exact |= _vars(f"{own}.layer_norm{n}", f"{other}/layer_norm_{n}", "identity", "identity")
    return _KerasHub("kerashub", exact=exact, resnets=False)


def _vars(module: str, other: str, weight_op: str, bias_op: str) -> dict[str, tuple[str, str]]:
    return {f"{module}.weight": (f"{other}/vars/0", weight_op), f"{module}.bias": (f"{other}/vars/1", bias_op)}


class _KerasHub(Dialect):
    """Keras numbers its objects `x`, `x_1`, `x_2`."""

    def foreign(self, name: str, weight: Weight) -> tuple[str, str]:
        pattern, layer = _generalise(name)
        foreign, op = self.exact[pattern]
        return foreign.replace("{i}", "" if layer in ("", "0") else f"_{layer}"), op


def _gguf() -> Dialect:
    """clip.cpp's short names; its layouts are PyTorch's."""
    parts = [("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("out_proj", "attn_out")]
    parts = [(f"self_attn.{own}", other) for own, other in parts]
    parts += [("layer_norm1", "ln1"), ("layer_norm2", "ln2"), ("mlp.fc1", "ffn_down"), ("mlp.fc2", "ffn_up")]
    modules = [
        (f"{tower}_model.encoder.layers.{{i}}.{own}", f"{tower[0]}.blk.{{i}}.{other}")
        for tower in ("text", "vision")
        for own, other in parts
    ]
    for tower, names in (("text", ("token", "position")), ("vision", ("class", "patch", "position"))):
        modules += [(f"{tower}_model.embeddings.{name}_embedding", f"{tower[0]}.{name}_embd") for name in names]
    modules += [("text_model.final_layer_norm", "t.post_ln"), ("vision_model.pre_layrnorm", "v.pre_ln")]
    modules += [("vision_model.post_layernorm", "v.post_ln")]
    return Dialect("gguf", tuple(modules), resnets=False)


KERASHUB = _kerashub()
GGUF = _gguf()
ALL: tuple[Dialect, ...] = (HF, HF_FLAT_TEXT, HF_FLAT_VISION, OPENAI, OPEN_CLIP_CUSTOM, TF, FLAX, KERASHUB, GGUF)


def rules(dialect: Dialect, layers: int, resnet: bool = False) -> list[Rule]:
    """All rules of a dialect for up to that many layers in each tower; resnet: its vision tower is OpenAI's ResNet."""
    if resnet and not dialect.resnets:
        raise CheckpointError(f"{dialect.name}: it has no place for a ResNet vision tower")
    return dialect.rules(skeleton(layers, layers, resnet))


def has_resnet(names: Iterable[str]) -> bool:
    """Whether names, of any dialect, are those of a CLIP with OpenAI's ResNet."""
    return any("attnpool" in name for name in names)


def anchors(dialect: Dialect) -> Iterable[tuple[str, str]]:
    """(tower, foreign name) of tensors of which every checkpoint with that tower has one."""
    for tower, name, resnet in (
        ("text", "text_model.embeddings.token_embedding.weight", False),
        ("vision", "vision_model.embeddings.patch_embedding.weight", False),
        ("vision", "vision_model.conv1.weight", True),  # OpenAI's ViT has it under the same name
    ):
        if tower in dialect.towers and (dialect.resnets or not resnet):
            yield tower, dialect.foreign(name, skeleton(0, 0, resnet)[name])[0]


def layers(names: Iterable[str]) -> int:
    """How many layers of rules cover some names, of any dialect: the largest number in a name, plus 1."""
    numbers = [int(n) for name in names for n in re.findall(r"(?<![0-9])[0-9]{1,4}(?![0-9])", name)]
    return min(max(numbers, default=-1) + 1, MAX_LAYERS)


def translate(
    tensors: Mapping[str, Tensor], dialect: Dialect, heads: Mapping[str, int] | None = None, own: bool = False
) -> dict[str, Tensor]:
    """Canonical tensors lazily under a dialect's names and in its layout.

    Args:
        heads: tower ("text", "vision") -> number of heads; needed by KerasHub's layout alone.
        own: names that the dialect has no place for stay as they are.

    Raises: CheckpointError for names that the dialect has no place for, or half of a fused projection.
    """
    rest = dict(tensors)
    found: dict[str, Tensor] = {}
    for rule in rules(dialect, layers(tensors), has_resnet(tensors)):
        parts = [rest.pop(name) for name in rule.canonical if name in rest]
        if not parts:
            continue
        if len(parts) != len(rule.canonical):
            raise CheckpointError(f"{rule.foreign} needs all of {', '.join(rule.canonical)}")
        try:
            found[rule.foreign] = OPS[rule.op].forward(parts, (heads or {}).get(rule.canonical[0].partition("_")[0], 0))
        except CheckpointError as error:
            raise CheckpointError(f"{rule.canonical[0]}: {error}") from None
    if rest and not own:
        raise CheckpointError(f"{dialect.name} has no place for:\n" + "\n".join(f"+ {name}" for name in rest))
    return found | rest
