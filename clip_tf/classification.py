"""TFCLIPForImageClassification: transformers' CLIPForImageClassification (since 4.38), in Keras. It has none there."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from clip_core.classification import IGNORED, check_classifier, problem_type
from clip_core.config import CLIPConfig
from clip_core.outputs import ImageClassifierOutput

from .bridge import OWN_LOSS, MainLayer, by_main_layer
from .inputs import switches
from .layers import Linear, at_least_float32, dtype_of
from .modeling import TFCLIPPreTrainedModel, vision_tower


class TFCLIPForImageClassificationMainLayer(MainLayer):
    """The vision tower and a classifier on the mean of its patch tokens."""

    config_class = CLIPConfig

    def __init__(self, config: CLIPConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        check_classifier(config)
        with dtype_of(self):
            self.vision_model = vision_tower(config.vision_config)
            self.classifier = Linear(config.vision_config.hidden_size, config.num_labels) if config.num_labels else None

    def call(
        self,
        pixel_values: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`.

        labels: integers [B] (below `num_labels`; -100 is passed over), numbers [B, num_labels] of 0 to 1 for several
        labels a picture, or any numbers for a regression: see `clip_core.classification.problem_type`.
        """
        collect, as_dict = switches(self.config, output_attentions, output_hidden_states, return_dict)
        more = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        image = self.vision_model(pixel_values, **collect, return_dict=True, training=training, **more)
        logits = tf.reduce_mean(image.last_hidden_state[:, 1:], axis=1)
        logits = logits if self.classifier is None else self.classifier(logits)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        out = ImageClassifierOutput(loss, logits, image.hidden_states, image.attentions)
        return out if as_dict else out.to_tuple()


class TFCLIPForImageClassification(TFCLIPPreTrainedModel):
    """The vision tower and a classifier of `config.num_labels` labels (`id2label` names them); 0: none.

    Returns ImageClassifierOutput: logits [B, num_labels], of the mean of the last layer's patch tokens, without the
    class token and without a norm; `loss` with labels. `fit` without a loss in `compile` takes the model's own, with
    labels in `y` or under "labels" among the inputs. A file without `classifier` weights (a CLIP to fine-tune) leaves
    them freshly drawn, with a warning.
    """

    config_class = CLIPConfig
    weight_scope = "vision"
    main_input_name = "pixel_values"
    main_layer_class = TFCLIPForImageClassificationMainLayer

    call = by_main_layer(TFCLIPForImageClassificationMainLayer.call)

    def post_init(self) -> None:
        super().post_init()
        if self.clip.classifier is not None:  # also where a file's weights are to come: it may have none
            kernel = self.clip.classifier.kernel
            deviation = self.config.vision_config.hidden_size**-0.5 * self.config.initializer_factor
            seed = keras.random.SeedGenerator()
            kernel.assign(keras.random.normal(kernel.shape, stddev=deviation, dtype="float32", seed=seed))

    def own_loss(self, y_pred: Any) -> tf.Tensor | None:
        return y_pred.get("loss")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        if y is not None and isinstance(self.loss, str | None) and self.loss in OWN_LOSS:
            y_pred = ImageClassifierOutput({**y_pred, "loss": classification_loss(y_pred["logits"], y, self.config)})
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def classification_loss(logits: tf.Tensor, labels: Any, config: Any) -> tf.Tensor:
    """The mean loss of logits [B, num_labels], by the config's problem type: mean squared error, cross-entropy, or
    binary cross-entropy over all labels. In float32 at least."""
    logits, labels = at_least_float32(logits), tf.convert_to_tensor(labels)
    kind = problem_type(config, labels.dtype.is_integer)
    if kind == "single_label_classification":
        labels = tf.cast(tf.reshape(labels, (-1,)), tf.int64)
        counted = labels != IGNORED
        chosen = tf.where(counted, labels, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, tf.reshape(logits, (-1, config.num_labels)))
        counted = tf.cast(counted, losses.dtype)
        return tf.reduce_sum(losses * counted) / tf.reduce_sum(counted)
    labels = tf.cast(labels, logits.dtype)
    if kind == "regression":
        return tf.reduce_mean(tf.square(logits - tf.reshape(labels, tf.shape(logits))))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
