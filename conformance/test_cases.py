"""Every case on every installed backend against transformers 4.37.2: values, nesting, gradients."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from . import cases as data
from .adaptors import ADAPTORS, Adaptor
from .compare import FORWARD, GRADIENT, golden, gradient_errors, part, worst

CASES = {case.name: case for case in data.cases()}
VALUES = [name for name, case in CASES.items() if case.values]
GRADIENTS = [name for name, case in CASES.items() if case.gradients]


@pytest.fixture(params=ADAPTORS)
def backend(request: pytest.FixtureRequest) -> Adaptor:
    adaptor = ADAPTORS[request.param]
    if not adaptor.installed():
        pytest.skip(f"{adaptor.installed_as} is not installed")
    return adaptor


def test_drawn_weights_and_inputs_are_those_of_the_golden_run() -> None:
    """If NumPy's streams changed, all other tests would fail for a reason that is hard to find."""
    from clip_core import config as configs
    from clip_core.weights import weight_table

    kinds = {"text": configs.CLIPTextConfig, "vision": configs.CLIPVisionConfig, "full": configs.CLIPConfig}
    for case in CASES.values():
        scope = case.tower + ("_projection" if "Projection" in case.cls else "")
        table = weight_table(kinds[case.tower](**data.config_copy(case)), scope)
        weights = [data.draw_weight(name, row.shape) for name, row in table.items()]
        arrays = data.draw_inputs(case).values()
        sums = [sum(np.abs(np.float64(array)).sum() for array in arrays) for arrays in (weights, arrays)]
        np.testing.assert_allclose(sums, golden(case.name)["drawn"], rtol=1e-9, err_msg=case.name)


@pytest.mark.parametrize("name", VALUES)
def test_values(backend: Adaptor, name: str) -> None:
    case = CASES[name]
    output = data.flatten(backend.call(backend.build(case), case))
    error, where = worst(output, backend.expected(case, part(golden(name), "out/")))
    assert error <= FORWARD, f"{where}: {error:.1e}"


@pytest.mark.parametrize("name", CASES)
def test_nesting_order_and_shapes(backend: Adaptor, name: str) -> None:
    case = CASES[name]
    got = backend.structure(backend.build(case), case)
    assert got == backend.expected_structure(case, json.loads(str(golden(name)["structure"])))


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(backend: Adaptor, name: str) -> None:
    case = CASES[name]
    got = backend.gradients(backend.build(case), case)
    error, where = gradient_errors(got, part(golden(name), "grad/"))
    assert error <= GRADIENT, f"{where}: {error:.1e}"


@pytest.mark.parametrize("name", [name for name in GRADIENTS if CASES[name].flags.get("output_attentions")])
def test_fused_attention(backend: Adaptor, name: str) -> None:
    """Asking for attentions may take another path through a layer: the same values and gradients without."""
    case = replace(CASES[name], flags={**CASES[name].flags, "output_attentions": False})
    model = backend.build(case)
    want = {key: value for key, value in part(golden(name), "out/").items() if "attentions" not in key}
    error, where = worst(data.flatten(backend.call(model, case)), backend.expected(case, want))
    assert error <= FORWARD, f"{where}: {error:.1e}"
    error, where = gradient_errors(backend.gradients(model, case), part(golden(name), "grad/"))
    assert error <= GRADIENT, f"{where}: {error:.1e}"


def test_features_are_plain_and_not_normalised(backend: Adaptor) -> None:
    case = CASES["class.CLIPModel"]
    got = backend.features(backend.build(case), case)
    want = {key.removeprefix("features/"): v for key, v in _contract().items() if key.startswith("features/")}
    error, where = worst(got, want)
    assert error <= FORWARD, f"{where}: {error:.1e}"
    assert not np.allclose(np.linalg.norm(got["text"], axis=-1), 1, atol=0.05)


@pytest.mark.parametrize("cls", data.CLASSES)
def test_state_dict_names_and_shapes(backend: Adaptor, cls: str) -> None:
    model = backend.build(CASES[f"class.{cls}"])
    want = json.loads(str(_contract()[f"state_dict/{cls}"]))
    assert {name: list(array.shape) for name, array in backend.weights(model).items()} == dict(want)


def test_order_of_the_torch_state_dict() -> None:
    adaptor = ADAPTORS["torch"]
    if not adaptor.installed():
        pytest.skip("torch is not installed")
    for cls in data.CLASSES:
        names = [name for name, _ in json.loads(str(_contract()[f"state_dict/{cls}"]))]
        assert list(adaptor.build(CASES[f"class.{cls}"]).state_dict()) == names


def _contract() -> dict[str, np.ndarray]:
    from .compare import golden_file

    return golden_file("contract")
