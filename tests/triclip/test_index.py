"""Search: exact against a brute-force definition, in memory, mapped, filtered; and the approximate kinds against it."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core.errors import InputError
from triclip.search import FolderIndex, Index, Origin, append_index, combine, exact, open_index, parse_filter
from triclip.search.folder import build_folder
from triclip.zero_shot import unit


def brute_force(vectors, queries, top, rows=None):
    """Every product summed in float64, rounded to float32, sorted by score and then by row."""
    rows = np.arange(len(vectors)) if rows is None else np.asarray(rows)
    scores, found = [], []
    for query in queries:
        values = [np.float32(np.sum(vectors[row].astype(np.float64) * query.astype(np.float64))) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (-values[i], rows[i]))[:top]
        scores.append([values[i] for i in order])
        found.append([rows[i] for i in order])
    return np.array(scores, np.float32).reshape(len(queries), -1), np.array(found, int).reshape(len(queries), -1)


def random_unit(count, width=24, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK_VALUES", 0)  # 256 rows, the least
    monkeypatch.setattr(exact, "_QUERIES", 3)
    monkeypatch.setattr(exact, "_SUMMED", 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("top", [1, 7, 700, 5000])
def test_exact_search_is_brute_force(small_blocks, dtype, top):
    vectors = random_unit(700).astype(dtype)
    vectors[300:340] = vectors[100]  # ties, across blocks
    queries = np.concatenate([random_unit(4, seed=1), vectors[100:101].astype(np.float32)])
    wanted = brute_force(vectors, queries, top)
    index = Index(vectors, [str(i) for i in range(700)], "emoji")
    assert index.dtype == dtype
    assert_same(index.search_rows(queries, top), wanted)
    parts = [vectors[:1], vectors[1:333], vectors[333:333], vectors[333:]]
    assert_same(exact.best_rows(parts, queries, top, 1.01), wanted)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exact_search_of_few_distinct_values(data):
    """Whole numbers: many ties, some between rows that are not equal."""
    count, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = rng.integers(-2, 3, (count, width)).astype(np.float32)
    queries = rng.integers(-2, 3, (2, width)).astype(np.float32)
    rows = np.flatnonzero(rng.random(count) < 0.6) if data.draw(st.booleans()) else None
    top = data.draw(st.integers(1, 50))
    index = Index(vectors, ["x"] * count, "emoji")
    if rows is not None and not len(rows):
        assert index.search_rows(queries, top, rows)[1].shape == (2, 0)
        return
    assert_same(index.search_rows(queries, top, rows), brute_force(vectors, queries, top, rows))


def test_rows_that_float32_cannot_tell_apart_are_ordered_by_their_exact_sums(small_blocks):
    rng = np.random.default_rng(3)
    query = unit(rng.normal(size=(1, 512)))[0].astype(np.float32)
    vectors = np.repeat(query[None], 600, 0) + rng.normal(size=(600, 512)).astype(np.float32) * 5e-8
    assert_same(exact.best_rows([vectors], query[None], 20, 1.1), brute_force(vectors, query[None], 20))


def test_long_vectors_keep_their_order(small_blocks):
    vectors = random_unit(600) * np.linspace(1, 1000, 600, dtype=np.float32)[:, None]
    index = Index(vectors, ["x"] * 600, "emoji")
    assert_same(index.search_rows(vectors[:3], 9), brute_force(vectors, vectors[:3], 9))


def test_names_scores_and_fewer_rows_than_asked_for():
    index = Index(np.eye(3, dtype=np.float32), ["a", "b", "c"], "emoji")
    assert index.search(np.array([0.6, 0.8, 0], np.float32), 9) == [
        ("b", pytest.approx(0.8)),
        ("a", pytest.approx(0.6)),
        ("c", 0.0),
    ]


def test_an_empty_index_finds_nothing(tmp_path):
    empty = Index(np.empty((0, 4), np.float32), [], "emoji")
    for name in ("e.npz", "e.npy", "e.parquet", "e.index"):
        empty.save(tmp_path / name)
        loaded = open_index(tmp_path / name)
        assert len(loaded) == 0 and loaded.names == [] and loaded.vectors.shape == (0, 4)
        for kind in ("exact", "hnsw"):
            scores, rows = loaded.search_rows(np.ones((2, 4), np.float32), 3, kind=kind)
            assert scores.shape == rows.shape == (2, 0)
    assert open_index(tmp_path / "e.index").recall(np.ones((1, 4), np.float32)) == 1


METADATA = {
    "vendor": ["noto", "fluent", "noto", "ação", "noto"],
    "year": [2019, 2020, 2021, 2022, 2**60 + 1],
    "weight": [0.5, 1, 2.5, float("nan"), 4],
    "seen": [True, False, True, False, False],
}


@pytest.fixture(params=["memory", ".npz", ".npy", ".parquet", ".index"])
def described(request, tmp_path):
    names = ["cats/a.png", "cats/b.png", "dogs/a.png", "dogs/ü.png", "x"]
    index = Index(random_unit(5), names, "emoji", METADATA)
    if request.param == "memory":
        return index
    index.save(tmp_path / f"described{request.param}")
    return open_index(tmp_path / f"described{request.param}")


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("vendor=noto", [0, 2, 4]),
        ("vendor=ação", [3]),
        ("vendor = noto ", [0, 2, 4]),
        ("vendor==noto", [0, 2, 4]),
        ("vendor == 'noto'", [0, 2, 4]),
        (("vendor", "==", "noto"), [0, 2, 4]),
        ("vendor!=noto", [1, 3]),
        ("vendor=not", []),
        ("year>=2021", [2, 3, 4]),
        ("year<2020.5", [0, 1]),
        (f"year={2**60 + 1}", [4]),
        (f"year={2**60}", []),
        ("weight>0.5", [1, 2, 4]),
        ("weight!=0.5", [1, 2, 3, 4]),
        ("seen=true", [0, 2]),
        ("name~cats/*", [0, 1]),
        ("name>=dogs", [2, 3, 4]),
        (["vendor=noto", "year>2020"], [2, 4]),
        (("year", "<=", 2019), [0]),
        ([("year", "=", 2019), "seen=yes"], [0]),
        ({"vendor": ["fluent", "ação"]}, [1, 3]),
        ({"vendor": "noto", "seen": False}, [4]),
        (np.array([True, False, False, True, False]), [0, 3]),
        (np.array([4, 1, 4]), [1, 4]),
        (np.array([], int), []),
        (lambda row: row["name"].startswith("dogs") and row["year"] > 2021, [3]),
    ],
)
def test_filters_choose_the_rows_that_are_looked_at(described, where, rows):
    query = random_unit(1, seed=5)
    assert_same(described.search_rows(query, 9, where), brute_force(described.vectors, query, 9, rows))
    assert [name for name, _ in described.search(query[0], 9, where)] == [
        described.names[row] for row in described.search_rows(query, 9, where)[1][0]
    ]


def test_metadata_comes_back(described):
    assert described.metadata(1) == {
        "name": "cats/b.png",
        "vendor": "fluent",
        "year": 2020,
        "weight": 1.0,
        "seen": False,
    }
    assert list(described.columns["seen"]) == METADATA["seen"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("vendor", "wanted COLUMN OPERATOR VALUE"),
        ("colour=red", "no column 'colour'; there are name, vendor"),
        ("year=abc", "'year'.*kind integer, found 'abc'"),
        ("seen=perhaps", "'seen'.*kind flag"),
        ("year~20*", "~ wants a column of strings"),
        (("year", "?", 3), "wanted one of = !="),
        ({"vendor": 3}, "kind string, found 3"),
        (np.array([True]), "mask of 5 rows"),
        (np.array([5]), "rows from 0 to 4"),
        (np.array([0.5]), "mask or row numbers"),
    ],
)
def test_bad_filters_say_what_was_wanted(described, where, words):
    with pytest.raises(InputError, match=words):
        described.search(random_unit(1)[0], 3, where)
    with pytest.raises(TypeError, match="where"):
        described.search(random_unit(1)[0], 3, 7)


def test_filter_expressions():
    assert parse_filter("a b <= c = d") == ("a b", "<=", "c = d")
    assert parse_filter("name=") == ("name", "=", "")
    for text in ("t==x", "t == x", " t = 'x' ", 't=="x"', "'t'=x"):
        assert parse_filter(text) == ("t", "=", "x")
    assert parse_filter("t=' x '") == ("t", "=", " x ") and parse_filter("t='=x'") == ("t", "=", "=x")
    assert parse_filter("t='") == ("t", "=", "'") and parse_filter("t='a\"") == ("t", "=", "'a\"")
    assert parse_filter("a!='b'") == ("a", "!=", "b") and parse_filter("n~'* *.jpg'") == ("n", "~", "* *.jpg")
    for text in ("", "=x", "name", "==x"):
        with pytest.raises(InputError, match="filter"):
            parse_filter(text)


# -- combined queries -------------------------------------------------------------------------------------------------


def test_a_combined_query_is_the_weighted_sum_of_unit_vectors():
    a, b = random_unit(2).astype(np.float64) * [[3], [0.5]]
    total = a / 3 * 2 - 0.25 * b / 0.5
    found = combine(np.stack([a, b]), [2, -0.25])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_allclose(combine(a), a / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "weights", "words"),
    [
        (np.eye(2), [1], "wanted 2 numbers"),
        (np.ones((2, 3)), [1, -1], "cancel"),
        (np.zeros((1, 3)), None, "row 0 is zero"),
        (np.full((1, 3), np.nan), None, "finite"),
        (np.empty((0, 3)), None, "found shape"),
    ],
)
def test_queries_that_mean_nothing(vectors, weights, words):
    with pytest.raises(InputError, match=words):
        combine(vectors, weights)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_mapped_appended_to_and_searched_as_one(tmp_path):
    vectors = random_unit(3000)
    names = [f"{i}.png" for i in range(3000)]
    path = tmp_path / "pictures.index"
    Index(vectors[:2000], names[:2000], "emoji", {"n": list(range(2000))}).save(path)
    index = open_index(path)
    assert isinstance(index, FolderIndex) and isinstance(index.parts[0], np.memmap)
    other = FolderIndex(path)
    index.append(vectors[2000:2001], names[2000:2001], {"n": [2000]})
    other.append(vectors[2001:], names[2001:], {"n": np.arange(2001, 3000)})
    for found in (other, open_index(path)):
        assert len(found) == 3000 and found.names == names and found.metadata(2500)["n"] == 2500
        np.testing.assert_array_equal(found.vectors, vectors)
        assert_same(found.search_rows(vectors[:4], 5), brute_force(vectors, vectors[:4], 5))
        assert_same(
            found.search_rows(vectors[:1], 5, "n>=1999"), brute_force(vectors, vectors[:1], 5, range(1999, 3000))
        )
    assert len(index) == 2001  # a snapshot


def test_half_the_bytes(tmp_path):
    vectors = random_unit(50)
    source = Index(vectors, ["x"] * 50, "emoji")
    index = build_folder(tmp_path / "half.index", [source, source], "float16")
    assert index.dtype == np.float16 and len(index) == 100
    wanted = np.concatenate([vectors, vectors]).astype(np.float16)
    assert_same(index.search_rows(vectors[:3], 60), brute_force(wanted, vectors[:3], 60))
    with pytest.raises(InputError, match="finite"):
        index.append(np.full((1, 24), 1e6), ["large"])
    assert len(FolderIndex(tmp_path / "half.index")) == 100


def test_an_append_that_fails_leaves_the_index_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.index"
    Index(random_unit(5), list("abcde"), "emoji").save(path)
    index = FolderIndex(path)
    with monkeypatch.context() as patch:
        patch.setattr("triclip.search.folder.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            index.append(random_unit(2), ["f", "g"])
    assert FolderIndex(path).names == list("abcde")
    index.append(random_unit(1), ["h"])
    assert FolderIndex(path).names == list("abcdeh")


def test_writers_take_turns(tmp_path):
    """Each through an index of its own, at once: no row is lost or doubled."""
    path = tmp_path / "a.index"
    FolderIndex.create(path, "emoji", 24, {})

    def write(writer):
        index = FolderIndex(path)
        for i in range(8):
            index.append(random_unit(2, seed=i), [f"{writer}-{i}-a", f"{writer}-{i}-b"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    wanted = sorted(f"{writer}-{i}-{row}" for writer in range(4) for i in range(8) for row in "ab")
    assert sorted(FolderIndex(path).names) == wanted


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".index"])
def test_half_precision_stays_so_in_every_file(tmp_path, suffix):
    vectors = random_unit(7).astype(np.float16)
    Index(vectors, list("abcdefg"), "emoji").save(tmp_path / f"a{suffix}")
    found = open_index(tmp_path / f"a{suffix}")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found.vectors, vectors)


def test_a_folder_is_replaced_whole_and_nothing_else_is(tmp_path):
    path = tmp_path / "a.index"
    Index(random_unit(5), list("abcde"), "emoji").save(path)
    old = FolderIndex(path)
    Index(random_unit(2), ["x", "y"], "emoji").save(path)
    assert FolderIndex(path).names == ["x", "y"] and [p.name for p in tmp_path.iterdir()] == ["a.index"]
    with pytest.raises(InputError, match="replaced by another"):
        old.append(random_unit(1), ["z"])
    (tmp_path / "b.index").mkdir()
    (tmp_path / "b.index" / "letter.txt").write_text("keep")
    with pytest.raises(InputError, match="no index folder"):
        Index(random_unit(2), ["x", "y"], "emoji").save(tmp_path / "b.index")
    assert (tmp_path / "b.index" / "letter.txt").read_text() == "keep"


def test_appended_rows_need_the_same_width_and_columns(tmp_path):
    path = tmp_path / "a.index"
    Index(random_unit(2), ["a", "b"], "emoji", {"x": [0.5, 1.5]}).save(path)
    index = FolderIndex(path)
    index.append(random_unit(1), ["c"], {"x": [2]})  # an integer is a number too
    assert list(index.columns["x"]) == [0.5, 1.5, 2.0]
    for vectors, metadata, words in (
        (random_unit(1, 8), {"x": [2]}, "width 24, found 8"),
        (random_unit(1), {}, r"wanted the columns .*x \(number\), found name"),
        (random_unit(1), {"x": ["a"]}, r"x \(string\)"),
    ):
        with pytest.raises(InputError, match=words):
            index.append(vectors, ["d"], metadata)
    with pytest.raises(InputError, match="of the model 'emoji', found some of 'other'"):
        build_folder(tmp_path / "b.index", [index, Index(random_unit(1), ["a"], "other", {"x": [1.0]})])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.index"]


def damaged_manifest(change):
    def damage(folder):
        import json

        manifest = json.loads((folder / "index.json").read_text())
        change(manifest)
        (folder / "index.json").write_text(json.dumps(manifest))

    return damage


def cut(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


@pytest.mark.parametrize(
    "damage",
    [
        cut("index.json", 40),
        cut("part-00000.vectors.npy", 100_000),
        cut("part-00000.vectors.npy", 0),
        cut("part-00000.vectors.npy", 60),
        cut("part-00000.column0.data.npy", 200),
        cut("part-00000.column1.npy", 130),
        lambda folder: (folder / "part-00000.column0.offsets.npy").unlink(),
        lambda folder: np.save(folder / "part-00000.vectors.npy", np.zeros((3, 3))),
        lambda folder: np.save(folder / "part-00000.vectors.npy", np.array([{}], object), allow_pickle=True),
        lambda folder: np.save(folder / "part-00000.column0.offsets.npy", np.arange(2001)),
        lambda folder: (folder / "index.json").write_text("[1, 2]"),
        lambda folder: (folder / "index.json").write_text("[" * 100_000),
        damaged_manifest(lambda m: m.update(version=2)),
        damaged_manifest(lambda m: m.update(width="24")),
        damaged_manifest(lambda m: m.update(dtype="object")),
        damaged_manifest(lambda m: m.update(columns=[])),
        damaged_manifest(lambda m: m.update(columns=[["name", "string"], ["x", "pickle"]])),
        damaged_manifest(lambda m: m["parts"][0].update(rows=-1)),
        damaged_manifest(lambda m: m["parts"][0].update(rows=10**15)),
        damaged_manifest(lambda m: m["parts"][0].update(number="../../x")),
        damaged_manifest(lambda m: m["parts"][0].update(largest_norm=float("nan"))),
        damaged_manifest(lambda m: m.pop("model")),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, damage):
    path = tmp_path / "a.index"
    Index(random_unit(2000), [f"picture {i}" for i in range(2000)], "emoji", {"n": list(range(2000))}).save(path)
    damage(path)
    with pytest.raises(InputError, match="a.index"):
        open_index(path)


def test_files_that_are_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no index.json"):
        open_index(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such index"):
        open_index(tmp_path / "absent.npz")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY nothing")
    (tmp_path / "a.npy.json").write_text('{"names": [], "model": "emoji"}')
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    np.save(tmp_path / "c.npy", np.zeros((2, 2)))
    np.savez(tmp_path / "d.npz", vectors=np.zeros((2, 2)), names=np.array([{}, {}], object), model="x")
    for name in ("a.npy", "b.parquet", "c.npy", "d.npz"):
        with pytest.raises(InputError, match=name):
            open_index(tmp_path / name)


def test_bad_vectors_names_metadata_and_queries():
    with pytest.raises(InputError, match="one row per name"):
        Index(np.eye(3), ["a"], "emoji")
    for values, words in (
        ([1, "a"], "one kind, found integer, string"),
        ([None, "a"], "row 0.*found None"),
        ([1], "wanted 2 values"),
        ([2**70, 1], "64 bits"),
        (np.zeros((2, 2)), "one value a row"),
    ):
        with pytest.raises(InputError, match=f"'x'.*{words}"):
            Index(np.eye(2), ["a", "b"], "emoji", {"x": values})
    with pytest.raises(InputError, match="names themselves"):
        Index(np.eye(2), ["a", "b"], "emoji", {"name": ["c", "d"]})
    index = Index(np.eye(2), ["a", "b"], "emoji")
    for query, top, words in (
        (np.ones(3), 1, "width 2, found 3.*'emoji'"),
        (np.array([np.inf, 0]), 1, "finite"),
        (np.ones((1, 2)), 1, "one vector"),
        (np.ones(2), 0, "top: wanted a number from 1, found 0"),
    ):
        with pytest.raises(InputError, match=words):
            index.search(query, top)
    with pytest.raises(InputError, match="exact, hnsw, ivf, found 'tree'"):
        index.search(np.ones(2), 1, kind="tree")
    with pytest.raises(InputError, match="NaN or infinity in row 1"):
        Index(np.array([[1, 0], [np.nan, 1]]), ["a", "b"], "emoji").search(np.ones(2), 1)


def test_names_that_are_no_utf8_come_back(tmp_path):
    names = ["\udcff.png", "", "🐈" * 3]
    Index(random_unit(3), names, "emoji").save(tmp_path / "a.index")
    assert open_index(tmp_path / "a.index").names == names


# -- approximate ------------------------------------------------------------------------------------------------------

APPROXIMATE = ["hnsw", "ivf"]
LEAST_RECALL = 0.85  # on clustered vectors, as embeddings are; 0.97 and more was measured


def clustered(count, width=32, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, width))
    return unit((centres[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, width))).astype(np.float32))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_recall_is_measured_against_exact_search(kind):
    pytest.importorskip("faiss", reason="extra `search`")
    vectors = clustered(4000)
    index = Index(vectors, [str(i) for i in range(4000)], "emoji")
    index.candidates(kind)
    queries = clustered(50, seed=0)[::2]
    recall = index.recall(queries, 10, kind)
    scores, rows = index.search_rows(queries, 10, kind=kind)
    wanted = brute_force(vectors, queries, 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, wanted[1], strict=True)])
    assert recall == pytest.approx(by_hand) and recall >= LEAST_RECALL
    for i, found in enumerate(rows):  # what it finds is scored and ordered as exact search would
        assert_same((scores[i : i + 1], rows[i : i + 1]), brute_force(vectors, queries[i : i + 1], 10, np.sort(found)))


def test_recall_falls_when_candidates_are_missed():
    index = Index(random_unit(100), ["x"] * 100, "emoji")

    class OnlyTheFirstRows:
        def ask(self, queries, top):
            return np.tile(np.arange(top), (len(queries), 1))

    index._candidates["hnsw"] = OnlyTheFirstRows(), 100
    queries = random_unit(20, seed=9)
    wanted = brute_force(index.vectors, queries, 10)[1]
    assert index.recall(queries, 10) == pytest.approx((wanted < 10).sum(1).mean() / 10)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_candidates_are_kept_in_the_folder_and_later_rows_are_seen(tmp_path, kind, monkeypatch):
    pytest.importorskip("faiss", reason="extra `search`")
    vectors = clustered(1200)
    Index(vectors[:1000], [str(i) for i in range(1000)], "emoji").save(tmp_path / "a.index")
    index = FolderIndex(tmp_path / "a.index")
    index.candidates(kind)
    index.append(vectors[1000:], [str(i) for i in range(1000, 1200)])
    again = FolderIndex(tmp_path / "a.index")
    monkeypatch.setattr("triclip.search.approximate.build", None)  # nothing is built a second time
    for found in (index, again):
        scores, rows = found.search_rows(vectors[1100:1110], 1, kind=kind)
        np.testing.assert_array_equal(rows[:, 0], np.arange(1100, 1110))
        assert found.candidates(kind)[1] == 1000
    assert again.search_rows(vectors[:2], 1200, kind=kind)[1].shape == (2, 1200)


def test_damaged_candidates_are_named(tmp_path):
    pytest.importorskip("faiss", reason="extra `search`")
    path = tmp_path / "a.index"
    Index(clustered(300), ["x"] * 300, "emoji").save(path)
    query = clustered(1)
    FolderIndex(path).search_rows(query, kind="hnsw")
    whole = (path / "candidates-hnsw.bin").read_bytes()
    for data in (whole[:1000], b"\0" * len(whole)):
        (path / "candidates-hnsw.bin").write_bytes(data)
        with pytest.raises(InputError, match="candidates-hnsw.bin"):
            FolderIndex(path).search_rows(query, kind="hnsw")
    (path / "candidates-hnsw.json").write_text('{"rows": 5}')
    with pytest.raises(InputError, match="candidates-hnsw.json"):
        FolderIndex(path).search_rows(query, kind="hnsw")
    assert len(FolderIndex(path).search(query[0])) == 5  # exact search needs none of it


def test_a_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    index = Index(np.eye(3, dtype=np.float32), list("abc"), "emoji")
    with pytest.raises(ImportError, match=r"triclip\[search\]"):
        index.search(np.ones(3, np.float32), kind="hnsw")


# -- where it comes from ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".index"])
def test_fingerprint_and_root_are_kept(tmp_path, suffix):
    source = Index(random_unit(3), list("abc"), "emoji", None, "f00d", "/photos", "#102030", '{"hidden": true}')
    source.save(tmp_path / f"a{suffix}")
    found = open_index(tmp_path / f"a{suffix}")
    assert found.origin == source.origin == Origin("emoji", "f00d", "/photos", "#102030", '{"hidden": true}')
    assert found.take(np.array([1])).origin == source.origin and found.origin.path_of("a") == "/photos/a"
    Index(random_unit(3), list("abc"), "emoji").save(tmp_path / f"b{suffix}")
    assert open_index(tmp_path / f"b{suffix}").origin == Origin("emoji")


def test_who_may_search_an_index():
    known, unknown = Origin("emoji", "f00d"), Origin("emoji")
    for origin, model, fingerprint in (
        (known, "emoji", "f00d"), (known, "copy", "f00d"), (known, "emoji", ""), (unknown, "emoji", "f00d")
    ):  # fmt: skip
        origin.check_model(model, fingerprint)
    for origin, model, fingerprint in (
        (known, "emoji", "beef"), (known, "other", "beef"), (known, "other", ""), (unknown, "other", "f00d")
    ):  # fmt: skip
        with pytest.raises(InputError, match="wanted .*'emoji'"):
            origin.check_model(model, fingerprint)


def test_rows_of_several_roots_in_one_index(tmp_path):
    first = Index(random_unit(1), ["a.png"], "emoji", root="/photos/2020")
    second = Index(random_unit(1, seed=1), ["b/c.png"], "emoji", root="/photos/2021")
    none = Index(random_unit(1, seed=2), ["/photos/d.png"], "emoji")
    index = build_folder(tmp_path / "x.index", [first, second, none])
    assert index.names == ["a.png", "../2021/b/c.png", "/photos/d.png"] and index.origin.root == "/photos/2020"
    paths = [os.path.normpath(index.origin.path_of(name)) for name in index.names]
    assert paths == ["/photos/2020/a.png", "/photos/2021/b/c.png", "/photos/d.png"]
    assert build_folder(tmp_path / "y.index", [none, second]).names == ["/photos/d.png", "/photos/2021/b/c.png"]
    with pytest.raises(InputError, match="'emoji'"):
        build_folder(tmp_path / "z.index", [Index(random_unit(1), ["a"], "emoji", None, "f00d"),
                                            Index(random_unit(1), ["b"], "emoji", None, "beef")])  # fmt: skip


def test_appending_twice_adds_once(tmp_path):
    path = tmp_path / "a.index"
    source = Index(random_unit(4), list("abcd"), "emoji", {"n": [1, 2, 3, 4]}, root=str(tmp_path))
    build_folder(path, [source], "float16")
    assert append_index(FolderIndex(path), source) == 0
    changed = Index(random_unit(4, seed=3), list("abcd"), "emoji", {"n": [1, 2, 3, 4]}, root=str(tmp_path))
    mixed = Index(np.stack([source.vectors[0], changed.vectors[1]]), ["a", "b"], "emoji", {"n": [1, 7]})
    assert append_index(FolderIndex(path), mixed) == 1
    assert list(zip(FolderIndex(path).names, FolderIndex(path).columns["n"], strict=True))[4:] == [("b", 7)]
    elsewhere = Index(source.vectors, [f"{tmp_path.name}/{name}" for name in "abcd"], "emoji",
                      {"n": [1, 2, 3, 4]}, root=str(tmp_path.parent))  # fmt: skip
    assert append_index(FolderIndex(path), elsewhere) == 0  # the same pictures by other names
