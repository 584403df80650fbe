"""AdamW as the training contract wants it (`clip_core.train.engine.Engine`), on variables of any strategy.

Keras' own AdamW adds epsilon before the bias correction, and knows no rate per variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from clip_core.train.config import OptimizerSection
from clip_core.train.engine import Rule
from clip_core.train.schedule import ema_decay


class AdamW:
    """The moments of the trained parameters, and their average where there is one.

    Args:
        variables: canonical name -> the variable, of those that are trained.
        averages: the same names -> the averaged weights, or empty.
        ema: the average's decay.
    """

    def __init__(
        self,
        section: OptimizerSection,
        variables: Mapping[str, tf.Variable],
        averages: Mapping[str, tf.Variable],
        rules: Mapping[str, Rule],
        ema: float | None,
    ) -> None:
        self.section, self.variables, self.averages, self.rules, self.ema = section, variables, averages, rules, ema
        self.first, self.second = (
            {name: tf.Variable(tf.zeros_like(value), trainable=False) for name, value in variables.items()}
            for _ in range(2)
        )

    def scalars(self, lr: float, step: int) -> np.ndarray:
        """What changes from step to step: [rate, both bias corrections, decay of the average], float32."""
        beta1, beta2 = self.section.betas
        decay = 0.0 if self.ema is None else ema_decay(self.ema, step)
        return np.array([lr, 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1), decay], np.float32)

    def norm(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Of all gradients together. In a replica context."""
        return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))

    def update(self, strategy: tf.distribute.Strategy, gradients: list[Any], norm: Any, scalars: Any) -> None:
        """One step of every variable on every device, from gradients that are equal there. In a cross-replica context."""
        for (name, variable), gradient in zip(self.variables.items(), gradients, strict=True):
            arguments = [gradient, norm, scalars, self.first[name], self.second[name]]
            if name in self.averages:
                arguments.append(self.averages[name])
            strategy.extended.update(variable, self._rule(name), args=tuple(arguments))

    def _rule(self, name: str) -> Any:
        """The update of one variable, as a function of its parts on one device."""
        section, rule = self.section, self.rules[name]
        beta1, beta2 = section.betas
        weight_decay = section.weight_decay if rule.decay else 0.0

        def step(
            variable: tf.Variable,
            gradient: tf.Tensor,
            norm: tf.Tensor,
            scalars: tf.Tensor,
            first: tf.Variable,
            second: tf.Variable,
            average: tf.Variable | None = None,
        ) -> None:
            lr, correction1, correction2, decay = tf.unstack(scalars)
            lr = lr * rule.lr_scale
            if section.clip_norm is not None:
                gradient = gradient * (section.clip_norm / tf.maximum(norm, section.clip_norm))
            m = first.assign(beta1 * first + (1 - beta1) * gradient, read_value=True)
            v = second.assign(beta2 * second + (1 - beta2) * tf.square(gradient), read_value=True)
            root = tf.sqrt(v / correction2) + section.eps
            new = variable - lr * (m / correction1 / root + weight_decay * variable)
            if name == "logit_scale":
                new = tf.clip_by_value(new, 0.0, section.max_logit_scale)
            variable.assign(new, read_value=False)
            if average is not None:
                average.assign(decay * average + (1 - decay) * new, read_value=False)

        return step
