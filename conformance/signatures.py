"""The documented signatures of transformers v4.37, as data: parameters in order, with their defaults.

A backend may add parameters with defaults after the documented ones, never between them.
"""

from __future__ import annotations

REQUIRED = "required"

_OUTPUTS = {"output_attentions": None, "output_hidden_states": None, "return_dict": None}
_TEXT = {"input_ids": None, "attention_mask": None, "position_ids": None}
_FULL = {"input_ids": None, "pixel_values": None, "attention_mask": None, "position_ids": None, "return_loss": None}

TORCH: dict[str, dict[str, dict[str, object]]] = {
    "CLIPModel": {
        "forward": {**_FULL, **_OUTPUTS},
        "get_text_features": {**_TEXT, **_OUTPUTS},
        "get_image_features": {"pixel_values": None, **_OUTPUTS},
    },
    "CLIPTextModel": {"forward": {**_TEXT, **_OUTPUTS}},
    "CLIPTextModelWithProjection": {"forward": {**_TEXT, **_OUTPUTS}},
    "CLIPVisionModel": {"forward": {"pixel_values": None, **_OUTPUTS}},
    "CLIPVisionModelWithProjection": {"forward": {"pixel_values": None, **_OUTPUTS}},
}

_TF_END = {**_OUTPUTS, "training": False}
TF: dict[str, dict[str, dict[str, object]]] = {
    "TFCLIPModel": {
        "call": {**_FULL, **_TF_END},
        "get_text_features": {**_TEXT, **_TF_END},
        "get_image_features": {"pixel_values": None, **_TF_END},
    },
    "TFCLIPTextModel": {"call": {**_TEXT, **_TF_END}},
    "TFCLIPTextModelWithProjection": {"call": {**_TEXT, **_TF_END}},
    "TFCLIPVisionModel": {"call": {"pixel_values": None, **_TF_END}},
    "TFCLIPVisionModelWithProjection": {"call": {"pixel_values": None, **_TF_END}},
}

_RUN = {"params": None, "dropout_rng": None, "train": False}
_FLAX_TEXT = {"input_ids": REQUIRED, "attention_mask": None, "position_ids": None, **_RUN}
_FLAX_VISION = {"pixel_values": REQUIRED, **_RUN}
_FLAX_INIT = {"config": REQUIRED, "input_shape": None, "seed": 0, "dtype": "float32", "_do_init": True}
_FLAX_TEXT_INIT = {**_FLAX_INIT, "input_shape": (1, 1)}
FLAX: dict[str, dict[str, dict[str, object]]] = {
    "FlaxCLIPModel": {
        "__init__": _FLAX_INIT,
        "__call__": {
            "input_ids": REQUIRED,
            "pixel_values": REQUIRED,
            "attention_mask": None,
            "position_ids": None,
            **_RUN,
            **_OUTPUTS,
        },
        "get_text_features": _FLAX_TEXT,
        "get_image_features": _FLAX_VISION,
    },
    "FlaxCLIPTextModel": {"__init__": _FLAX_TEXT_INIT, "__call__": {**_FLAX_TEXT, **_OUTPUTS}},
    "FlaxCLIPTextModelWithProjection": {"__init__": _FLAX_TEXT_INIT, "__call__": {**_FLAX_TEXT, **_OUTPUTS}},
    "FlaxCLIPVisionModel": {"__init__": _FLAX_INIT, "__call__": {**_FLAX_VISION, **_OUTPUTS}},
    "FlaxCLIPVisionModelWithProjection": {"__init__": _FLAX_INIT, "__call__": {**_FLAX_VISION, **_OUTPUTS}},
}

BACKENDS = {"torch": TORCH, "tf": TF, "flax": FLAX}
