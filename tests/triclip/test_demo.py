"""The demo's sheet of icons: cut into tiles, searched, marked, drawn. (test_cli.py runs the whole with the model.)"""

import numpy as np
import pytest
from PIL import Image

from triclip import demo
from triclip.grid import CELL, MARGIN, RIGHT, draw_found

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "grey": (90, 90, 90)}


class ColourClip:
    """A model that knows colours: a picture's vector is its mean colour, a sentence's the colour it names."""

    def encode_image(self, pictures, progress=None):
        return np.array([np.asarray(picture.convert("RGB")).mean((0, 1)) for picture in pictures])

    def similarity(self, vectors, sentences):
        wanted = np.array([COLOURS[sentence.split()[-1]] for sentence in sentences], float)
        return -np.abs(vectors[:, None] - wanted[None]).sum(2) / 1000


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    picture = Image.new("RGB", (24, 16), "white")
    for number, colour in enumerate(COLOURS.values()):
        row, column = divmod(number, 3)
        picture.paste(colour, (column * 8, row * 8, column * 8 + 8, row * 8 + 8))
    picture.save(tmp_path / "sheet.png")
    monkeypatch.setattr(demo, "PICTURES", tmp_path)
    searches = [{"sentence": "something red", "right": ["red", "blue"]}, {"sentence": "not blue", "right": ["grey"]}]
    return {"file": "sheet.png", "side": 8, "columns": 3, "names": list(COLOURS), "searches": searches}


def test_tiles_are_those_named(sheet):
    found = [tile.getpixel((4, 4)) for tile in demo.tiles(sheet)]
    assert found == list(COLOURS.values()) and {tile.size for tile in demo.tiles(sheet)} == {(8, 8)}


def test_search_marks_what_is_right(sheet, tmp_path, capsys):
    demo.show_sheet(ColourClip(), sheet, tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    right, wrong = (next(line for line in lines if sentence in line) for sentence in ("something red", "not blue"))
    assert right.startswith("  + ") and right.split()[3] == "+red,"
    assert wrong.startswith("    ") and wrong.split()[2] == "blue," and "+grey" in wrong
    assert any("first rank: 1/2, among the first 3: 2/2" in line for line in lines)
    with Image.open(tmp_path / "out" / "search.png") as drawn:
        assert drawn.height == 2 * CELL + 2 * MARGIN


def test_right_pictures_are_framed(tmp_path):
    icons = [Image.new("RGB", (8, 8), colour) for colour in COLOURS.values()]
    path = draw_found(["a", "b"], [[(icons[0], False), (icons[1], True)], [(icons[2], True)]], tmp_path / "x" / "a.png")
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn)
    framed = (pixels == RIGHT).all(2)
    left = pixels.shape[1] - MARGIN - 2 * CELL
    places = [(MARGIN + row * CELL, left + column * CELL) for row in (0, 1) for column in (0, 1)]
    cells = [framed[y : y + CELL, x : x + CELL].any() for y, x in places]
    assert cells == [False, True, True, False]


def test_a_model_without_a_sheet_shows_its_pictures_alone(tmp_path, monkeypatch):
    (tmp_path / "demo.json").write_text('{"pictures": []}')
    monkeypatch.setattr(demo, "PICTURES", tmp_path)
    monkeypatch.setattr(demo.Clip, "from_pretrained", lambda backend: ColourClip())
    shown = []
    monkeypatch.setattr(demo, "show_pictures", lambda clip, listed, output: shown.append(listed))
    assert demo.show(tmp_path) == 0 and shown == [[]]
