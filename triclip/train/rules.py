"""Weight decay, learning rate and locking of each parameter, decided by name."""

from __future__ import annotations

import re
from typing import Any

from clip_core.weights import Weight, weight_table

from .config import TrainConfig
from .engine import Rule

_EMBEDDINGS = ("vision_model.embeddings.", "vision_model.pre_layrnorm.", "text_model.embeddings.")
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.")


def parameter_rules(model_config: Any, config: TrainConfig) -> dict[str, Rule]:
    """Canonical name -> Rule for every parameter, with "logit_bias" (sigmoid) and "anchors" if the run has them.

    Decay: weights of linear layers, convolutions and embeddings. No decay: biases, norms, the class embedding, the
    logit scale and bias, the anchors, and names that match a pattern of `optimizer.no_decay` (`re.search`). By name,
    not by rank, because biases of stacked layers have two axes.

    Rate: BEiT's layer-wise decay. In a tower of L layers the norm and the projection above the layers have factor 1,
    layer i (from 0) `layer_decay ** (L - i)`, embeddings (with the norm before the layers) `layer_decay ** (L + 1)`.

    Locked towers (LiT) are not trained, their projection included, except the top groups of `unlocked_groups` (see
    `config.LockSection`); logit scale and bias are always trained.
    """
    patterns = [re.compile(pattern) for pattern in config.optimizer.no_decay]
    unlocked = config.model.unlocked_groups()
    rules = {}
    for name, weight in weight_table(model_config).items():
        decay = _decays(weight) and not any(pattern.search(name) for pattern in patterns)
        depth, tower = _depth(name, model_config), _tower(name)
        group = 0 if "_projection." in name else max(depth, 1)  # from the top; a tower's last norm is its last layer's
        trainable = tower not in unlocked or group < unlocked[tower]
        rules[name] = Rule(lr_scale=config.optimizer.layer_decay**depth, decay=decay, trainable=trainable)
    if config.loss.kind == "sigmoid":
        rules["logit_bias"] = Rule(lr_scale=1.0, decay=False, trainable=True)
    if config.loss.anchors is not None:
        rules["anchors"] = Rule(lr_scale=1.0, decay=False, trainable=True)
    return rules


def _decays(weight: Weight) -> bool:
    return weight.leaf == "weight" and weight.kind in ("linear", "conv", "embedding")


def _tower(name: str) -> str:
    """ "vision" or "text"; "" for the logit scale."""
    return {"vision_model": "vision", "visual_projection": "vision"}.get(
        name.partition(".")[0], "text" if name.startswith("text_") else ""
    )


def _depth(name: str, model_config: Any) -> int:
    """The number of steps of layer-wise decay between a parameter and the top of its tower."""
    if name.startswith(_EMBEDDINGS):
        tower = model_config.vision_config if name.startswith("vision") else model_config.text_config
        return tower.num_hidden_layers + 1
    layer = _LAYER.match(name)
    if layer is None:
        return 0
    tower = model_config.vision_config if layer[1] == "vision" else model_config.text_config
    return tower.num_hidden_layers - int(layer[2])
