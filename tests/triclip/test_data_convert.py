"""Data from one format to another, and the formats that people's data come in."""

import base64
import json
import logging
from pathlib import Path

import pytest

from clip_core.errors import DataError
from tests.triclip.image_text import picture, shard, table, write_tar
from triclip.command import main
from triclip.data import arrow, open_source
from triclip.data import convert as converting
from triclip.data.convert import convert


def contents(source):
    """Pictures' bytes, captions and label of each sample."""
    read = [[one if isinstance(one, bytes) else Path(one).read_bytes() for one in s.images] for s in source]
    return [(images, list(s.captions), s.label) for images, s in zip(read, source, strict=True)]


@pytest.fixture
def source(tmp_path):
    members = [
        ("0.jpg", picture(0, format="JPEG")),
        ("0.txt", b"one"),
        ("1.a.png", picture(1)),
        ("1.b.png", picture(2)),
    ]
    members += [("1.json", json.dumps({"caption": ["two", "zwei"]}).encode()), ("2.webp", picture(3, format="WEBP"))]
    members += [("2.txt", "drei, „ü“".encode()), ("3.png", picture(4)), ("3.txt", b"four")]
    write_tar(tmp_path / "in.tar", members)
    return open_source(tmp_path / "in.tar")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to", ["webdataset", "arrayrecord", "parquet"])
def test_every_format_gives_the_same_samples(source, tmp_path, to, workers):
    pytest.importorskip({"webdataset": "tarfile", "arrayrecord": "array_record", "parquet": "pyarrow"}[to])
    report = convert(source, tmp_path / "out", to, samples_per_shard=3, workers=workers)
    assert report == {"samples": 4, "shards": 2, "skipped": 0, "written": 2}
    again = open_source(str(tmp_path / "out" / f"*{converting.SUFFIXES[to]}"))
    assert contents(again) == contents(source)
    back = convert(again, tmp_path / "back", "webdataset")
    assert back["samples"] == 4 and contents(open_source(tmp_path / "back" / "00000.tar")) == contents(source)


@pytest.mark.parametrize("to", ["webdataset", "arrayrecord", "parquet"])
@pytest.mark.parametrize("label", ["7", "tabby cat"])
def test_labels_go_along(tmp_path, to, label):
    pytest.importorskip({"webdataset": "tarfile", "arrayrecord": "array_record", "parquet": "pyarrow"}[to])
    write_tar(tmp_path / "in.tar", [("0.png", picture(0)), ("0.cls", label.encode())])
    source = open_source(tmp_path / "in.tar", label_key="")
    convert(source, tmp_path / "out", to)
    again = open_source(str(tmp_path / "out" / f"*{converting.SUFFIXES[to]}"), label_key="")
    assert contents(again) == contents(source) and again[0].label == (7 if label == "7" else label)


def test_a_conversion_that_was_stopped_goes_on(source, tmp_path, monkeypatch):
    real, calls = converting._write_tar, []

    def stops(path, samples):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(path, samples)

    monkeypatch.setitem(converting._WRITERS, "webdataset", stops)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", "webdataset", samples_per_shard=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.tar", "conversion.json"]
    report = convert(source, tmp_path / "out", "webdataset", samples_per_shard=2)
    assert report == {"samples": 4, "shards": 2, "skipped": 0, "written": 1}
    assert calls == ["00000.tar", "00001.tar", "00001.tar"]
    assert contents(open_source(str(tmp_path / "out" / "*.tar"))) == contents(source)
    with pytest.raises(DataError, match="samples_per_shard: 3, there 2"):
        convert(source, tmp_path / "out", "webdataset", samples_per_shard=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"wanted an empty folder, found notes\.txt"):
        convert(source, tmp_path / "other", "webdataset")


def test_broken_samples_are_left_out_and_named(tmp_path, caplog):
    folder = tmp_path / "t"
    table(folder, 3)
    (folder / "pictures" / "1.png").unlink()
    (folder / "pictures" / "2.png").write_bytes(b"GIF89a")
    report = convert(open_source(folder / "train.jsonl"), tmp_path / "out", "webdataset")
    assert (report["samples"], report["skipped"]) == (1, 2)
    assert "1.png" in caplog.text and "wanted a JPEG, PNG or WebP picture" in caplog.text


def test_the_command(tmp_path, capsys):
    shard(tmp_path / "a.tar", 3)
    assert main(["data", "convert", str(tmp_path / "a.tar"), str(tmp_path / "out"), "--to", "parquet"]) == 0
    assert "3 samples in 1 shards" in capsys.readouterr().out
    assert len(open_source(str(tmp_path / "out" / "*.parquet"))) == 3
    assert main(["data", "convert", str(tmp_path / "no.tar"), str(tmp_path / "o"), "--to", "parquet"]) == 1


# -- what people's data look like


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_seen_or_named(tmp_path, separator):
    (tmp_path / "a.png").write_bytes(picture(0))
    others = "".join(one for one in ",;|" if one != separator)
    rows = [
        separator.join(["image", '"note, one; two | three"', "caption"]),
        separator.join(["a.png", "x", f'"a{others} b"']),
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    assert open_source(tmp_path / "t.csv")[0].captions == [f"a{others} b"]
    (tmp_path / "u.csv").write_text(f"image{separator}caption\na.png{separator}b\n")
    assert open_source(tmp_path / "u.csv", separator=separator)[0].captions == ["b"]
    with pytest.raises(DataError, match="separator: wanted one character"):
        open_source(tmp_path / "u.csv", separator="::")


def test_tables_of_two_separators_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.png,b\n")
    (tmp_path / "b.csv").write_text("image;caption\na.png;b\n")
    with pytest.raises(DataError, match=r"b\.csv: wanted fields separated as in the table before, found ';'"):
        open_source([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_pictures_in_data_urls(tmp_path):
    text = "data:image/png;base64," + base64.b64encode(picture(5)).decode()
    rows = [{"image": text, "caption": "a"}, {"image": "data:image/png,abc", "caption": "b"}]
    rows.append({"image": "data:image/png;base64,???", "caption": "c"})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(tmp_path / "t.jsonl")
    assert source[0].images == [picture(5)]
    for number, words in ((1, "wanted a picture as data:"), (2, "wanted a picture in base64")):
        with pytest.raises(DataError, match=words):
            source[number]


@pytest.mark.parametrize("place", ["annotations/../val2017", "annotations", "images/val2017", "elsewhere"])
def test_coco_captions(tmp_path, place):
    folder, notes = (tmp_path / place).resolve(), tmp_path / "annotations"
    notes.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": number, "file_name": f"{number:012d}.png"} for number in (7, 3, 9)]
    for number in (7, 3):
        (folder / f"{number:012d}.png").write_bytes(picture(number))
    notes_of = [(3, "a"), (7, "b"), (3, "c "), (8, "of no picture")]
    told = {"images": images, "annotations": [{"image_id": i, "caption": text} for i, text in notes_of]}
    (notes / "captions_val2017.json").write_text(json.dumps(told))
    given = {"image_key": "../elsewhere"} if place == "elsewhere" else {}
    if given:
        with pytest.raises(DataError, match=r"wanted its pictures in one of .*val2017.*found no 000000000007\.png"):
            open_source(notes / "captions_val2017.json")
    source = open_source(notes / "captions_val2017.json", **given)
    assert contents(source) == [([picture(7)], ["b"], None), ([picture(3)], ["a", "c"], None)]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"images": []}, "annotations"),
        ({"annotations": []}, "images"),
        ({"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": []}, "wanted names of files"),
        ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}, "wanted captions of pictures"),
    ],
)
def test_other_json_is_refused(tmp_path, told, words):
    (tmp_path / "x.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=words):
        open_source(tmp_path / "x.json")


def test_large_row_groups_are_said(tmp_path, caplog, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = {"image": [picture(number) for number in range(8)], "caption": ["a"] * 8}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", row_group_size=4)
    with caplog.at_level(logging.WARNING):
        open_source(tmp_path / "a.parquet")
        assert caplog.text == ""
        monkeypatch.setattr(arrow, "ROW_GROUP_MEMORY", 1000)
        monkeypatch.setattr(arrow, "LARGE_GROUP", 1000)
        open_source(tmp_path / "a.parquet")
    assert "triclip data convert" in caplog.text
