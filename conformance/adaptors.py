"""A thin adaptor for each backend: builds a model from a config and canonical weights, calls it, differentiates it.

Inputs and results are NumPy arrays with canonical names, so that one test serves all backends.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clip_core.checkpoint.tensor import Tensor
from clip_core.outputs import ModelOutput
from clip_core.pretrained import Loaded
from clip_core.weights import Difference, weight_table

from .cases import OBJECTIVE_FIELDS, Case, config_copy, cotangent, draw_inputs, draw_weight, structure


class Adaptor:
    """Common to all three. `prefix`: the backend's prefix of class names."""

    name = ""
    package = ""
    prefix = ""
    installed_as = ""

    @classmethod
    def installed(cls) -> bool:
        return importlib.util.find_spec(cls.installed_as) is not None

    def module(self) -> Any:
        return importlib.import_module(self.package)

    def model_class(self, cls: str) -> Any:
        return getattr(self.module(), self.prefix + cls)

    def build(self, case: Case, dtype: str = "float32") -> Any:
        """The case's model with the drawn weights, through the hook that from_pretrained uses."""
        cls = self.model_class(case.cls)
        config = cls.config_class(**config_copy(case))
        weights = {name: draw_weight(name, row.shape) for name, row in weight_table(config, cls.weight_scope).items()}
        return self.from_weights(cls, config, weights, dtype)

    def from_weights(self, cls: Any, config: Any, weights: Mapping[str, Any], dtype: str = "float32") -> Any:
        tensors = {
            name: value if isinstance(value, Tensor) else Tensor.from_numpy(value) for name, value in weights.items()
        }
        return cls._from_weights(Loaded(config, tensors, [], Difference([], [], []), dtype))

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in model._get_weights().items()}

    def expected(self, case: Case, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The golden fields that this backend's documented output class has."""
        return dict(arrays)

    def expected_structure(self, case: Case, structure: Any) -> Any:
        return structure

    def structure(self, model: Any, case: Case) -> Any:
        """`cases.structure` of a call's output."""
        return structure(self.call(model, case))

    def features(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        """The results of get_text_features and get_image_features: {"text", "image"}."""
        raise NotImplementedError

    def call(self, model: Any, case: Case) -> Any:
        """The model's own output object for the case, with NumPy leaves."""
        raise NotImplementedError

    def gradients(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        """Canonical name (and "pixel_values") -> the gradient of `cases.OBJECTIVE_FIELDS`' scalar."""
        raise NotImplementedError


class Torch(Adaptor):
    name, package, prefix, installed_as = "torch", "clip_torch", "", "torch"

    def _inputs(self, case: Case) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(array) for name, array in draw_inputs(case).items()}

    def call(self, model: Any, case: Case) -> Any:
        import torch

        with torch.no_grad():
            output = model(**self._inputs(case), **case.flags)
        return map_output(lambda leaf: leaf.float().numpy(), output)

    def features(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        import torch

        inputs = self._inputs(case)
        with torch.no_grad():
            image = model.get_image_features(inputs.pop("pixel_values"))
            return {"text": model.get_text_features(**inputs).numpy(), "image": image.numpy()}

    def gradients(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        import torch

        inputs = self._inputs(case)
        if "pixel_values" in inputs:
            inputs["pixel_values"].requires_grad_(True)
        output = model(**inputs, **case.flags)
        loss = output.get("loss")
        if loss is None:
            fields = [name for name in OBJECTIVE_FIELDS if output.get(name) is not None]
            loss = sum((output[n] * torch.from_numpy(cotangent(n, tuple(output[n].shape)))).sum() for n in fields)
        loss.backward()
        out = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        if "pixel_values" in inputs:
            out["pixel_values"] = inputs["pixel_values"].grad.numpy()
        return out


class TF(Adaptor):
    name, package, prefix, installed_as = "tf", "clip_tf", "TF", "tensorflow"

    def expected(self, case: Case, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """v4.37's TF classes return the loss as a vector of length 1."""
        return {name: np.reshape(value, 1) if name == "loss" else value for name, value in arrays.items()}

    def expected_structure(self, case: Case, structure: Any) -> Any:
        if not case.flags.get("return_loss"):
            return structure
        if "dict" in structure:
            return {"dict": [["loss", [1]] if item[0] == "loss" else item for item in structure["dict"]]}
        return {"tuple": [[1], *structure["tuple"][1:]]}

    def _inputs(self, case: Case) -> dict[str, Any]:
        import tensorflow as tf

        return {name: tf.constant(array) for name, array in draw_inputs(case).items()}

    def call(self, model: Any, case: Case) -> Any:
        return map_output(lambda leaf: np.asarray(leaf).astype(np.float32), model(**self._inputs(case), **case.flags))

    def features(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        inputs = self._inputs(case)
        image = model.get_image_features(inputs.pop("pixel_values"))
        return {"text": model.get_text_features(**inputs).numpy(), "image": image.numpy()}

    def gradients(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        import tensorflow as tf

        inputs, variables = self._inputs(case), model._variables_by_name()
        wanted = {name: variable.value for name, (variable, _) in variables.items()}
        if "pixel_values" in inputs:
            wanted["pixel_values"] = inputs["pixel_values"]
        with tf.GradientTape() as tape:
            tape.watch(list(wanted.values()))
            output = model(**inputs, **case.flags)
            loss = output.get("loss")
            if loss is None:
                fields = [name for name in OBJECTIVE_FIELDS if output.get(name) is not None]
                loss = sum(tf.reduce_sum(output[n] * cotangent(n, tuple(output[n].shape))) for n in fields)
        out = {}
        for name, gradient in zip(wanted, tape.gradient(loss, list(wanted.values())), strict=True):
            if gradient is not None:
                array = tf.convert_to_tensor(gradient).numpy()
                permutation = variables[name][1] if name in variables else None
                out[name] = array.transpose(np.argsort(permutation)) if permutation else array
        return out


class Flax(Adaptor):
    """Without a loss: in v4.37, Flax's output has no such field and its call no `return_loss`."""

    name, package, prefix, installed_as = "flax", "clip_flax", "Flax", "flax"

    def expected(self, case: Case, arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arrays.items() if name != "loss"}

    def expected_structure(self, case: Case, structure: Any) -> Any:
        if "dict" in structure:
            return {"dict": [item for item in structure["dict"] if item[0] != "loss"]}
        return {"tuple": structure["tuple"][1:]} if case.flags.get("return_loss") else structure

    def build(self, case: Case, dtype: str = "float32") -> Any:
        """Without compilation: the many tiny cases share operations, but not compiled programs."""
        model = super().build(case, dtype)
        model.jit = False
        return model

    def structure(self, model: Any, case: Case) -> Any:
        import jax

        return structure(jax.eval_shape(lambda: model(**draw_inputs(case), **self._flags(case))))

    def _flags(self, case: Case) -> dict[str, Any]:
        return {name: value for name, value in case.flags.items() if name != "return_loss"}

    def call(self, model: Any, case: Case) -> Any:
        output = model(**draw_inputs(case), **self._flags(case))
        return map_output(lambda leaf: np.asarray(leaf).astype(np.float32), output)

    def features(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        inputs = draw_inputs(case)
        image = model.get_image_features(inputs.pop("pixel_values"))
        return {"text": np.asarray(model.get_text_features(**inputs)), "image": np.asarray(image)}

    def gradients(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        import jax
        import jax.numpy as jnp

        inputs = draw_inputs(case)

        def objective(params: Any, pixels: Any) -> Any:
            given = {**inputs, "pixel_values": pixels} if pixels is not None else inputs
            output = model(**given, params=params, **self._flags(case))
            if case.flags.get("return_loss"):
                logits = output.logits_per_text
                return -sum(jnp.diagonal(jax.nn.log_softmax(logits, axis)).mean() for axis in (0, 1)) / 2
            fields = [name for name in OBJECTIVE_FIELDS if output.get(name) is not None]
            return sum((output[n] * cotangent(n, output[n].shape)).sum() for n in fields)

        pixels = jnp.asarray(inputs["pixel_values"]) if "pixel_values" in inputs else None
        of_params, of_pixels = jax.grad(objective, argnums=(0, 1))(model.params, pixels)
        out = {name: tensor.numpy() for name, tensor in model._get_weights(of_params).items()}
        if pixels is not None:
            out["pixel_values"] = np.asarray(of_pixels)
        return out


def map_output(function: Callable[[Any], Any], output: Any) -> Any:
    """An output of the same classes and nesting, with `function` of every leaf."""
    if isinstance(output, ModelOutput):
        return type(output)(**{name: map_output(function, value) for name, value in output.items()})
    if isinstance(output, tuple):
        return tuple(map_output(function, value) for value in output)
    return function(output)


ADAPTORS: dict[str, Adaptor] = {adaptor.name: adaptor for adaptor in (Torch(), TF(), Flax())}


def installed() -> list[str]:
    """Names of the installed backends."""
    return [name for name, adaptor in ADAPTORS.items() if adaptor.installed()]
