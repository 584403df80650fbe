"""CLIPForImageClassification, as transformers has it since 4.38: a linear layer on the mean of the patch tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.classification import check_classifier, problem_type
from clip_core.config import CLIPConfig
from clip_core.inputs import resolve_flags
from clip_core.outputs import ImageClassifierOutput

from .modeling import CLIPPreTrainedModel, vision_tower


class CLIPForImageClassification(CLIPPreTrainedModel):
    """The vision tower and a classifier of `config.num_labels` labels (`id2label` names them); 0: none.

    Returns ImageClassifierOutput: logits [B, num_labels], of the mean of the last layer's patch tokens, without the
    class token and without a norm; `loss` with labels. A file without `classifier` weights (a CLIP to fine-tune) leaves
    them freshly drawn, with a warning.
    """

    config_class = CLIPConfig
    weight_scope = "vision"
    main_input_name = "pixel_values"
    _has_own_parts = True

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        check_classifier(self.config)
        self.num_labels = self.config.num_labels
        vision = self.config.vision_config
        self.vision_model = vision_tower(vision)
        self.classifier = nn.Linear(vision.hidden_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and isinstance(self.classifier, nn.Linear):
            deviation = self.config.vision_config.hidden_size**-0.5 * self.config.initializer_factor
            nn.init.normal_(self.classifier.weight, std=deviation)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`.

        labels: integers [B] (below `num_labels`; -100 is passed over), numbers [B, num_labels] of 0 to 1 for several
        labels a picture, or any numbers for a regression: see `clip_core.classification.problem_type`.
        """
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        image = self.vision_model(pixel_values, flags.attentions, flags.hidden_states, True, interpolate_pos_encoding)
        logits = self.classifier(image.last_hidden_state[:, 1:].mean(dim=1))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        out = ImageClassifierOutput(loss, logits, image.hidden_states, image.attentions)
        return out if flags.return_dict else out.to_tuple()


def classification_loss(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """The mean loss of logits [B, num_labels], by the config's problem type: mean squared error, cross-entropy, or
    binary cross-entropy over all labels."""
    kind = problem_type(config, labels.dtype in (torch.long, torch.int))
    labels = labels.to(logits.device)
    if kind == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze()) if config.num_labels == 1 else F.mse_loss(logits, labels)
    if kind == "single_label_classification":
        return F.cross_entropy(logits.view(-1, config.num_labels), labels.view(-1))
    return F.binary_cross_entropy_with_logits(logits, labels)
