"""FlaxCLIPForImageClassification: transformers' CLIPForImageClassification (since 4.38), in Flax. It has none there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clip_core.classification import IGNORED, check_classifier, problem_type
from clip_core.config import CLIPConfig
from clip_core.inputs import resolve_flags
from clip_core.outputs import ImageClassifierOutput

from .layers import with_factor
from .modeling import Network, vision_tower
from .shortcuts import remember
from .wrappers import FlaxCLIPVisionPreTrainedModel


class FlaxCLIPForImageClassificationModule(Network):
    def setup(self) -> None:
        vision = with_factor(self.config.vision_config, self.config)
        self.vision_model = vision_tower(self, vision)
        if self.config.num_labels:
            init = nn.initializers.normal(vision.hidden_size**-0.5 * self.config.initializer_factor)
            self.classifier = nn.Dense(self.config.num_labels, dtype=self.dtype, kernel_init=init)

    def __call__(
        self,
        pixel_values: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, image_size, image_size, C], or any size with `interpolate_pos_encoding`."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        collect = flags.attentions, flags.hidden_states, True
        image = self.vision_model(pixel_values, deterministic, *collect, interpolate_pos_encoding)
        logits = image.last_hidden_state[:, 1:].mean(1)
        logits = self.classifier(logits) if self.config.num_labels else logits
        out = ImageClassifierOutput(None, logits, image.hidden_states, image.attentions)
        return out if flags.return_dict else out.to_tuple()


class FlaxCLIPForImageClassification(FlaxCLIPVisionPreTrainedModel):
    """The vision tower and a classifier of `config.num_labels` labels (`id2label` names them); 0: none.

    Returns ImageClassifierOutput: logits [B, num_labels], of the mean of the last layer's patch tokens, without the
    class token and without a norm; `loss` with labels. A file without `classifier` weights (a CLIP to fine-tune) leaves
    them freshly drawn, with a warning.
    """

    config_class = CLIPConfig
    module_class = FlaxCLIPForImageClassificationModule
    weight_scope = "vision"

    def __init__(self, config: CLIPConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        check_classifier(self.config)

    @property
    def _tower_config(self) -> Any:
        return self.config.vision_config

    def __call__(
        self,
        pixel_values: Any,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
        labels: Any = None,
    ) -> Any:
        """pixel_values [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`.

        labels: integers [B] (below `num_labels`; -100 is passed over), numbers [B, num_labels] of 0 to 1 for several
        labels a picture, or any numbers for a regression: see `clip_core.classification.problem_type`.
        """
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        asked = output_attentions, output_hidden_states, True
        out = super().__call__(pixel_values, params, dropout_rng, train, *asked, interpolate_pos_encoding)
        if labels is not None:
            loss = classification_loss(out.logits, labels, self.config)
            out = ImageClassifierOutput(loss, out.logits, out.hidden_states, out.attentions)
        return out if flags.return_dict else out.to_tuple()


def classification_loss(logits: jax.Array, labels: Any, config: Any) -> jax.Array:
    """The mean loss of logits [B, num_labels], by the config's problem type: mean squared error, cross-entropy, or
    binary cross-entropy over all labels. In float32 at least."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    kind = problem_type(config, labels.dtype.kind in "iu")
    if kind == "single_label_classification":
        labels = jnp.asarray(labels, jnp.int32).reshape(-1)
        counted = labels != IGNORED
        chosen = jnp.where(counted, labels, 0)
        rows = jax.nn.log_softmax(logits.reshape(-1, config.num_labels))
        losses = -jnp.take_along_axis(rows, chosen[:, None], axis=1)[:, 0]
        return jnp.sum(losses * counted) / jnp.sum(counted)
    labels = jnp.asarray(labels, logits.dtype)
    if kind == "regression":
        return jnp.square(logits - labels.reshape(logits.shape)).mean()
    return (jax.nn.softplus(logits) - labels * logits).mean()


remember(globals())
