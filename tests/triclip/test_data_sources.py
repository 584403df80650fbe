"""Sources: the samples of each format, and the errors for unusable data."""

import csv
import json
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core.errors import DataError
from tests.triclip.image_text import array_record, example, picture, shard, table, write_tar
from triclip.data import open_source
from triclip.data.sources import expand
from triclip.data.webdataset import IMAGE, LARGEST


def test_patterns_and_braces(tmp_path):
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b.tar", "odd[1].tar"):
        (tmp_path / name).touch()

    def names(*patterns):
        return [path.name for path in expand([str(tmp_path / pattern) for pattern in patterns])]

    assert names("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert names("{b,a-09}.tar", "a-*.tar") == ["b.tar", "a-09.tar", "a-08.tar", "a-09.tar", "a-10.tar"]
    assert names("odd[1].tar") == ["odd[1].tar"]
    with pytest.raises(FileNotFoundError, match=r"a-11\.tar"):
        names("a-{09..11}.tar")
    with pytest.raises(FileNotFoundError, match=r"c\*"):
        names("c*")
    with pytest.raises(DataError, match="URL"):
        expand("https://example.org/a.tar")
    with pytest.raises(DataError, match="at least one"):
        expand([])


# -- tar shards -------------------------------------------------------------------------------------------------------


def test_shards_in_order_and_from_any_place(tmp_path):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", 4 + number, first=10 * number)
    source = open_source(str(tmp_path / "{0..2}.tar"))
    numbers = [*range(4), *range(10, 15), *range(20, 26)]
    assert len(source) == 15
    again = pickle.loads(pickle.dumps(source))
    for place in (14, 0, 4, 3, 9):
        for one in (source, again):
            sample = one[place]
            assert sample.images == [picture(numbers[place])]
            assert sample.captions == [f"caption {numbers[place]}"]
            assert sample.name == one.name(place) == f"{tmp_path}/{numbers[place] // 10}.tar: {numbers[place]:05d}"
    with pytest.raises(IndexError):
        source[15]


def test_several_pictures_and_captions_of_one_key(tmp_path):
    members = [
        ("d/1.front.jpg", b"f"), ("d/1.back.jpg", b"b"), ("d/1.txt", b" first "), ("d/1.2.txt", b"left aside"),
        ("d/2.jpg", b"p"), ("d/2.mask.png", b"m"), ("d/2.json", b'{"captions": ["x", " ", "y"]}'),
        ("d/__notes__.jpg", b""), ("d/3.jpg", b"no caption"), ("e/4.txt", b"no picture"),
        ("e/5.PNG", b"q"), ("e/5.caption", b"upper case"),
    ]  # fmt: skip
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert [(sample.images, sample.captions) for sample in source] == [
        ([b"f", b"b"], ["first"]), ([b"p"], ["x", "y"]), ([b"q"], ["upper case"])
    ]  # fmt: skip
    masks = open_source(tmp_path / "a.tar", image_key="mask.png")
    assert [sample.images for sample in masks] == [[b"m"]]


def test_keys_of_shards(tmp_path):
    record = {"title": "T", "alt": ["A", "B"]}
    members = [
        ("1.jpg", b"j"),
        ("1.png", b"p"),
        ("1.json", json.dumps(record).encode()),
        ("1.cls", b"7"),
        ("1.de", b"d"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert open_source(path)[0].captions == ["T"]
    assert open_source(path, caption_key="alt")[0].captions == ["A", "B"]
    assert open_source(path, caption_key="alt,title")[0].captions == ["A", "B", "T"]
    assert open_source(path, caption_key="de")[0].captions == ["d"]
    assert open_source(path, image_key="png")[0].images == [b"p"]
    assert open_source(path, image_key="jpg;png")[0].images == [b"j", b"p"]
    assert open_source(path, label_key="")[0].label == 7
    with pytest.raises(DataError, match="'nothing' in the JSON record, found 'title', 'alt'"):
        open_source(path, caption_key="nothing")
    with pytest.raises(DataError, match=r"webp.*suffixes cls, de, jpg, json, png"):
        open_source(path, image_key="webp")


def test_long_names_group_too(tmp_path):
    stem = "folder/" * 20 + "x" * 60
    members = [(f"{stem}{n}.{s}", f"{n}{s}".encode()) for n in range(3) for s in ("jpg", "txt")]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        source = open_source(write_tar(tmp_path / "a.tar", members, format))
        assert [sample.captions for sample in source] == [["0txt"], ["1txt"], ["2txt"]]


def test_shards_that_cannot_be_used(tmp_path, caplog):
    empty, zeros = tmp_path / "empty.tar", tmp_path / "zeros.tar"
    empty.touch()
    write_tar(zeros, [])
    for path in (empty, zeros):
        with pytest.raises(DataError, match=rf"{path.name}.*empty shard"):
            open_source(path)
    good = shard(tmp_path / "good.tar", 2)
    with pytest.raises(DataError, match=r"zeros\.tar"):  # also behind good ones
        open_source([good, zeros])
    with pytest.raises(DataError, match=r"pictures\.tar.*suffixes jpg"):
        open_source(write_tar(tmp_path / "pictures.tar", [("1.jpg", b"x"), ("2.jpg", b"x")]))
    data = good.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 3])
    with pytest.raises(DataError, match=r"cut\.tar: cut off"):
        open_source(tmp_path / "cut.tar")
    with pytest.raises(DataError, match="unpack"):
        (tmp_path / "a.tar.gz").touch()
        open_source(tmp_path / "a.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"no\.tar"):
        open_source(tmp_path / "no.tar")
    end = data.rstrip(b"\0")
    (tmp_path / "open.tar").write_bytes(end + bytes(-len(end) % 512))
    with caplog.at_level(logging.WARNING, "triclip"):
        assert len(open_source(tmp_path / "open.tar")) == 2
    assert "no end mark" in caplog.text


def damaged_set(tmp_path):
    """Five shards: the second cut, the fourth missing."""
    paths = [shard(tmp_path / f"{number}.tar", 3, first=3 * number) for number in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    paths[3].unlink()
    return tmp_path / "{0..4}.tar"


def test_missing_and_damaged_shards_are_skipped_counted_and_named(tmp_path, caplog):
    pattern = damaged_set(tmp_path)
    with caplog.at_level("WARNING", "triclip"):
        source = open_source(pattern, skip_shards=2)
    found = [sample.captions[0] for sample in pickle.loads(pickle.dumps(source))]
    assert found == [f"caption {number}" for number in (0, 1, 2, 6, 7, 8, 12, 13, 14)]
    assert sorted(Path(name).name for name in source.skipped_shards) == ["1.tar", "3.tar"]
    said = [record.getMessage() for record in caplog.records if "skipped a shard" in record.getMessage()]
    assert (
        len(said) == 2
        and "3.tar" in said[0]
        and "no such file" in said[0]
        and "1.tar" in said[1]
        and "2 of at most 2" in said[1]
    )


def test_missing_shards_beyond_the_limit_end_it(tmp_path):
    pattern = damaged_set(tmp_path)
    with pytest.raises(DataError, match=r"at most 1 missing.*skip_shards.*found 2, the first: .*3\.tar"):
        open_source(pattern, skip_shards=1)
    with pytest.raises(FileNotFoundError, match=r"3\.tar"):
        open_source(pattern)
    with pytest.raises(DataError, match=r"1\.tar"):  # nothing is left
        open_source(tmp_path / "1.tar", skip_shards=5)
    with pytest.raises(FileNotFoundError, match=r"7\.tar"):
        open_source([tmp_path / "7.tar", tmp_path / "8.tar"], skip_shards=5)
    with pytest.raises(FileNotFoundError, match=r"x\.csv"):  # a table is no shard
        open_source([table(tmp_path / "t", 3, "a.csv"), tmp_path / "x.csv"], skip_shards=5)


def test_shards_of_other_formats_are_skipped_too(tmp_path):
    records = [[example(image=picture(n), text=str(n).encode())] * 2 for n in range(3)]
    paths = [array_record(tmp_path / f"{n}.array_record", one) for n, one in enumerate(records)]
    paths[1].write_bytes(b"junk" * 100)
    source = open_source(paths, skip_shards=1)
    assert [sample.captions for sample in source] == [["0"], ["0"], ["2"], ["2"]] and len(source.skipped_shards) == 1
    pyarrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    for n in range(3):
        pyarrow.write_table(pa.table({"image": [picture(n)], "caption": [str(n)]}), tmp_path / f"{n}.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    source = open_source(str(tmp_path / "*.parquet"), skip_shards=1)
    assert [sample.captions for sample in source] == [["0"], ["2"]] and len(source.skipped_shards) == 1


def test_a_broken_sample_is_its_own_error(tmp_path):
    path = shard(tmp_path / "a.tar", 4, s1_txt=b"\xff\xfe", s2_txt=b"  ")
    source = open_source(path)
    assert source[0].captions and source[3].captions
    for number, what in ((1, "UTF-8"), (2, "caption")):
        with pytest.raises(DataError, match=rf"a\.tar: 0000{number}: .*{what}"):
            source[number]
    records = [(f"{n}.{s}", d) for n, j in enumerate((b"{}", b"[1]", b"{", b'{"text": 3}', b'{"text": "ok"}'))
               for s, d in (("jpg", b"x"), ("json", j))]  # fmt: skip
    source = open_source(write_tar(tmp_path / "b.tar", records))
    for number in range(4):
        with pytest.raises(DataError, match=rf"b\.tar: {number}"):
            source[number]
    assert source[4].captions == ["ok"]


def test_members_larger_than_any_picture_are_not_read(tmp_path, monkeypatch):
    source = open_source(shard(tmp_path / "a.tar", 3, s1_png=b"x" * 9000))
    monkeypatch.setitem(LARGEST, IMAGE, 8999)
    assert source[0].images and source[2].images
    with pytest.raises(DataError, match=r"00001: wanted members of at most 8999 bytes, found 9000"):
        source[1]


def test_a_shard_that_shrinks_later_is_an_error_not_a_hang(tmp_path):
    source = open_source(shard(tmp_path / "a.tar", 3))
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar"):
        pickle.loads(pickle.dumps(source))[2]


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_tables(tmp_path, name):
    source = open_source(table(tmp_path, 5, name))
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [sample.captions for sample in one] == [[f"caption {n}"] for n in range(5)]
        assert one[3].images == [f"{tmp_path}/pictures/3.png"]
        assert one.name(3) == f"{tmp_path}/{name}: row 4"
    with pytest.raises(DataError, match=r"'nothing'; found 'image', 'caption'|'nothing'; found 'caption'"):
        open_source(tmp_path / name, caption_key="nothing")
    with pytest.raises(DataError, match=r"'nothing'; found 'image', 'caption'"):
        open_source(tmp_path / name, image_key="nothing")
    with pytest.raises(DataError, match=r"label.*found 'image', 'caption'"):
        open_source(tmp_path / name, label_key="")


def test_csv_as_spreadsheets_write_it(tmp_path):
    rows = [
        "file_name,text,label",
        '"a,1.jpg","two\nlines, ""quoted""\u2028",cat',
        "",
        'b.jpg,5" pipe,3',
        "c.jpg,[1] bracket,4",
    ]
    text = "\ufeff" + "\r\n".join(rows)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    source = open_source(tmp_path / "a.csv", label_key="")
    assert [(s.images, s.captions, s.label) for s in source] == [
        ([f"{tmp_path}/a,1.jpg"], ['two\nlines, "quoted"'], "cat"),
        ([f"{tmp_path}/b.jpg"], ['5" pipe'], 3),
        ([f"{tmp_path}/c.jpg"], ["[1] bracket"], 4),
    ]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6), st.sampled_from(["a.csv", "a.tsv"]))
def test_whatever_a_csv_writer_writes_is_found_again(tmp_path_factory, captions, name):
    path = tmp_path_factory.mktemp("t") / name
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",")
        writer.writerows([["caption", "image"], *([f"{caption}.", "x.jpg"] for caption in captions)])
    found = [sample.captions for sample in open_source(path)]
    assert found == [[f"{caption}.".strip()] for caption in captions]


def test_lists_in_tables(tmp_path):
    (tmp_path / "a.csv").write_text('image,caption\n"[""1.jpg"", ""2.jpg""]","[""x"", ""y""]"\n')
    sample = open_source(tmp_path / "a.csv")[0]
    assert (list(sample.images), sample.captions) == ([f"{tmp_path}/1.jpg", f"{tmp_path}/2.jpg"], ["x", "y"])
    rows = [
        {"images": ["1.jpg", "/2.jpg"], "en": "x", "de": ["y", "", "z"]},
        {"images": "3.jpg", "en": "w", "de": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    source = open_source(tmp_path / "a.jsonl", caption_key="en, de")
    assert [(list(s.images), s.captions) for s in source] == [
        ([f"{tmp_path}/1.jpg", "/2.jpg"], ["x", "y", "z"]), ([f"{tmp_path}/3.jpg"], ["w"])
    ]  # fmt: skip


WRITTEN = [
    """['a cat', "b's dog"]""",
    """['a cat' "b's dog"]""",  # a NumPy array
    """['a cat'\n "b's dog"]""",
    """["a cat", "b's dog"]""",
    """["a cat", null, "b's dog"]""",
    """['a cat', None, "b's dog"]""",
    """['a cat', nan, "b's dog"]""",
    """('a cat', "b's dog")""",
    """{"b's dog", 'a cat'}""",
    """[{'raw': 'a cat'}, {'raw': "b's dog"}]""",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_lists_as_pandas_writes_them(tmp_path, written):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], ["1.png", written]])
    assert open_source(tmp_path / "a.csv")[0].captions == ["a cat", "b's dog"]


@pytest.mark.parametrize(
    "caption", ["[cat]", "['a'] or ['b']", "[a 'cat']", "['tis]", "[1, 2]", "(a cat)", "{x}", "(1, 2)"]
)
def test_a_caption_in_brackets_is_no_list(tmp_path, caption):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], [" 1.png", caption]])
    sample = open_source(tmp_path / "a.csv")[0]
    assert sample.captions == [caption] and sample.images[0].endswith("/ 1.png")


def test_a_shortened_list_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\n1.png,['a' 'b' ... 'z']\n")
    with pytest.raises(DataError, match=r"a\.csv: row 1.*shortened"):
        open_source(tmp_path / "a.csv")


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_every_end_of_a_line(tmp_path, name, end):
    mark = "," if name == "a.csv" else "\t"
    lines = [["image", "caption"], ["1.png", f'"one{end}line ""more"""'], ["2.png", "zwölf"], ["3.png", "three"]]
    (tmp_path / name).write_bytes(end.join(mark.join(line) for line in lines).encode())
    source = open_source(tmp_path / name)
    assert [sample.captions[0] for sample in source] == [f'one{end}line "more"', "zwölf", "three"]
    assert [Path(sample.images[0]).name for sample in source] == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize("row", ['2.png,"a dog', '2.png,"a dog" barks', '2.png,"a "dog"'])
def test_a_quote_that_is_not_closed_names_its_row(tmp_path, row):
    (tmp_path / "a.csv").write_text(f'image,caption\n1.png,"a\ncat"\n{row}\n3.png,a bird\n4.png,a fish\n')
    with pytest.raises(DataError, match=r"a\.csv: row 2 \(line 4\): wanted fields in quotes that are closed"):
        open_source(tmp_path / "a.csv")


def test_a_column_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,caption\n1.png,a,b\n")
    with pytest.raises(DataError, match=r"a\.csv: wanted one column 'caption', found 2"):
        open_source(tmp_path / "a.csv")


def test_several_tables_of_one_kind(tmp_path):
    source = open_source([table(tmp_path / "a", 3), table(tmp_path / "b", 2)])
    assert [sample.images[0] for sample in source][2:4] == [
        f"{tmp_path}/a/pictures/2.png",
        f"{tmp_path}/b/pictures/0.png",
    ]
    assert source.name(4) == f"{tmp_path}/b/train.jsonl: row 2"
    with pytest.raises(DataError, match="one kind"):
        open_source([tmp_path / "a" / "train.jsonl", table(tmp_path / "c", 1, "c.csv")])
    with pytest.raises(DataError, match="one format"):
        open_source([tmp_path / "a" / "train.jsonl", shard(tmp_path / "s.tar", 1)])
    (tmp_path / "a" / "test.jsonl").touch()
    with pytest.raises(DataError, match=r"test\.jsonl, train\.jsonl"):
        open_source(tmp_path / "a")
    assert len(open_source(tmp_path / "b")) == 2  # one table in a folder is that folder's


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"image,caption\n", "rows"),
        ("a.csv", b"\n\n", "header"),
        ("a.csv", b"image,\xff\n1.jpg,x\n", "UTF-8"),
        ("a.csv", b"image,caption\n1.jpg\n", "2 fields, found 1"),
        ("a.csv", b'image,caption\n1.jpg,"' + b"x" * 200_000, "quotes"),
        ("a.csv", b"image,caption\nhttps://example.org/1.jpg,x\n", "download"),
        ("a.csv", b"image,caption\n1.jpg,\n", "caption"),
        ("a.csv", b"image,caption\n,x\n", "picture"),
        ("a.jsonl", b"", "rows"),
        ("a.jsonl", b"\n  \n", "rows"),
        ("a.jsonl", b'{"image": "1.jpg", "text": "x"\n', "found none"),
        ("a.jsonl", b"[1]\n[2]\n", "found none"),
        ("a.jsonl", b'{"image": 5, "text": "x"}\n', "path or bytes"),
        ("a.jsonl", b"[" * 100_000, "found none"),
        ("a.parquet", b"PAR1 not really", "parquet"),
        ("a.xlsx", b"PK", r"\.xlsx"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name}.*{message}"):
        open_source(tmp_path / name)


def test_a_broken_row_is_its_own_error(tmp_path):
    lines = [b"image,caption", b"0.jpg,zero", b"1.jpg,\xe9t\xe9", b"2.jpg", b"3.jpg,three", b"4.jpg, "]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    source = open_source(tmp_path / "a.csv")
    assert len(source) == 5 and source[0].captions == ["zero"] and source[3].captions == ["three"]
    for number, message in ((1, "UTF-8"), (2, "fields"), (4, "caption")):
        with pytest.raises(DataError, match=rf"row {number + 1}: .*{message}"):
            source[number]
    (tmp_path / "a.jsonl").write_bytes(
        b'{"image": "0.jpg", "text": "ok"}\n{"image"\n{"image": "2.jpg", "text": "\xff"}\n'
    )
    source = open_source(tmp_path / "a.jsonl")
    assert len(source) == 3 and source[0].captions == ["ok"]
    for number in (1, 2):
        with pytest.raises(DataError, match=f"row {number + 1}"):
            source[number]


def parquet(file, row_group_size=2, **columns):
    arrow = pytest.importorskip("pyarrow", reason="parquet is read with pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet is read with pyarrow")
    pq.write_table(arrow.table(columns), file, row_group_size=row_group_size)
    return file


def test_parquet(tmp_path, monkeypatch):
    pictures = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(5)]
    parquet(tmp_path / "a.parquet", image=pictures, caption=[[f"caption {n}", "b"] for n in range(5)])
    parquet(tmp_path / "b.parquet", image=[b"x", b"y"], caption=["p", "q"])
    parquet(tmp_path / "c.parquet", path=[["1.jpg"], ["2.jpg", "3.jpg"]], text=["p", "q"], label=[1, 0])
    source = open_source(tmp_path / "a.parquet")
    monkeypatch.setattr("triclip.data.arrow.ROW_GROUP_MEMORY", 1)  # one row group at a time
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [one[n].images for n in (4, 0, 3)] == [[picture(4)], [picture(0)], [picture(3)]]
        assert one[2].captions == ["caption 2", "b"] and one.name(4) == f"{tmp_path}/a.parquet: row 5"
    assert [s.images for s in open_source(tmp_path / "b.parquet")] == [[b"x"], [b"y"]]
    source = open_source(tmp_path / "c.parquet", label_key="label")
    assert source[1].images == [f"{tmp_path}/2.jpg", f"{tmp_path}/3.jpg"]
    assert [sample.label for sample in source] == [1, 0]
    assert len(open_source(str(tmp_path / "[ab].parquet"))) == 7
    with pytest.raises(DataError, match="'text' or|found 'path', 'text', 'label'|found 'text', 'label'"):
        open_source(tmp_path / "c.parquet", caption_key="caption")
    with pytest.raises(DataError, match="empty"):
        open_source(parquet(tmp_path / "d.parquet", image=[], caption=[]))


def test_damaged_parquet(tmp_path):
    path = parquet(tmp_path / "a.parquet", image=[picture(n) for n in range(4)], caption=["x"] * 4)
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    source = open_source(path)  # the second row group is whole
    assert source[3].images == [picture(3)]
    with pytest.raises(DataError, match=r"a\.parquet: row group 0"):
        source[1]
    path.write_bytes(data[:1000])
    with pytest.raises(DataError, match=r"a\.parquet"):
        open_source(path)


# -- Hugging Face -----------------------------------------------------------------------------------------------------


def test_folders_of_save_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="its folders are what is read")
    import io

    from PIL import Image

    pictures = [Image.open(io.BytesIO(picture(n))) for n in range(5)]
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = {"image": datasets.Image(), "caption": datasets.Value("string"), "label": names}
    columns = {"image": pictures, "caption": [f"caption {n}" for n in range(5)], "label": [0, 1, 1, 0, 0]}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.select([4, 2, 0, 1]).save_to_disk(tmp_path / "chosen", num_shards=3)
    source = open_source(tmp_path / "chosen")
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [sample.captions for sample in one] == [[f"caption {n}"] for n in (4, 2, 0, 1)]
        decoded = np.asarray(Image.open(io.BytesIO(one[1].images[0])))
        assert np.array_equal(decoded, np.asarray(pictures[2]))
    labelled = open_source(tmp_path / "chosen", label_key="")
    assert [sample.label for sample in labelled] == [0, 1, 0, 1] and labelled.label_names == ["cat", "dog"]
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="train, test"):
        open_source(tmp_path / "both")
    assert len(open_source(tmp_path / "both" / "test")) == 5
    with pytest.raises(DataError, match="found 'image', 'caption', 'label'|found 'caption', 'label'"):
        open_source(tmp_path / "chosen", caption_key="texts")

    file = next((tmp_path / "chosen").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=file.name):
        open_source(tmp_path / "chosen")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        open_source(tmp_path / "chosen")
    (tmp_path / "chosen" / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    with pytest.raises(DataError, match="data files"):
        open_source(tmp_path / "chosen")


# -- folders of pictures ----------------------------------------------------------------------------------------------


def test_folders_of_pictures(tmp_path):
    for number in range(3):
        (tmp_path / f"sub{number}").mkdir()
        (tmp_path / f"sub{number}" / "p.PNG").write_bytes(picture(number))
        (tmp_path / f"sub{number}" / "p.txt").write_text(f"caption {number}\n")
        (tmp_path / f"sub{number}" / "alone.jpg").write_bytes(b"")
    source = pickle.loads(pickle.dumps(open_source(tmp_path)))
    assert [(s.images, s.captions) for s in source] == [
        ([f"{tmp_path}/sub{n}/p.PNG"], [f"caption {n}"]) for n in range(3)
    ]
    (tmp_path / "sub0" / "p.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        source[0]
    classes = open_source(tmp_path, label_key="")
    assert len(classes) == 6 and classes.label_names == ["sub0", "sub1", "sub2"]
    assert [sample.label for sample in classes] == [0, 0, 1, 1, 2, 2] and classes[1].captions == []
    (tmp_path / "none").mkdir()
    for key in (None, ""):
        with pytest.raises(DataError, match="none"):
            open_source(tmp_path / "none", label_key=key)


# -- ArrayRecord ------------------------------------------------------------------------------------------------------


def test_array_records(tmp_path):
    records = [example(image__encoded=picture(n), caption=[b"a", f"{n}".encode()], label=n - 1) for n in range(4)]
    array_record(tmp_path / "a.array_record-00000-of-00002", records[:3])
    array_record(tmp_path / "a.array_record-00001-of-00002", records[3:])
    source = open_source(str(tmp_path / "a.array_record-*"))
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [one[n].captions for n in (3, 0)] == [["a", "3"], ["a", "0"]] and one[2].images == [picture(2)]
    assert [s.label for s in open_source(tmp_path, label_key="label")] == [-1, 0, 1, 2]
    assert source.name(3) == f"{tmp_path}/a.array_record-00001-of-00002: record 1"
    with pytest.raises(DataError, match="found 'image/encoded', 'caption', 'label'|found 'caption', 'label'"):
        open_source(str(tmp_path / "a.array_record-*"), caption_key="text")


def test_array_records_that_cannot_be_used(tmp_path):
    path = array_record(tmp_path / "a.arrayrecord", [b"\x0a\xff\xff\xff\xff\x7f", b"no example", b""])
    with pytest.raises(DataError, match=r"a\.arrayrecord: record 1"):
        open_source(path)
    data = array_record(path, [example(image=b"x", text=b"y")] * 50).read_bytes()
    for damaged in (b"", b"junk" * 40_000, data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.arrayrecord"):
            open_source(path)


def test_examples_against_tensorflows_own(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="its records are the reference")
    from triclip.data.example import parse_example

    feature, lists = tf.train.Feature, tf.train
    made = tf.train.Example(
        features=tf.train.Features(
            feature={
                "b": feature(bytes_list=lists.BytesList(value=[b"", b"\xff" * 300])),
                "f": feature(float_list=lists.FloatList(value=[0.5, -2.0])),
                "i": feature(int64_list=lists.Int64List(value=[0, -1, 2**62, 300])),
                "none": feature(),
            }
        )
    )
    want = {"b": [b"", b"\xff" * 300], "f": [0.5, -2.0], "i": [0, -1, 2**62, 300], "none": []}
    assert parse_example(made.SerializeToString(), "x") == want


def test_hostile_examples_never_crash():
    from triclip.data.example import parse_example

    whole, numbers = example(image=b"x" * 40, text=[b"y"], label=-3), np.random.default_rng(0)
    for cut in range(len(whole)):
        with pytest.raises(DataError):
            parse_example(whole[:cut], "x")
    for _ in range(500):
        data = bytearray(whole)
        for place in numbers.integers(0, len(whole), 3):
            data[place] = numbers.integers(256)
        try:
            parse_example(bytes(data), "x")
        except DataError:
            pass
