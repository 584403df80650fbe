"""Make the golden arrays from transformers 4.37.2 (torch).

    HF_HUB_OFFLINE=1 PYTHONPATH=. python conformance/make_golden.py

Needs transformers==4.37.2, torch and numpy<2; the project itself is not imported. The weights and inputs come from
`cases.py`. A second reference, transformers 4.57.6, gives `interpolate.npz` (`make_golden.py interpolate`), since
4.37.2 can't resize positions.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.activations import ACT2FN

from conformance.cases import (
    OBJECTIVE_FIELDS,
    Case,
    cases,
    config_copy,
    cotangent,
    draw_inputs,
    draw_weight,
    flatten,
    structure,
    vision,
)

FOLDER = Path(__file__).parent / "golden"

# The documentation names "selu", but 4.37.2 has no such activation: torch's own is the reference.
ACT2FN["selu"] = torch.nn.SELU


def build(case: Case) -> torch.nn.Module:
    cls = getattr(transformers, case.cls)
    model = cls(cls.config_class(**config_copy(case))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(np.asarray(draw_weight(name, tuple(parameter.shape)))))
    return model


def objective(output: Any) -> torch.Tensor:
    if output.get("loss") is not None:
        return output["loss"]
    present = [name for name in OBJECTIVE_FIELDS if output.get(name) is not None]
    return sum((output[name] * torch.from_numpy(cotangent(name, tuple(output[name].shape)))).sum() for name in present)


def record(case: Case) -> dict[str, np.ndarray]:
    model = build(case)
    arrays = draw_inputs(case)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if case.gradients and "pixel_values" in inputs:
        inputs["pixel_values"].requires_grad_(True)
    output = model(**inputs, **case.flags)
    out = {"structure": np.array(json.dumps(structure(output)))}
    weights = sum(float(np.abs(p.detach().double()).sum()) for p in model.parameters())
    out["drawn"] = np.array([weights, sum(float(np.abs(a.astype(np.float64)).sum()) for a in arrays.values())])
    if case.values:
        out |= {f"out/{name}": value.detach().numpy() for name, value in flatten(output).items()}
    if case.gradients:
        objective(output).backward()
        out |= {f"grad/{name}": p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        if "pixel_values" in inputs:
            out["grad/pixel_values"] = inputs["pixel_values"].grad.numpy()
    return {f"{case.name}/{key}": value for key, value in out.items()}


def features() -> dict[str, np.ndarray]:
    """The plain arrays of get_text_features and get_image_features."""
    case = next(case for case in cases() if case.name == "class.CLIPModel")
    model, inputs = build(case), {name: torch.from_numpy(array) for name, array in draw_inputs(case).items()}
    with torch.no_grad():
        image = model.get_image_features(inputs.pop("pixel_values"))
        return {"features/text": model.get_text_features(**inputs).numpy(), "features/image": image.numpy()}


def state_dicts() -> dict[str, np.ndarray]:
    """Names and shapes of every class's state dict."""
    out = {}
    for case in cases():
        if case.name.startswith("class."):
            shapes = [[name, list(value.shape)] for name, value in build(case).state_dict().items()]
            out[f"state_dict/{case.cls}"] = np.array(json.dumps(shapes))
    return out


def initial_deviations() -> dict[str, np.ndarray]:
    """Measured standard deviation (and mean) of every drawn weight, over many initialisations of a small full model."""
    case = next(case for case in cases() if case.name == "class.CLIPModel")
    values = config_copy(case)
    values["text_config"].update(initializer_factor=0.5, initializer_range=0.3)
    values["vision_config"].update(initializer_factor=2.0, initializer_range=0.05)
    out = {}
    for cls_name, arguments in (
        ("CLIPModel", values),
        ("CLIPTextModelWithProjection", values["text_config"]),
        ("CLIPVisionModelWithProjection", values["vision_config"]),
    ):
        cls = getattr(transformers, cls_name)
        sums: dict[str, list[torch.Tensor]] = defaultdict(list)
        torch.manual_seed(0)
        for _ in range(200):
            for name, value in cls(cls.config_class(**arguments)).named_parameters():
                sums[name].append(value.detach().flatten())
        for name, drawn in sums.items():
            everything = torch.cat(drawn).double()
            out[f"init/{cls_name}/{name}"] = np.array([everything.mean(), everything.std()])
    return out


def interpolated() -> dict[str, np.ndarray]:
    """transformers 4.57.6: other image sizes."""
    out = {}
    config = vision(image_size=24, patch_size=4)
    for height, width in ((24, 24), (32, 32), (16, 28), (40, 20), (25, 27), (4, 4)):
        drawn = {"pixel_values": f"pixels:2,3,{height},{width}"}
        case = Case("interpolate", "CLIPVisionModelWithProjection", config, drawn)
        pixels = torch.from_numpy(draw_inputs(case)["pixel_values"])
        with torch.no_grad():
            output = build(case)(pixels, interpolate_pos_encoding=True)
        out[f"{height}x{width}/last_hidden_state"] = output.last_hidden_state.numpy()
        out[f"{height}x{width}/image_embeds"] = output.image_embeds.numpy()
    return out


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    if sys.argv[1:] == ["interpolate"]:
        assert transformers.__version__ == "4.57.6", transformers.__version__
        np.savez_compressed(FOLDER / "interpolate.npz", **interpolated())
        return
    assert transformers.__version__ == "4.37.2", transformers.__version__
    files: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for case in cases():
        files[case.name.split(".")[0]] |= record(case)
    files["contract"] |= features() | state_dicts() | initial_deviations()
    for name, arrays in files.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
        print(name, len(arrays), (FOLDER / f"{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
