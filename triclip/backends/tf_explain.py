"""What `triclip.explain` asks of a backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from clip_tf.modeling import TFCLIPModel

from ..explain import PairAttentions


def pair_attentions(
    model: TFCLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients by them."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if gradients:
            for variable in model.variables:  # frozen ones too: what follows from no watched one is not recorded
                tape.watch(variable.value)
        out = model(
            input_ids=tf.constant(input_ids, tf.int32),
            pixel_values=tf.constant(pixel_values, tf.float32),
            output_attentions=True,
        )
        logit = out.logits_per_image[0, 0]
    vision, text = out.vision_model_output.attentions, out.text_model_output.attentions
    slopes = tape.gradient(logit, [*vision, *text]) if gradients else []
    return PairAttentions(
        _stacked(vision),
        _stacked(text),
        _stacked(slopes[: len(vision)]) if gradients else None,
        _stacked(slopes[len(vision) :]) if gradients else None,
        float(logit),
    )


def _stacked(layers: Sequence[tf.Tensor]) -> np.ndarray:
    """L of [1, H, N, N] -> float32 [L, H, N, N]."""
    return tf.cast(tf.concat(layers, 0), tf.float32).numpy()
