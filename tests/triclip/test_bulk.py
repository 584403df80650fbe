"""Bulk embedding with a NumPy model: sources, skipped samples, resuming, duplicates, shares."""

import itertools
import json
import os
import tarfile
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clip_core.errors import DataError, InputError
from tests.triclip.bulk_fakes import FakeSpec, image_vector, text_vector, tree
from tests.triclip.image_text import array_record, example, picture, shard, table, write_tar
from triclip.embed import embed
from triclip.embed.work import in_order
from triclip.search import build_folder, open_each, open_index


def run(inputs, output, **options):
    options = {"samples_per_shard": 4, "batch_size": 3, "threads": 2, **options}
    return embed(inputs, output, options.pop("model", None) or FakeSpec(), **options)


def rows(output, kind="image"):
    index = open_index(Path(output) / kind)
    return [(index.metadata(row), index.vectors[row]) for row in range(len(index))]


def broken(output):
    return [json.loads(line) for line in (output / "broken.jsonl").read_text().splitlines()]


# -- sources ----------------------------------------------------------------------------------------------------------


def tars(folder):
    shard(folder / "a.tar", 6)
    shard(folder / "b.tar", 5, first=6)
    return str(folder / "{a,b}.tar")


def parquet(folder):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    values = {"image": [picture(n) for n in range(11)], "caption": [f"caption {n}" for n in range(11)]}
    pyarrow.parquet.write_table(pyarrow.table(values), folder / "t.parquet", row_group_size=3)
    return folder / "t.parquet"


def folder_of_pictures(folder):
    inside = folder / "photos"
    (inside / "deep").mkdir(parents=True)
    for n in range(11):
        path = inside / ("deep" if n > 8 else "") / f"{n:02d}.png"
        path.write_bytes(picture(n))
        path.with_suffix(".txt").write_text(f"caption {n}")
    for n in range(9, 11):  # "deep" comes after the files beside it
        assert (inside / "deep" / f"{n:02d}.png").exists()
    return inside


def saved(folder):
    datasets = pytest.importorskip("datasets", reason="writes what is read here")
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    values = {"image": [{"bytes": picture(n), "path": None} for n in range(11)]}
    values["caption"] = [f"caption {n}" for n in range(11)]
    datasets.Dataset.from_dict(values, features=features).save_to_disk(folder / "saved")
    return folder / "saved"


def array_records(folder):
    records = [example(image__encoded=picture(n), caption=f"caption {n}".encode()) for n in range(11)]
    array_record(folder / "a.array_record-00000-of-00002", records[:6])
    array_record(folder / "a.array_record-00001-of-00002", records[6:])
    return str(folder / "a.array_record-*")


SOURCES = {
    "tar": tars,
    "jsonl": lambda folder: table(folder, 11),
    "csv": lambda folder: table(folder, 11, "t.csv"),
    "tsv": lambda folder: table(folder, 11, "t.tsv"),
    "parquet": parquet,
    "folder": folder_of_pictures,
    "save_to_disk": saved,
    "ArrayRecord": array_records,
}


@pytest.mark.parametrize("to", ["npy", "parquet"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_its_pictures_and_captions(source, to, tmp_path):
    if to == "parquet":
        pytest.importorskip("pyarrow")
    report = run(SOURCES[source](tmp_path), tmp_path / "out", what="both", to=to)
    assert report.rows == {"image": 11, "text": 11} and report.complete and not report.broken
    found = rows(tmp_path / "out")
    assert [about["caption"] for about, _ in found] == [f"caption {n}" for n in range(11)]
    for n, (about, vector) in enumerate(found):
        np.testing.assert_array_equal(vector, image_vector(picture(n)), err_msg=str(about))
    assert len({(about["name"], about["key"]) for about, _ in found}) == 11
    texts = rows(tmp_path / "out", "text")
    assert [about["name"] for about, _ in texts] == [f"caption {n}" for n in range(11)]
    for n, (_, vector) in enumerate(texts):
        np.testing.assert_array_equal(vector, text_vector(f"caption {n}"))
    if source in ("jsonl", "folder"):  # pictures that are files are named by their paths
        origin = open_index(tmp_path / "out" / "image").origin
        assert not any(os.path.isabs(about["name"]) for about, _ in found)
        assert all(Path(origin.path_of(about["name"])).read_bytes() == picture(n) for n, (about, _) in enumerate(found))
        assert [about["image"] for about, _ in texts] == [origin.path_of(about["name"]) for about, _ in found]


def test_keys_and_names_of_a_shard(tmp_path):
    run(tars(tmp_path), tmp_path / "out", store="float16")
    found = rows(tmp_path / "out")
    assert [about["key"] for about, _ in found] == [f"{n:05d}" for n in range(11)]
    assert found[7][0]["name"] == "b.tar: 00007" and open_index(tmp_path / "out").origin.root == str(tmp_path)
    assert found[7][1].dtype == np.float16
    assert sorted(path.name for path in (tmp_path / "out" / "image").glob("*.npy")) == [
        "00000-0000.npy", "00000-0001.npy", "00001-0000.npy", "00001-0001.npy"
    ]  # fmt: skip


def test_several_pictures_and_captions_of_a_sample(tmp_path):
    members = [
        ("1.a.png", picture(0)), ("1.b.png", picture(1)), ("1.json", b'{"captions": ["x", "y", "z"]}'),
        ("2.png", picture(2)), ("2.txt", b"w"),
    ]  # fmt: skip
    report = run(write_tar(tmp_path / "a.tar", members), tmp_path / "out", what="both", batch_size=1)
    assert report.rows == {"image": 3, "text": 4} and report.samples == 2
    assert [(about["key"], about["number"], about["caption"]) for about, _ in rows(tmp_path / "out")] == [
        ("1", 0, "x"), ("1", 1, "x"), ("2", 0, "w")
    ]  # fmt: skip
    assert [(about["name"], about["number"]) for about, _ in rows(tmp_path / "out", "text")] == [
        ("x", 0), ("y", 1), ("z", 2), ("w", 0)
    ]  # fmt: skip


def test_pictures_without_captions_and_captions_without_pictures(tmp_path):
    members = [("1.png", picture(1)), ("2.png", picture(2)), ("2.txt", b"two"), ("3.txt", b"three"), ("4.png", b"")]
    members += [("5.png", picture(5)), ("5.txt", b"\xff"), ("6.png", picture(6)), ("6.json", b"{"), ("7.txt", b" ")]
    path = write_tar(tmp_path / "a.tar", members)
    run(path, tmp_path / "images")
    assert [(about["key"], about["caption"]) for about, _ in rows(tmp_path / "images")] == [
        ("1", ""), ("2", "two"), ("5", ""), ("6", "")
    ]  # fmt: skip
    reasons = [one["reason"] for one in broken(tmp_path / "images")]
    assert len(reasons) == 2 and "left out 2 samples without a picture" in reasons[0] and ": 4: " in reasons[1]
    run(path, tmp_path / "texts", what="texts")
    assert [about["name"] for about, _ in rows(tmp_path / "texts", "text")] == ["two", "three"]
    (tmp_path / "only.jsonl").write_text('{"caption": "a", "image": "absent.png"}\n{"caption": "b"}\n')
    run(tmp_path / "only.jsonl", tmp_path / "lines", what="texts")
    assert [about["name"] for about, _ in rows(tmp_path / "lines", "text")] == ["a", "b"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(picture(3))
    run(tmp_path / "photos", tmp_path / "plain")
    assert [about["key"] for about, _ in rows(tmp_path / "plain")] == ["x.png"]


# -- what can't be used -----------------------------------------------------------------------------------------------


def test_broken_samples_are_named_and_the_rest_embedded(tmp_path):
    shard(tmp_path / "a.tar", 6, s2_png=b"no picture", s4_txt=b"\xff\xfe", s5_png=picture(5)[:60])
    report = run(tmp_path / "a.tar", tmp_path / "out", what="both")
    assert report.broken == 3 and report.rows == {"image": 3, "text": 5}
    named = {one["name"].rsplit(": ")[1]: one["reason"] for one in broken(tmp_path / "out")}
    assert set(named) == {"00002", "00004", "00005"} and "UTF-8" in named["00004"]
    lines = ['{"image": "p.png", "caption": "ok"}', "{", '{"caption": "no picture"}', '{"image": "gone.png"}']
    lines += ['{"image": "p.png", "caption": "\\ud800"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "p.png").write_bytes(picture(0))
    report = run(tmp_path / "t.jsonl", tmp_path / "two", what="both")
    assert report.rows == {"image": 2, "text": 1} and report.broken == 4
    assert rows(tmp_path / "two")[1][0]["caption"] == "\\ud800"


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "in a caption"])
def test_a_shard_that_was_cut_off(cut, tmp_path):
    shard(tmp_path / "a.tar", 3)
    whole = shard(tmp_path / "b.tar", 5)
    with tarfile.open(whole) as archive:
        places = {member.name: member for member in archive}
    place = places["00003.txt" if cut == "in a caption" else "00003.png"]
    end = place.offset + 100 if cut == "in a header" else place.offset_data + 5
    whole.write_bytes(whole.read_bytes()[:end])
    shard(tmp_path / "c.tar", 2)
    report = run(str(tmp_path / "{a,b,c}.tar"), tmp_path / "out")
    kept = 4 if cut == "in a caption" else 3  # the picture before the cut is whole
    assert report.rows == {"image": 3 + kept + 2} and report.damaged == 1 and report.broken == 0
    assert run(str(tmp_path / "{a,b,c}.tar"), tmp_path / "both", what="both").rows == {"image": 8, "text": 8}
    assert "cut off" in broken(tmp_path / "out")[0]["reason"] and "b.tar" in broken(tmp_path / "out")[0]["reason"]


def test_inputs_that_are_no_use_among_others(tmp_path):
    shard(tmp_path / "a.tar", 3)
    (tmp_path / "b.tar").write_bytes(b"this is no archive" * 100)
    (tmp_path / "c.tar").write_bytes(b"")
    report = run(str(tmp_path / "*.tar"), tmp_path / "out")
    assert report.damaged == 2 and report.rows == {"image": 3}
    assert [Path(one["name"]).name for one in broken(tmp_path / "out")] == ["b.tar", "c.tar"]


def test_data_that_can_not_be_meant(tmp_path):
    path = table(tmp_path, 3)
    with pytest.raises(DataError, match=r"'headline'; found 'caption'"):
        run(path, tmp_path / "out", what="both", caption_key="headline")
    (tmp_path / "t.csv").write_text("number,colour\n1,red\n")
    with pytest.raises(DataError, match=r"t\.csv: wanted a column for the image.*'number', 'colour'"):
        run(tmp_path / "t.csv", tmp_path / "out")
    shard(tmp_path / "a.tar", 3)
    with pytest.raises(DataError, match="webp"):
        run(tmp_path / "a.tar", tmp_path / "out", image_key="webp")
    (tmp_path / "bad.jsonl").write_text('{"image": 3}\n' * 20)
    with pytest.raises(DataError, match="row 1: wanted a picture's path"):
        run(tmp_path / "bad.jsonl", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="absent"):
        run(tmp_path / "absent.tar", tmp_path / "out")
    with pytest.raises(DataError, match="URL"):
        run("https://example.org/a.tar", tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*")), "nothing was begun"
    photos = folder_of_pictures(tmp_path)
    with pytest.raises(InputError, match="outside the input"):
        run(photos, photos / "out")
    for options in ({"what": "sounds"}, {"to": "xml"}, {"batch_size": 0}, {"engine": "x"}, {"shard": "2/2"}):
        with pytest.raises(InputError, match=next(iter(options))):
            run(path, tmp_path / "other", **options)


def test_an_input_that_vanishes_ends_the_run(tmp_path):
    path, output = tmp_path / "a.tar", tmp_path / "out"
    shard(path, 40)

    class Taken(FakeSpec):
        def load(self, batch_size):
            path.rename(tmp_path / "away.tar")
            return super().load(batch_size)

    with pytest.raises(FileNotFoundError, match=r"a\.tar"):
        run(path, output, model=Taken())
    assert not (output / "broken.jsonl").exists()
    (tmp_path / "away.tar").rename(path)
    assert run(path, output).rows == {"image": 40}


# -- again ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone_and_a_lost_shard_made_again(tmp_path):
    first = run(tars(tmp_path), tmp_path / "out", what="both")
    before = tree(tmp_path / "out")
    shards = [path for path in (tmp_path / "out").rglob("0*") if path.is_file()]
    times = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in shards}
    again = run(tars(tmp_path), tmp_path / "out", what="both", batch_size=2)
    assert again.embedded == 0 and again.rows == first.rows and tree(tmp_path / "out") == before
    assert times == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in shards}
    lost = tmp_path / "out" / "image" / "00000-0001.npy"
    lost.write_bytes(lost.read_bytes()[:-1])
    (tmp_path / "out" / "done" / "00001-0000.json").write_text('{"samples"')
    again = run(tars(tmp_path), tmp_path / "out", what="both")
    assert again.embedded == 2 + 4 and tree(tmp_path / "out") == before


def test_another_run_is_refused_and_what_differs_named(tmp_path):
    path, output = tars(tmp_path), tmp_path / "out"
    run(path, output)
    for options, words in (
        ({"model": FakeSpec("other")}, "model.name: 'fake', now 'other'"),
        ({"what": "texts"}, "settings.what: 'images', now 'texts'"),
        ({"store": "float16"}, "settings.store: 'float32', now 'float16'"),
        ({"deduplicate": True}, "settings.deduplicate: False, now True"),
        ({"samples_per_shard": 5}, "settings.samples_per_shard: 4, now 5"),
    ):
        with pytest.raises(InputError) as error:
            run(path, output, **options)
        assert words in str(error.value) and len(str(error.value).splitlines()) == 2
    with pytest.raises(InputError, match="inputs: 2 files, now 1"):
        run(tmp_path / "a.tar", output)
    with pytest.raises(InputError, match=r"inputs: .*a\.tar, now .*b\.tar"):
        run([tmp_path / "b.tar", tmp_path / "a.tar"], output)
    shard(tmp_path / "b.tar", 6, first=6)
    with pytest.raises(InputError, match=r"inputs: .*b\.tar of \d+ bytes, now \d+"):
        run(path, output)
    (output / "embed.json").write_text('{"format": "something"}')
    with pytest.raises(InputError, match=r"embed\.json: wanted the record of a run"):
        run(path, output)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(InputError, match=r"found thesis\.doc in it"):
        run(path, tmp_path / "full")


def test_only_one_process_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    shard(tmp_path / "a.tar", 3)

    class Second(FakeSpec):
        def load(self, batch_size):
            with pytest.raises(InputError, match="at work"):
                run(tmp_path / "a.tar", tmp_path / "out")
            return super().load(batch_size)

    assert run(tmp_path / "a.tar", tmp_path / "out", model=Second()).rows == {"image": 3}


def test_moved_inputs_are_the_same(tmp_path):
    (tmp_path / "here").mkdir()
    shard(tmp_path / "here" / "a.tar", 6)
    run(tmp_path / "here" / "a.tar", tmp_path / "out")
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "out" / "done" / "00000-0001.json").unlink()
    assert run(tmp_path / "there" / "a.tar", tmp_path / "out").embedded == 2


def test_the_queue_of_work():
    """Results in order, few ahead of who takes them; an error comes at its place; closed, it begins nothing more."""
    begun, gate = [], threading.Event()

    def task(number):
        def work():
            begun.append(number)
            gate.wait(20)
            return 1 // (number - 6) * 0 + number

        return work

    with ThreadPoolExecutor(2) as pool:
        queue = in_order(pool, map(task, range(100)), ahead=3)
        gate.set()
        assert [next(queue) for _ in range(4)] == [0, 1, 2, 3]
        assert max(begun) <= 7  # 3 ahead of the one that was taken
        assert next(queue) == 4 and next(queue) == 5
        with pytest.raises(ZeroDivisionError):
            next(queue)
        assert list(queue) == []
        begun.clear()
        gate.clear()
        queue = in_order(pool, map(task, range(10, 100)), ahead=5)
        threading.Timer(0.1, gate.set).start()
        assert next(queue) == 10
        queue.close()
    assert max(begun) < 20


# -- duplicates -------------------------------------------------------------------------------------------------------


def doubled(folder):
    """26 samples in two shards: pictures 0 to 9 again and again, one of them broken, captions of seven kinds."""
    members = []
    for n in range(26):
        content = b"broken" if n % 10 == 3 else picture(n % 10)
        members.append([(f"{n:03d}.png", content), (f"{n:03d}.txt", f"caption {n % 7}".encode())])
    for name, part in (("a", members[:15]), ("b", members[15:])):
        write_tar(folder / f"{name}.tar", [member for sample in part for member in sample])
    return str(folder / "{a,b}.tar")


@pytest.mark.parametrize("memory", [1 << 28, 500], ids=["at once", "in parts"])
def test_duplicates_within_and_across_shards(memory, tmp_path, monkeypatch):
    monkeypatch.setattr("triclip.embed.duplicates.MEMORY", memory)
    report = run(doubled(tmp_path), tmp_path / "out", what="both", deduplicate=True)
    assert report.rows == {"image": 9, "text": 7}
    assert report.broken == 1 and report.duplicates == 16 + 19
    found = rows(tmp_path / "out")
    assert [about["key"] for about, _ in found] == [f"{n:03d}" for n in range(10) if n != 3]
    assert len({about["sha256"] for about, _ in found}) == 9
    assert [about["name"] for about, _ in rows(tmp_path / "out", "text")] == [f"caption {n}" for n in range(7)]
    assert not (tmp_path / "out" / "hashes").exists()
    plain = run(doubled(tmp_path), tmp_path / "plain", what="both")
    assert plain.rows == {"image": 23, "text": 26} and plain.broken == 3


def test_many_hashes_compared_in_parts(tmp_path, monkeypatch):
    from triclip.embed import duplicates
    from triclip.search.runs import Unit

    random = np.random.default_rng(0)
    units = [Unit(0, n, 0, 0) for n in range(5)]
    wanted, seen = [], set()
    for unit in units:
        items = [(n, int(random.integers(0, 50)), int(random.integers(0, 3))) for n in range(200)]
        duplicates.write_hashes(tmp_path, "image", unit, items)
        for item in items:
            wanted.append(item[1:] not in seen or item[1:] == duplicates.MISSING)
            seen.add(item[1:])
    for memory in (1 << 28, 3000):
        monkeypatch.setattr(duplicates, "MEMORY", memory)
        assert duplicates.compare(tmp_path, "image", units) == wanted.count(False)
        assert np.load(tmp_path / "hashes" / "image.keep.npy").tolist() == wanted


def test_pictures_that_change_between_the_passes_are_noticed(tmp_path):
    path = table(tmp_path, 6)
    run(path, tmp_path / "out", deduplicate=True, prepare=True)
    (tmp_path / "pictures" / "4.png").write_bytes(picture(99))
    with pytest.raises(DataError, match="row 5: has changed since the run began"):
        run(path, tmp_path / "out", deduplicate=True)


# -- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deduplicate", [False, True])
def test_shares_are_together_what_one_run_is(deduplicate, tmp_path):
    path = doubled(tmp_path)
    options = {"what": "both", "deduplicate": deduplicate}
    run(path, tmp_path / "one", **options)
    if deduplicate:
        with pytest.raises(InputError, match="prepare"):
            run(path, tmp_path / "out", shard="0/3", **options)
        prepared = run(path, tmp_path / "out", prepare=True, **options)
        assert prepared.embedded == 0 and not prepared.complete
    for number in (2, 0, 1):
        report = run(path, tmp_path / "out", shard=f"{number}/3", **options)
        assert report.complete == (number == 1) and report.embedded
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


# -- searching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["npy", "parquet"])
def test_an_output_is_an_index(to, tmp_path):
    if to == "parquet":
        pytest.importorskip("pyarrow")
    shard(tmp_path / "0.tar", 2, s0_png=b"", s1_png=b"")  # a shard without rows
    run([tmp_path / "0.tar", *tars_paths(tmp_path)], tmp_path / "out", to=to)
    index = open_index(tmp_path / "out")
    assert len(index) == 11 and index.model == "fake" and index.origin.fingerprint == "0"
    assert {shard.origin.fingerprint for shard in open_each(tmp_path / "out")} == {"0"}
    assert index.search(image_vector(picture(8)), 1)[0][0].endswith("b.tar: 00008")
    found, row = index.search_rows(image_vector(picture(8))[None], 1, "caption~*3")
    assert index.metadata(int(row[0, 0]))["caption"] == "caption 3"
    built = build_folder(tmp_path / "x.index", [index])
    assert built.names == index.names
    (tmp_path / "out" / "done" / "00001-0000.json").unlink()
    with pytest.raises(InputError, match="1 of 5 shards are not done"):
        open_index(tmp_path / "out")


def tars_paths(folder):
    tars(folder)
    return [folder / "a.tar", folder / "b.tar"]


def test_an_output_of_both_kinds_wants_to_be_told_which(tmp_path):
    run(tars(tmp_path), tmp_path / "out", what="both")
    with pytest.raises(InputError, match=r"out/image and .*out/text"):
        open_index(tmp_path / "out")
    assert open_index(tmp_path / "out" / "text").search(text_vector("caption 9"), 1)[0][0] == "caption 9"
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        open_index(tmp_path / "out" / "done")


# -- size -------------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_input(tmp_path):
    def peak(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            lines = (f'{{"caption": "{"long " * 400}{number} {line}"}}\n' for line in range(300))
            (folder / f"{number:02d}.jsonl").write_text("".join(lines))
        tracemalloc.start()
        try:
            report = run(str(folder / "*.jsonl"), folder / "out", what="texts", samples_per_shard=100, batch_size=32)
            return report.rows["text"], tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # imports
    few, small = peak(2)
    many, large = peak(20)
    assert (few, many) == (600, 6000)
    assert large < 1.5 * small  # all captions together are ten times as much as those of two inputs


def test_the_rate_is_shown(tmp_path, capsys, monkeypatch):
    moments = itertools.count()
    monkeypatch.setattr("triclip.progress.time.monotonic", lambda: float(next(moments)))
    run(tars(tmp_path), tmp_path / "out", progress=True)
    assert "11/11 samples, 2/s" in capsys.readouterr().err
