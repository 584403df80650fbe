"""AdamW of the training contract (`triclip.train.engine.Engine`), on variables of any strategy.

Keras' own AdamW adds epsilon before the bias correction, and has no rate per variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ...config import OptimizerSection
from ...engine import Rule
from ...schedule import ema_decay


class AdamW:
    """The moments of the trained parameters, and their average if there is one.

    Args:
        variables: canonical name -> variable, of the trained parameters.
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
        """The values of a step, float32: the rate, the kernel's rate and epsilon, and the average's decay."""
        beta1, beta2 = self.section.betas
        correction1, root2 = 1 - beta1 ** (step + 1), (1 - beta2 ** (step + 1)) ** 0.5
        decay = 0.0 if self.ema is None else ema_decay(self.ema, step)
        # m / c1 / (sqrt(v / c2) + eps), with both corrections moved into scalars
        return np.array([lr, lr * root2 / correction1, self.section.eps * root2, decay], np.float32)

    def clipped(self, gradients: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The global norm of all gradients, and the gradients clipped to `clip_norm`. In a replica context."""
        norm, limit = tf.linalg.global_norm(gradients), self.section.clip_norm
        if limit is not None:
            factor = limit / tf.maximum(norm, limit)
            gradients = [gradient * factor for gradient in gradients]
        return norm, gradients

    def update(self, strategy: tf.distribute.Strategy, gradients: list[Any], values: list[Any]) -> None:
        """One step of every variable on every device, from gradients equal on all of them and the values of `scalars`.
        In a cross-replica context."""
        for (name, variable), gradient in zip(self.variables.items(), gradients, strict=True):
            arguments = [gradient, values, self.first[name], self.second[name]]
            if name in self.averages:
                arguments.append(self.averages[name])
            strategy.extended.update(variable, self._rule(name), args=tuple(arguments))

    def _rule(self, name: str) -> Any:
        """The update of one variable, as a function of its parts on one device."""
        section, rule = self.section, self.rules[name]
        beta1, beta2 = section.betas

        def step(
            variable: tf.Variable,
            gradient: tf.Tensor,
            values: list[tf.Tensor],
            first: tf.Variable,
            second: tf.Variable,
            average: tf.Variable | None = None,
        ) -> None:
            lr, rate, eps, decay = values
            if rule.decay and section.weight_decay:
                variable.assign(variable * (1 - lr * (rule.lr_scale * section.weight_decay)), read_value=False)
            tf.raw_ops.ResourceApplyAdam(  # one kernel: several times fewer operations to trace and to run
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=0.0,  # the corrections are in `rate` and `eps`
                beta2_power=0.0,
                lr=rate if rule.lr_scale == 1 else rate * rule.lr_scale,
                beta1=beta1,
                beta2=beta2,
                epsilon=eps,
                grad=gradient,
            )
            if name == "logit_scale":
                variable.assign(tf.clip_by_value(variable, 0.0, section.max_logit_scale), read_value=False)
            if average is not None:
                average.assign(decay * average + (1 - decay) * variable, read_value=False)

        return step
