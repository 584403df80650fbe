"""One thin adaptor per backend: build a model from a config and canonical weights, call it, differentiate it.

Everything goes in and comes out as NumPy arrays under canonical names, so a test says what it wants once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_core.checkpoint.tensor import Tensor
from clip_core.pretrained import Loaded
from clip_core.weights import Difference, weight_table

from .cases import OBJECTIVE_FIELDS, Case, config_copy, cotangent, draw_inputs, draw_weight


class Adaptor:
    """What all three share. `prefix` is what a backend puts before the class names."""

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

    def adapt(self, case: Case) -> Case:
        """The case as this backend's documented signature takes it."""
        return case

    def expected(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The golden fields that this backend's documented output class has."""
        return dict(arrays)

    def expected_structure(self, structure: Any) -> Any:
        return structure

    def features(self, model: Any, case: Case) -> dict[str, np.ndarray]:
        """What get_text_features and get_image_features return: {"text", "image"}."""
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
        return torch.utils._pytree.tree_map(lambda leaf: leaf.float().numpy(), output)

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


ADAPTORS: dict[str, Adaptor] = {adaptor.name: adaptor for adaptor in (Torch(),)}


def installed() -> list[str]:
    """Names of the backends that can run here."""
    return [name for name, adaptor in ADAPTORS.items() if adaptor.installed()]
