"""What the image classifiers of all backends share: which loss a config and its labels ask for.

Source of the rules: CLIPForImageClassification of transformers 4.57.6 (it came with 4.38). Difference, on purpose: a
config's `problem_type` stays as it is; there the first call with labels writes it.
"""

from __future__ import annotations

from typing import Any

from .errors import ConfigError
from .weights import is_resnet

IGNORED = -100  # a label that counts for nothing, as PyTorch's cross-entropy has it
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def problem_type(config: Any, integers: bool) -> str:
    """The config's `problem_type`; None means: one label is a regression, integers name one label of several, other
    numbers say of each label whether it fits.

    integers: whether the labels are of an integer type. Raises ConfigError for an unknown type.
    """
    stated = config.problem_type
    if stated is None:
        if config.num_labels == 1:
            return "regression"
        return "single_label_classification" if integers else "multi_label_classification"
    if stated not in PROBLEM_TYPES:
        raise ConfigError(f"CLIPConfig: problem_type: wanted one of {', '.join(PROBLEM_TYPES)}, found {stated!r}")
    return stated


def check_classifier(config: Any) -> None:
    """Raise ConfigError for a vision tower without patch tokens."""
    if is_resnet(config):
        raise ConfigError(
            "CLIPForImageClassification: vision_config: wanted a ViT, whose patch tokens are averaged, found a ResNet"
        )
