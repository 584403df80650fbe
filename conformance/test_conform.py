"""`triclip conform`: agreement, every cause provoked, reports, exit codes, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triclip.conform.run as engine
from clip_core import CLIPConfig, CLIPImageProcessor, InputError, MissingDependencyError
from clip_core import checkpoint as checkpoints
from clip_core.weights import weight_table
from triclip.command import main
from triclip.conform import Report, conform, inputs, save_reference, trace

from . import cases as data
from .adaptors import installed

BACKEND = (installed() or ["torch"])[0]
pytestmark = pytest.mark.skipif(not installed(), reason="no backend is installed")

# Square towers, so that a transposed weight fits and only changes the numbers; pictures of 28 pixels.
WIDTH = 24
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 3}
CONFIG: dict[str, Any] = {
    "text_config": data.text(**SIZES, num_attention_heads=3),
    "vision_config": data.vision(**SIZES, num_attention_heads=2, image_size=28, patch_size=7),
    "projection_dim": WIDTH,
}


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flax's calls are compiled in the test of agreement alone: the others make many models and run each once."""
    usual = trace.run_model

    def run(backend: str, model: Any, arrays: Any) -> Any:
        if backend == "flax":
            model.jit = False
        return usual(backend, model, arrays)

    if "all_installed" not in request.node.name:
        monkeypatch.setattr(trace, "run_model", run)


def weights_of(config: CLIPConfig) -> dict[str, np.ndarray]:
    return {name: data.draw_weight(name, row.shape) for name, row in weight_table(config).items()}


def write(folder: Path, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """A checkpoint; `changes` are of both towers."""
    towers = {name: {**CONFIG[name], **changes} for name in ("text_config", "vision_config")}
    config = CLIPConfig(**{**CONFIG, **towers})
    checkpoints.save(folder, weights_of(config) if weights is None else weights, config.to_diff_dict())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint"))


def trace_of(folder: Path, arrays: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Inputs and fields, as a reference holds them."""
    loaded = trace.load_once(folder, "full")
    if arrays is None:
        arrays, _, _ = inputs.make_inputs(folder, loaded.config, "full", None, None)
    return {**arrays, **trace.run_checkpoint(BACKEND, folder, "full", arrays, "float32")}


def causes(report: Report) -> dict[str, str]:
    """Tower -> all causes found for its break."""
    return {one.tower: "; ".join(one.causes) for one in report.breaks}


# -- agreement --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(len(installed()) < 2, reason="fewer than two backends are installed")
def test_all_installed_backends_agree(folder: Path) -> None:
    report = conform(folder)
    assert report.ok, report.table()
    assert report.backends == installed()
    assert {row.backend for row in report.rows} == set(installed()[1:])
    assert all(row.tolerance == (1e-4 if "attentions" in row.field else 1e-5) for row in report.rows)
    fields = [row.field for row in report.rows if row.backend == installed()[1]]
    layers = range(4)
    for tower, embeds in (("vision", "image_embeds"), ("text", "text_embeds")):
        assert [f"{tower}_model_output.hidden_states.{i}" for i in layers] == [
            f for f in fields if f.startswith(f"{tower}_model_output.hidden")
        ]
        order = [f"{tower}_model_output.{name}" for name in ("attentions.2", "hidden_states.3", "pooler_output")]
        assert [f for f in fields if f in (*order, embeds)] == [*order, embeds]
    assert fields[-2:] == ["logits_per_image", "logits_per_text"]


def test_a_reference_of_the_same_checkpoint_agrees(folder: Path, tmp_path: Path) -> None:
    save_reference(tmp_path / "reference.npz", folder, BACKEND)
    report = conform(folder, [BACKEND], tmp_path / "reference.npz")
    assert report.ok, report.table()
    assert report.worst.error == 0.0
    assert {"pixel_values", "input_ids", "text_embeds"} <= {row.field for row in report.rows}


@pytest.mark.parametrize("scope", ["text", "text_projection", "vision", "vision_projection"])
def test_towers(scope: str, folder: Path, tmp_path: Path) -> None:
    loaded = trace.load_once(folder, scope)
    checkpoints.save(tmp_path / "tower", loaded.tensors, loaded.config.to_diff_dict())
    save_reference(tmp_path / "reference.npz", tmp_path / "tower", BACKEND)
    report = conform(tmp_path / "tower", [BACKEND], tmp_path / "reference.npz")
    assert report.ok
    assert report.scope == scope
    kept = loaded._replace(tensors={n: t.astype("float32") for n, t in loaded.tensors.items()})
    kept.config.hidden_act = "gelu"
    checkpoints.save(tmp_path / "other", kept.tensors, kept.config.to_diff_dict())
    report = conform(tmp_path / "other", [BACKEND], tmp_path / "reference.npz")
    assert list(causes(report)) == [scope.partition("_")[0]]
    assert "hidden_act 'quick_gelu', where the config says 'gelu'" in next(iter(causes(report).values()))


def test_half_precision(folder: Path) -> None:
    reference = trace_of(folder)
    report = conform(folder, [BACKEND], reference, dtype="bfloat16")
    assert report.ok, report.table()
    assert report.worst.error > 1e-4


# -- every cause, provoked --------------------------------------------------------------------------------------------


def test_activation(folder: Path, tmp_path: Path) -> None:
    report = conform(folder, [BACKEND], trace_of(write(tmp_path, hidden_act="gelu")))
    assert [one.field for one in report.breaks] == [f"{t}_model_output.hidden_states.1" for t in ("vision", "text")]
    assert [one.layer for one in report.breaks] == ["layer 0", "layer 0"]
    words = "activation: the reference agrees with hidden_act 'gelu', where the config says 'quick_gelu'"
    assert causes(report) == {"vision": words, "text": words}


def test_eps(folder: Path, tmp_path: Path) -> None:
    report = conform(folder, [BACKEND], trace_of(write(tmp_path, layer_norm_eps=1e-3)))
    words = "eps: the reference agrees with layer_norm_eps 0.001, where the config says 1e-05"
    assert causes(report) == {"vision": words, "text": words}
    assert report.breaks[0].field == "vision_model_output.hidden_states.0", "the norm before the layers"


@pytest.mark.parametrize("mistake", ["none", "inverted", "pad"])
def test_mask(mistake: str, folder: Path) -> None:
    usual = trace_of(folder)
    arrays = {name: usual[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    other = dict(arrays)
    if mistake == "none":
        del other["attention_mask"]
    elif mistake == "inverted":
        other["attention_mask"] = 1 - arrays["attention_mask"]
    else:
        other["attention_mask"] = (arrays["input_ids"] != data.EOS).astype(np.int64)
    report = conform(folder, [BACKEND], {**trace_of(folder, other), **arrays})
    assert list(causes(report)) == ["text"]
    wanted = {"none": "no attention_mask", "inverted": "1 for hidden and 0 for kept", "pad": "hides every pad_token_id"}
    assert "mask: the reference agrees with " in causes(report)["text"]
    assert wanted[mistake] in causes(report)["text"]


def test_pooling(folder: Path, tmp_path: Path) -> None:
    report = conform(folder, [BACKEND], trace_of(write(tmp_path, eos_token_id=data.EOS - 1)))
    assert report.breaks[0].field == "text_model_output.pooler_output"
    assert report.breaks[0].layer == "pooling"
    assert "pooling: the reference agrees with pooling at" in causes(report)["text"]


@pytest.mark.parametrize(
    "names, words",
    [
        (["text_model.encoder.layers.1.self_attn.v_proj.weight"] * 2, "layers.1.self_attn.v_proj.weight transposed"),
        (["vision_model.encoder.layers.2.self_attn.out_proj.weight"] * 2, "2.self_attn.out_proj.weight transposed"),
        (["text_model.encoder.layers.", "q_proj.weight"], "every self_attn.q_proj.weight transposed"),
        (["vision_model.encoder.layers.", "_proj.weight"], "every square weight transposed"),
        (["text_projection.weight"] * 2, "text_projection.weight transposed"),
        (["visual_projection.weight"] * 2, "visual_projection.weight transposed"),
    ],
)
def test_transposed_weight(names: list[str], words: str, folder: Path, tmp_path: Path) -> None:
    weights = weights_of(CLIPConfig(**CONFIG))
    start, end = names
    chosen = [name for name in weights if name.startswith(start) and name.endswith(end)]
    weights |= {name: np.ascontiguousarray(weights[name].T) for name in chosen}
    report = conform(folder, [BACKEND], trace_of(write(tmp_path, weights)))
    assert list(causes(report)) == ["text" if "text" in start else "vision"]
    found = next(iter(causes(report).values()))
    assert found.startswith("transposed weight: the reference agrees with ")
    assert found.endswith(words)
    if "layers.2" in start:
        assert report.breaks[0].layer == "layer 2"


def test_transposed_patches(folder: Path, tmp_path: Path) -> None:
    weights = weights_of(CLIPConfig(**CONFIG))
    name = "vision_model.embeddings.patch_embedding.weight"
    weights[name] = np.ascontiguousarray(weights[name].transpose(0, 1, 3, 2))
    report = conform(folder, [BACKEND], trace_of(write(tmp_path, weights)))
    assert report.breaks[0].layer == "embeddings"
    assert "patch_embedding with height and width exchanged" in causes(report)["vision"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "normalisation: the reference agrees with mean 0.5"),
        ({"do_normalize": False}, "normalisation: the reference agrees with no mean and deviation"),
        ({"do_rescale": False}, "normalisation: the reference agrees with pixels from 0 to 255"),
        ({"resample": 2}, "resampling: the reference agrees with bilinear resampling"),
        ({"size": {"height": 28, "width": 28}, "do_center_crop": False}, "squeezed to a square, not cropped"),
    ],
)
def test_preprocessing(options: dict[str, Any], words: str, folder: Path) -> None:
    pictures = inputs.made_up_pictures(28)
    usual = inputs.image_processor(folder, CLIPConfig(**CONFIG).vision_config)
    assert isinstance(usual, CLIPImageProcessor)
    pixels = usual(pictures, return_tensors="np", **options)["pixel_values"].astype(np.float32)
    reference = trace_of(folder, {**_arrays(folder), "pixel_values": pixels})
    report = conform(folder, [BACKEND], reference, images=pictures)
    assert report.breaks[0].field == "pixel_values"
    assert report.breaks[0].layer == "preprocessing"
    assert words in causes(report)["vision"]
    assert "text" not in causes(report)


def test_crop(folder: Path) -> None:
    """transformers and torchvision cut one pixel apart where the overhang leaves 3 when divided by 4."""
    picture = np.random.RandomState(0).randint(0, 256, (28, 28 + 7, 3)).astype(np.uint8)
    from PIL import Image

    pictures = [Image.fromarray(picture)]
    processor = CLIPImageProcessor(size=28, crop_size=28, profile="open_clip")
    pixels = np.asarray(processor(pictures, return_tensors="np")["pixel_values"], np.float32)
    reference = trace_of(folder, {**_arrays(folder), "pixel_values": pixels})
    report = conform(folder, [BACKEND], reference, images=pictures)
    assert "crop: the reference agrees with torchvision's resizing and crop" in causes(report)["vision"]


def test_pixels_without_the_pictures(folder: Path) -> None:
    """Causes found from arrays alone."""
    arrays = _arrays(folder)
    loaded = trace.load_once(folder, "full")
    pixels = arrays["pixel_values"]
    shifted = np.roll(pixels, 1, axis=3)
    for odd, words in ((pixels * 0.5 + 0.1, "another mean"), (pixels[:, ::-1], "blue and red"), (shifted, "1 columns")):
        scene = engine.Scene(
            BACKEND, "full", loaded, arrays, arrays, {"pixel_values": odd}, "x", "pixel_values", 1e-5, folder
        )
        assert words in "; ".join(engine.explain(scene))


def test_blue_and_red(folder: Path) -> None:
    arrays = _arrays(folder)
    flipped = {**arrays, "pixel_values": np.ascontiguousarray(arrays["pixel_values"][:, ::-1])}
    report = conform(folder, [BACKEND], {**trace_of(folder, flipped), **arrays})
    assert report.breaks[0].layer == "embeddings"
    assert "blue and red exchanged" in causes(report)["vision"]


def test_embeddings_that_are_not_normalised(folder: Path) -> None:
    reference = trace_of(folder)
    reference["image_embeds"] = reference["image_embeds"] * np.array([[3.0], [2.0], [5.0], [1.5]], np.float32)
    report = conform(folder, [BACKEND], reference)
    assert [one.field for one in report.breaks] == ["image_embeds"]
    assert "not normalised, where the model gives of unit length" in causes(report)["vision"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, s: x / np.exp(s) * s, "the stored logit_scale without its exponential"),
        (lambda x, s: x / np.exp(s), "no logit_scale"),
        (lambda x, s: x * 3, "the same logits times 3"),
        (lambda x, s: x.T, "logits_per_image and logits_per_text exchanged"),
    ],
)
def test_logits(change: Any, words: str, folder: Path) -> None:
    reference, scale = trace_of(folder), np.float32(1.7)
    for name in ("logits_per_image", "logits_per_text"):
        reference[name] = change(reference[name], scale)
    report = conform(folder, [BACKEND], reference)
    assert [one.tower for one in report.breaks] == ["both"]
    assert words in causes(report)["both"]


def test_another_shape(folder: Path) -> None:
    report = conform(folder, [BACKEND], {"text_embeds": np.zeros((4, 3), np.float32)})
    assert causes(report) == {"text": f"shape: the reference has (4, 3), where the model gives (4, {WIDTH})"}


def test_an_unknown_cause_is_called_unknown(folder: Path) -> None:
    reference = trace_of(folder)
    noise = np.random.RandomState(0).standard_normal(reference["text_model_output.hidden_states.2"].shape)
    reference["text_model_output.hidden_states.2"] = reference["text_model_output.hidden_states.2"] + 0.01 * noise
    report = conform(folder, [BACKEND], reference)
    assert [(one.field, one.causes) for one in report.breaks] == [("text_model_output.hidden_states.2", [])]
    assert "no known cause makes the numbers agree" in report.table()


def test_the_backend_that_errs_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backends of which the second computes with another eps; with a reference that sides with the first."""
    faulty = trace_of(write(tmp_path, layer_norm_eps=1e-3))
    right = trace_of(folder)
    fields = {name for name in right if name not in trace.INPUTS}
    monkeypatch.setattr(engine, "check_backends", lambda names: [BACKEND, "other"])
    usual = engine.run_checkpoint

    def run(backend: str, *args: Any) -> Any:
        return {n: faulty[n] for n in fields} if backend == "other" else usual(backend, *args)

    monkeypatch.setattr(engine, "run_checkpoint", run)
    for reference in (None, right):
        report = conform(folder, None, reference)
        assert {one.backend for one in report.breaks} == {"other"}
        assert causes(report)["vision"] == "eps: other agrees with layer_norm_eps 0.001, where the config says 1e-05"


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    return inputs.make_inputs(folder, trace.load_once(folder, "full").config, "full", None, None)[0]


# -- the command ------------------------------------------------------------------------------------------------------


def command(*argv: Any) -> int:
    return main(["conform", *map(str, argv)])


def test_exit_codes_and_reports(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good, page, written = tmp_path / "good.npz", tmp_path / "report.html", tmp_path / "report.json"
    assert command(folder, "--backends", BACKEND, "--save", good) == 0
    capsys.readouterr()
    assert command(folder, "--backends", BACKEND, "--reference", good, "--html", page, "--json", written) == 0
    printed = capsys.readouterr().out
    assert "all agree: worst relative error 0.0e+00" in printed
    assert json.loads(written.read_text())["ok"] is True
    other = write(tmp_path / "<other>", hidden_act="relu")
    assert command(other, "--backends", BACKEND, "--reference", good, "--html", page, "--json", "-") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {one["layer"] for one in report["breaks"]} == {"layer 0"}
    assert "hidden_act 'quick_gelu', where the config says 'relu'" in report["breaks"][0]["causes"][0]
    html = page.read_text()
    assert "&lt;other&gt;" in html
    assert "<other>" not in html
    assert html.count('<tr class="broken">') == sum(not row["ok"] for row in report["rows"])
    assert command(other, "--backends", BACKEND, "--reference", good, "--all") == 1
    printed = capsys.readouterr().out
    assert "text_model_output.hidden_states.2" in printed
    assert "BREAK" in printed


def test_pictures_and_sentences_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 33), (200, 10, 60)).save(tmp_path / "red.png")
    out = tmp_path / "own.npz"
    assert command("emoji", "--backends", BACKEND, "--images", tmp_path, "--texts", "red", "a cat", "--save", out) == 0
    with np.load(out) as file:
        assert len(file["pixel_values"]) == 1
        assert len(file["input_ids"]) == 2
    assert command("emoji", "--backends", BACKEND, "--reference", out) == 0


# -- bad input --------------------------------------------------------------------------------------------------------


def test_bad_references(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        conform(folder, [BACKEND], tmp_path / "nowhere.npz")
    for name, content in (("empty", b""), ("text", b"hello"), ("zip", b"PK\x03\x04" + b"\x00" * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: wanted a .npz of arrays"):
            conform(folder, [BACKEND], tmp_path / name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="wanted a .npz of arrays"):
        conform(folder, [BACKEND], tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", image_embeds=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="wanted a .npz of arrays"):
        conform(folder, [BACKEND], tmp_path / "objects.npz")
    np.savez(tmp_path / "words.npz", image_embeds=np.array(["a"]))
    with pytest.raises(InputError, match="image_embeds: wanted numbers"):
        conform(folder, [BACKEND], tmp_path / "words.npz")
    with pytest.raises(InputError, match="no field in common: it has nonsense"):
        conform(folder, [BACKEND], {"nonsense": np.zeros(3)})
    report = conform(folder, [BACKEND], {"image_embeds": np.full((4, WIDTH), np.nan)})
    assert report.breaks[0].error == float("inf")
    assert report.to_dict()["breaks"][0]["error"] is None


def test_bad_arguments(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="backends: wanted some of torch, tf, flax, found 'mxnet'"):
        conform(folder, ["mxnet"])
    with pytest.raises(InputError, match=f"nothing to compare {BACKEND} with"):
        conform(folder, [BACKEND])
    with pytest.raises(InputError, match="dtype: wanted one of float32, float16, bfloat16, found 'int8'"):
        conform(folder, [BACKEND], dtype="int8")
    with pytest.raises(InputError, match="tolerance: wanted a positive number"):
        conform(folder, [BACKEND], tolerance=0.0)
    with pytest.raises(InputError, match="texts: there is no tokenizer for this vocabulary of 59 tokens"):
        conform(folder, [BACKEND], trace_of(folder), texts=["a cat"])
    with pytest.raises(FileNotFoundError):
        conform(tmp_path / "nowhere", [BACKEND], {"image_embeds": np.zeros(3)})
    monkeypatch.setattr(trace.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'triclip\[torch\]'"):
        conform(folder)
    with pytest.raises(MissingDependencyError, match="backend 'flax' needs flax"):
        conform(folder, ["flax"])
