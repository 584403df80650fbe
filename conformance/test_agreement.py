"""The backends against each other, in one process: values, gradients, weights, names, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clip_core
from clip_core.weights import weight_table

from . import cases as data
from .adaptors import ADAPTORS, Adaptor, installed
from .compare import ACROSS, GRADIENT, gradient_errors, relative_error

CASES = {case.name: case for case in data.cases()}
BACKENDS = installed()
pytestmark = pytest.mark.skipif(len(BACKENDS) < 2, reason="fewer than two backends are installed")

# bfloat16 keeps 8 bits, 4e-3 per rounding; some dozens of roundings add up through two layers, in another order in
# every framework.
BFLOAT16 = 4e-2


def outputs(name: str, dtype: str = "float32") -> dict[str, dict[str, np.ndarray]]:
    """Backend -> the case's fields, without the loss that Flax lacks."""
    out = {}
    for backend in BACKENDS:
        adaptor, case = ADAPTORS[backend], CASES[name]
        fields = data.flatten(adaptor.call(adaptor.build(case, dtype), case))
        out[backend] = {key: value for key, value in fields.items() if key != "loss"}
    return out


def assert_close(results: dict[str, dict[str, np.ndarray]], bound: float) -> None:
    """Every pair, every field."""
    first, *others = results
    for other in others:
        assert list(results[first]) == list(results[other])
    for field in results[first]:
        for i, a in enumerate(results):
            for b in list(results)[i + 1 :]:
                error = relative_error(results[a][field], results[b][field])
                assert error <= bound, f"{field}, {a} and {b}: {error:.1e}"


@pytest.mark.parametrize("name", ["class.CLIPModel", "mask.left", "mask.zero", "act.mixed_and_eps", "depth.text_7"])
def test_values(name: str) -> None:
    assert_close(outputs(name), ACROSS)


@pytest.mark.parametrize("name", ["class.CLIPModel", "mask.zero_row"])
def test_values_in_bfloat16(name: str) -> None:
    assert_close(outputs(name, "bfloat16"), BFLOAT16)


def test_values_of_a_model_as_large_as_vit_b_32() -> None:
    """Random weights of published sizes; every hidden state, attention and output of two pictures and three texts."""
    config = {"projection_dim": 512}
    case = data.Case(
        "large",
        "CLIPModel",
        config,
        {
            "input_ids": [[49406, *range(100 * i, 100 * i + 9), 49407] for i in (1, 2, 3)],
            "pixel_values": "pixels:2,3,224,224",
        },
        data.ALL_OUTPUTS,
    )
    kind = clip_core.CLIPConfig(**config)
    case = data.Case(case.name, case.cls, kind.to_dict(), case.inputs, case.flags)
    weights = {name: data.draw_weight(name, row.shape) for name, row in weight_table(kind).items()}
    results = {}
    for backend in BACKENDS:
        adaptor = ADAPTORS[backend]
        cls = adaptor.model_class(case.cls)
        model = adaptor.from_weights(cls, clip_core.CLIPConfig(**config), weights)
        if backend == "flax":
            model.jit = False
        results[backend] = data.flatten(adaptor.call(model, case))
        del model
    assert_close(results, ACROSS)


@pytest.mark.parametrize("name", ["loss", "mask.holes"])
def test_gradients(name: str) -> None:
    case = CASES[name]
    results = {backend: ADAPTORS[backend].gradients(ADAPTORS[backend].build(case), case) for backend in BACKENDS}
    first, *others = BACKENDS
    for other in others:
        error, where = gradient_errors(results[other], results[first])
        assert error <= GRADIENT, f"{where}, {first} and {other}: {error:.1e}"


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", data.CLASSES)
def test_weights_pass_through_every_backend_unchanged(cls: str) -> None:
    """Drawn numbers through all backends in turn come back equal to the bit."""
    case = CASES[f"class.{cls}"]
    weights = ADAPTORS[BACKENDS[0]].weights(ADAPTORS[BACKENDS[0]].build(case))
    start = dict(weights)
    for backend in [*BACKENDS, BACKENDS[0]]:
        adaptor = ADAPTORS[backend]
        model_class = adaptor.model_class(cls)
        config = model_class.config_class(**data.config_copy(case))
        weights = adaptor.weights(adaptor.from_weights(model_class, config, weights))
        assert set(weights) == set(start), backend
        for name, value in start.items():
            np.testing.assert_array_equal(weights[name], value, err_msg=f"{backend}: {name}")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_files_pass_from_every_backend_to_every_backend(dtype: str, tmp_path: Any) -> None:
    case = CASES["class.CLIPModel"]
    for writer in BACKENDS:
        model = ADAPTORS[writer].build(case, dtype)
        folder = tmp_path / writer
        model.save_pretrained(folder, safe_serialization=True)
        want = ADAPTORS[writer].weights(model)
        for reader in BACKENDS:
            again = ADAPTORS[reader].model_class("CLIPModel").from_pretrained(folder, torch_dtype="auto")
            got = ADAPTORS[reader].weights(again)
            assert all(np.array_equal(got[name], want[name]) for name in want), f"{writer} -> {reader}"
            assert again.config.to_dict() == {**model.config.to_dict(), **_of_file(again.config, dtype)}


def _of_file(config: Any, dtype: str) -> dict[str, Any]:
    """Entries of a saved config that are not in the model's own."""
    return {"_name_or_path": config.name_or_path, "architectures": ["CLIPModel"], "torch_dtype": dtype}


# -- names ------------------------------------------------------------------------------------------------------------

ATTRIBUTES = ("config", "config_class", "main_input_name", "weight_scope", "name_or_path")


@pytest.mark.parametrize("cls", data.CLASSES)
def test_class_and_attribute_names(cls: str) -> None:
    models = {backend: ADAPTORS[backend].build(CASES[f"class.{cls}"]) for backend in BACKENDS}
    for backend, model in models.items():
        assert type(model).__name__ == ADAPTORS[backend].prefix + cls
        assert all(hasattr(model, name) for name in (*ATTRIBUTES, "from_pretrained", "save_pretrained"))
    for name in ATTRIBUTES:
        values = [getattr(model, name) for model in models.values()]
        if name == "config":
            values = [value.to_dict() for value in values]
        assert all(value == values[0] for value in values), name


@pytest.mark.parametrize("cls", data.CLASSES)
def test_output_classes(cls: str) -> None:
    case = CASES[f"class.{cls}"]
    for backend in BACKENDS:
        output = ADAPTORS[backend].call(ADAPTORS[backend].build(case), case)
        wanted = {
            "CLIPModel": "FlaxCLIPOutput" if backend == "flax" else "CLIPOutput",
            "CLIPTextModel": "BaseModelOutputWithPooling",
            "CLIPVisionModel": "BaseModelOutputWithPooling",
            "CLIPTextModelWithProjection": "CLIPTextModelOutput",
            "CLIPVisionModelWithProjection": "CLIPVisionModelOutput",
        }
        assert type(output).__name__ == wanted[cls], backend
        assert type(output).__module__ == "clip_core.outputs"


# -- errors -----------------------------------------------------------------------------------------------------------

IDS, PIXELS = np.array(data.IDS), np.zeros((4, 3, 21, 21), np.float32)
TEXT_ERRORS: dict[str, dict[str, Any]] = {
    "no ids": {"input_ids": None},
    "no tokens": {"input_ids": IDS[:, :0]},
    "too long": {"input_ids": np.tile(IDS, 2)},
    "above the vocabulary": {"input_ids": IDS + 1},
    "below zero": {"input_ids": IDS - 59},
    "fractions": {"input_ids": IDS.astype(np.float32) + 0.5},
    "a mask of another shape": {"input_ids": IDS, "attention_mask": np.ones((4, 7), np.int64)},
    "positions of another shape": {"input_ids": IDS, "position_ids": np.zeros((4, 7), np.int64)},
    "positions beyond the last": {"input_ids": IDS, "position_ids": np.full((1, 8), 11)},
    "negative positions": {"input_ids": IDS, "position_ids": np.full((1, 8), -1)},
    "fractional positions": {"input_ids": IDS, "position_ids": np.full((1, 8), 0.5, np.float32)},
}
VISION_ERRORS: dict[str, dict[str, Any]] = {
    "no pixels": {"pixel_values": None},
    "another size": {"pixel_values": np.zeros((4, 3, 24, 24), np.float32)},
    "channels last": {"pixel_values": np.zeros((4, 21, 21, 3), np.float32)},
    "one picture without a batch": {"pixel_values": PIXELS[0]},
    "smaller than a patch": {"pixel_values": PIXELS[..., :7], "interpolate_pos_encoding": True},
}
CALLS = [
    *(("CLIPTextModel", name, given) for name, given in TEXT_ERRORS.items()),
    *(("CLIPTextModelWithProjection", name, TEXT_ERRORS[name]) for name in ("no ids", "too long")),
    *(("CLIPModel", name, {"pixel_values": PIXELS, **given}) for name, given in TEXT_ERRORS.items()),
    *(("CLIPVisionModel", name, given) for name, given in VISION_ERRORS.items()),
    *(("CLIPVisionModelWithProjection", name, VISION_ERRORS[name]) for name in ("no pixels", "another size")),
    *(("CLIPModel", name, {"input_ids": IDS, **given}) for name, given in VISION_ERRORS.items()),
]


def _native(backend: str, given: dict[str, Any]) -> dict[str, Any]:
    if backend == "torch":
        import torch

        return {k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    if backend == "tf":
        import tensorflow as tf

        return {k: tf.constant(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    return given


def _raised(action: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the test
        action()
    return raised.type.__name__, str(raised.value)


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, Any]]:
    return {cls: {b: ADAPTORS[b].build(CASES[f"class.{cls}"]) for b in BACKENDS} for cls in data.CLASSES}


@pytest.mark.parametrize("cls, name, given", CALLS, ids=[f"{cls}: {name}" for cls, name, _ in CALLS])
def test_errors_of_calls(cls: str, name: str, given: dict[str, Any], models: dict) -> None:
    found = {b: _raised(lambda b=b: models[cls][b](**_native(b, given))) for b in BACKENDS}
    assert set(found.values()) == {found[BACKENDS[0]]}, found
    assert found[BACKENDS[0]][0] == "InputError"


def _with(adaptor: Adaptor, cls: str, folder: Any, **kwargs: Any) -> tuple[str, str]:
    kind, message = _raised(lambda: adaptor.model_class(cls).from_pretrained(folder, **kwargs))
    message = message.partition("looked for")[0]  # each backend looks for its own file first
    return kind, message.replace(f"{adaptor.prefix}CLIP", "CLIP") if adaptor.prefix else message


def _spoilt(folder: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Broken checkpoints: name -> (class to ask for, keywords)."""
    from safetensors.numpy import load_file, save_file

    adaptor = ADAPTORS[BACKENDS[0]]
    for name in ("full", "missing", "shapes", "cut", "not_json", "nan"):
        adaptor.build(CASES["class.CLIPModel"]).save_pretrained(folder / name, safe_serialization=True)
    adaptor.build(CASES["class.CLIPTextModel"]).save_pretrained(folder / "tower", safe_serialization=True)
    weights = load_file(folder / "full" / "model.safetensors")
    fewer = {name: value for name, value in weights.items() if "layer_norm1" not in name}
    save_file({**fewer, "text_model.more": np.zeros(2, np.float32)}, folder / "missing" / "model.safetensors")
    other = {**weights, "visual_projection.weight": np.zeros((2, 3), np.float32)}
    save_file(other, folder / "shapes" / "model.safetensors")
    whole = (folder / "full" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "not_json" / "config.json").write_text("{")
    text = (folder / "nan" / "config.json").read_text()
    (folder / "nan" / "config.json").write_text(text.replace('"projection_dim": 16', '"projection_dim": NaN'))
    (folder / "empty").mkdir()
    names = ("missing", "shapes", "cut", "not_json", "nan", "empty", "nowhere", "tower")
    full: dict[str, Any] = dict.fromkeys(names, ("CLIPModel", {}))
    return {
        **full,
        "full": ("CLIPModel", {"nonsense": 3}),
        "./full": ("CLIPTextModel", {"torch_dtype": "float99"}),
        "./tower": ("CLIPTextModelWithProjection", {}),
        "././tower": ("CLIPVisionModel", {}),
        "././full": ("CLIPTextModel", {"hidden_act": "swish7"}),
    }


def test_errors_of_loading(tmp_path: Any) -> None:
    for name, (cls, kwargs) in _spoilt(tmp_path).items():
        found = {b: _with(ADAPTORS[b], cls, tmp_path / name, **kwargs) for b in BACKENDS}
        assert set(found.values()) == {found[BACKENDS[0]]}, (name, found)
        wanted = {"nan": "ConfigError", "empty": "FileNotFoundError"}
        wanted |= {"nowhere": "FileNotFoundError", "full": "TypeError", "././full": "ConfigError"}
        wanted |= {"./full": "ValueError"}
        assert found[BACKENDS[0]][0] == wanted.get(name, "CheckpointError"), (name, found)


def test_errors_of_construction() -> None:
    for cls in data.CLASSES:
        wrong = clip_core.CLIPVisionConfig() if "Vision" not in cls else clip_core.CLIPTextConfig()
        found = set()
        for backend in BACKENDS:
            adaptor = ADAPTORS[backend]
            kind, message = _raised(lambda a=adaptor, c=cls, w=wrong: a.model_class(c)(w))
            found.add((kind, message.removeprefix(adaptor.prefix)))
        assert len(found) == 1, found
        assert next(iter(found))[0] == "TypeError"
