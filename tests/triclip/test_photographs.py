"""Photographs told from drawings, and the line that the command line says of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from clip_core.hub import resolve_folder
from triclip.command import main
from triclip.photographs import LOOKED_AT, is_photograph, mostly_photographs

DRAWINGS = sorted((resolve_folder("emoji") / "pictures").glob("*.png"))


def a_photograph(seed=0, size=(300, 200)):
    """What a camera gives: light that changes over the scene, things of many colours, noise everywhere."""
    rng = np.random.default_rng(seed)
    scene = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8))


def matplotlib_photograph():
    matplotlib = pytest.importorskip("matplotlib")
    return Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"


def test_photographs_are_found(tmp_path):
    assert all(is_photograph(a_photograph(seed)) for seed in range(5))
    assert is_photograph(matplotlib_photograph())
    a_photograph().save(tmp_path / "a.jpg", quality=60)
    assert is_photograph(tmp_path / "a.jpg") and is_photograph(str(tmp_path / "a.jpg"))
    assert is_photograph(a_photograph().convert("L"))


def an_icon(mode="RGB", ground=(255, 255, 255)):
    icon = Image.new("RGB", (256, 256), ground)
    draw = ImageDraw.Draw(icon)
    draw.ellipse((40, 40, 216, 216), outline=(10, 20, 30), width=14)
    draw.line((128, 128, 128, 70), fill=(200, 30, 30), width=10)
    return icon.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK"])
def test_drawings_are_not(mode, tmp_path):
    assert not is_photograph(an_icon(mode))
    an_icon().save(tmp_path / "a.jpg", quality=50)
    assert not is_photograph(tmp_path / "a.jpg")


def test_bundled_drawings_are_not():
    assert DRAWINGS and not any(map(is_photograph, DRAWINGS))


def test_in_doubt_a_picture_is_no_photograph():
    cut_out = a_photograph().convert("RGBA")
    cut_out.paste((0, 0, 0, 0), (0, 0, 300, 30))
    gradient = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    for picture in (cut_out, gradient, Image.new("RGB", (1, 1)), Image.new("RGB", (1, 50)), Image.new("RGB", (9, 9))):
        assert not is_photograph(picture)


def test_most_of_a_set_decides(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    photograph, icon, broken = a_photograph(), an_icon(), tmp_path / "text.png"
    assert mostly_photographs([photograph, photograph, icon])
    assert not mostly_photographs([photograph, icon]) and not mostly_photographs(
        [photograph, broken, tmp_path / "none"]
    )
    assert not mostly_photographs([]) and not mostly_photographs([icon] * LOOKED_AT + [photograph] * 99)


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["classify", "embed", "explain"])
def test_the_command_line_says_so_in_one_line(command, tmp_path, capsys):
    a_photograph().save(tmp_path / "photo.jpg")
    an_icon().save(tmp_path / "icon.png")
    for name, says in (("photo.jpg", True), ("icon.png", False)):
        rest = {"classify": ("--labels", "a", "b"), "embed": ("-o", tmp_path / f"{name}.npz"), "explain": ("a cat",)}
        assert run(command, tmp_path / name, *rest[command]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "photographs" in line]
        assert len(lines) == says and all("drawings only" in line and "--model" in line for line in lines)


def test_search_and_serve_say_so_too(tmp_path, capsys, monkeypatch):
    pytest.importorskip("uvicorn")
    from triclip.command import serve

    monkeypatch.setattr(serve, "_serve", lambda server, listener: None)
    (tmp_path / "photos").mkdir()
    a_photograph().save(tmp_path / "photos" / "a.jpg")
    index = tmp_path / "a.index"
    assert run("embed", tmp_path / "photos", "-o", index) == 0
    capsys.readouterr()
    for arguments in (("search", index, tmp_path / "photos" / "a.jpg"), ("serve", tmp_path / "photos", "--port", 0),
                      ("serve", index, "--port", 0)):  # fmt: skip
        assert run(*arguments) == 0
        assert capsys.readouterr().err.count("drawings only") == 1, arguments
    assert run("search", index, "a cat") == 0 and "drawings" not in capsys.readouterr().err


def test_another_model_is_not_spoken_of(tmp_path, capsys):
    a_photograph().save(tmp_path / "photo.jpg")
    assert run("classify", tmp_path / "photo.jpg", "--labels", "a", "b", "--model", resolve_folder("emoji")) == 0
    assert "photographs" not in capsys.readouterr().err
