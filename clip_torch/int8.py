"""Models whose encoders compute with int8 weights, on CPUs: `quantize(model)`, from any checkpoint.

ONNX Runtime (the extra `onnx`) does the arithmetic: an encoder's layers become a graph of its operators, made here
from the weights. Products are of unsigned 8-bit inputs, rounded as they come over the range of their values, and signed
8-bit weights, rounded once with a scale for each output. Embeddings, the norms before and behind the layers and the
projections stay PyTorch's, in float32: they are a few per cent of the work. There are no derivatives, and no outputs of
single layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clip_core.errors import InputError, MissingDependencyError
from clip_core.machine import usable_cpus
from clip_core.outputs import BaseModelOutput

from .activations import name_of
from .masks import both, of_rows
from .modeling import CLIPEncoder
from .shortcuts import below, known, may_skip

# Weights are whole numbers up to this. A processor without instructions for 8-bit products adds two of them in 16 bits:
# up to 64 two always fit, and at 90 it takes two inputs in the upper third of their range against two weights near the
# largest of their row. At 127, cosines of the embedded model to float32 fell to 0.90 there (0.994 at 90).
LARGEST = 90

MS = "com.microsoft"  # ONNX Runtime's own operators
# name in configs -> operator, its domain, its attributes
ACTIVATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "quick_gelu": ("QuickGelu", MS, {"alpha": 1.702}),
    "gelu": ("Gelu", MS, {}),
    "gelu_new": ("FastGelu", MS, {}),
    "gelu_pytorch_tanh": ("FastGelu", MS, {}),
    "relu": ("Relu", "", {}),
    "silu": ("QuickGelu", MS, {"alpha": 1.0}),
    "swish": ("QuickGelu", MS, {"alpha": 1.0}),
}


@known
class Int8Encoder(nn.Module):
    """Takes the place of a CLIPEncoder whose last state is all that is wanted."""

    def __init__(self, encoder: CLIPEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.layers = nn.ModuleList()  # none that could be called
        self.graph = _Graph(encoder).serialized()
        self.session = _session(self.graph)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        rows: Tensor | None = None,
    ) -> Any:
        """As a CLIPEncoder's, without its optional outputs."""
        x = inputs_embeds
        if output_attentions or output_hidden_states:
            raise NotImplementedError("int8 encoders have no attentions or hidden states: load the model in float32")
        if x.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("int8 encoders have no derivatives: load the model in float32")
        asking = torch.arange(x.shape[1]).expand(len(x), -1) if rows is None else rows[:, None]  # [B, Q]
        bias = both(attention_mask, causal_attention_mask)
        bias = x.new_zeros(1, 1, 1, x.shape[1]) if bias is None else bias.float()
        last = bias if rows is None else of_rows(bias, rows)
        shape = (len(x), 1, x.shape[1], x.shape[1])
        out = x.new_empty(*asking.shape, x.shape[2])
        if out.numel():
            given = {"x": x.float(), "rows": asking[..., None], "bias": bias.expand(-1, -1, *shape[2:])}
            given["last_bias"] = last.expand(-1, -1, asking.shape[1], -1)
            arrays = {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in given.items()}
            out = torch.from_numpy(self.session.run(None, arrays)[0])
        encoded = BaseModelOutput(last_hidden_state=out, hidden_states=None, attentions=None)
        return encoded if return_dict in (None, True) else encoded.to_tuple()

    # A session can't be copied or written; what it is made of can.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "session": _session(state["graph"])})

    def get_extra_state(self) -> dict[str, Any]:
        return {"graph": self.graph}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.graph = state["graph"]
        self.session = _session(self.graph)


def quantize(model: Any) -> Any:
    """Put int8 encoders into a model's towers, in place, and freeze it; returns the model.

    Raises MissingDependencyError without the extra `onnx`; InputError off the CPU, and for layers that are not CLIP's.
    """
    if model.device.type != "cpu":
        raise InputError(f"dtype: int8 is computed on CPUs, found a model on {model.device}")
    model.eval().requires_grad_(False)
    for name in ("vision_model", "text_model"):
        if tower := getattr(model, name, None):
            if not hasattr(tower, "encoder"):
                raise InputError(f"dtype: int8 is for transformers, found {type(tower).__name__} as {name}")
            changed = [type(part).__name__ for part in below(tower.encoder) if not may_skip(part)]
            if type(tower.encoder) is not CLIPEncoder or changed:
                found = ", ".join(changed) or type(tower.encoder).__name__
                raise InputError(f"dtype: int8 takes the place of CLIP's own layers, found {found} in {name}.encoder")
            tower.encoder = Int8Encoder(tower.encoder)
    return model


def is_int8(model: Any) -> bool:
    """Whether one of a model's encoders is such a one."""
    towers = (getattr(model, name, None) for name in ("vision_model", "text_model"))
    return any(isinstance(getattr(tower, "encoder", None), Int8Encoder) for tower in towers)


def _session(graph: bytes) -> Any:
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # PyTorch's turn, on the same cores
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"dtype int8 needs {error.name}, which is not installed: pip install 'triclip[torch,onnx]'"
        ) from error


class _Graph:
    """An encoder as a graph: x [B, S, D], rows [B, Q, 1] int64, bias [1 or B, 1, S, S], last_bias [1 or B, 1, Q, S] ->
    the last states of those rows [B, Q, D]. bias is added to the scores, and last_bias to the last layer's."""

    def __init__(self, encoder: CLIPEncoder) -> None:
        self.helper = _package("onnx").helper
        self.array = _package("onnx").numpy_helper.from_array
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        x, layers = "x", list(encoder.layers)
        for number, layer in enumerate(layers):
            x = self.layer(layer, x, last=number == len(layers) - 1)
        if not layers:
            x = self.add("GatherND", [x, "rows"], batch_dims=1)
        self.out = x

    def layer(self, layer: nn.Module, x: str, last: bool) -> str:
        attention = layer.self_attn
        normed = self.norm(layer.layer_norm1, x)
        asking = normed
        if last:
            x, asking = (self.add("GatherND", [name, "rows"], batch_dims=1) for name in (x, normed))
        rounded = self.round(normed)
        q = self.product(attention.q_proj, self.round(asking) if last else rounded)
        k, v = (self.product(part, rounded) for part in (attention.k_proj, attention.v_proj))
        given = [q, k, v, "", "", "last_bias" if last else "bias"]
        context = self.add("MultiHeadAttention", given, MS, num_heads=attention.num_heads, scale=attention.scale)
        x = self.add("Add", [x, self.product(attention.out_proj, self.round(context))])
        mlp = layer.mlp
        hidden = self.product(mlp.fc1, self.round(self.norm(layer.layer_norm2, x)))
        operator, domain, settings = ACTIVATIONS[_name(mlp.activation_fn)]
        hidden = self.add(operator, [hidden], domain, **settings)
        return self.add("Add", [x, self.product(mlp.fc2, self.round(hidden))])

    def norm(self, norm: nn.LayerNorm, x: str) -> str:
        return self.add("LayerNormalization", [x, self.weight(norm.weight), self.weight(norm.bias)], epsilon=norm.eps)

    def round(self, x: str) -> list[str]:
        """(uint8 values, scale, zero)."""
        name = f"n{len(self.nodes)}"
        outputs = [name, f"{name}_scale", f"{name}_zero"]
        self.nodes.append(self.helper.make_node("DynamicQuantizeLinear", [x], outputs))
        return outputs

    def product(self, layer: nn.Linear, rounded: list[str]) -> str:
        """[..., K] -> [..., N], float32."""
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)  # [N]
        whole = torch.round(weight / scale[:, None]).to(torch.int8).T.contiguous()  # [K, N]
        values, of_values, zero = rounded
        given = [values, self.weight(whole), of_values, self.weight(scale), zero, ""]
        given += [] if layer.bias is None else [self.weight(layer.bias)]
        return self.add("MatMulIntegerToFloat", given, MS)

    def weight(self, tensor: Tensor) -> str:
        tensor = tensor.detach()
        name = f"w{len(self.weights)}"
        self.weights.append(self.array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), name))
        return name

    def add(self, operator: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def serialized(self) -> bytes:
        def value(name: str, shape: list[Any], kind: int = 1) -> Any:  # 1: float32, 7: int64
            return self.helper.make_tensor_value_info(name, kind, shape)

        inputs = [value("x", ["B", "S", "D"]), value("rows", ["B", "Q", 1], 7)]
        inputs += [value("bias", ["C", 1, "S", "S"]), value("last_bias", ["E", 1, "Q", "S"])]
        graph = self.helper.make_graph(self.nodes, "encoder", inputs, [value(self.out, ["B", "Q", "D"])], self.weights)
        versions = [self.helper.make_opsetid("", 17), self.helper.make_opsetid(MS, 1)]
        return self.helper.make_model(graph, opset_imports=versions, ir_version=9).SerializeToString()


def _name(act: Any) -> str:
    name = name_of(act)
    if name not in ACTIVATIONS:
        raise InputError(f"dtype: int8 knows the activations {', '.join(ACTIVATIONS)}, found {act!r}")
    return name
