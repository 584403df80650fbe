"""`triclip.upkeep`: new, changed, moved, removed and unchanged files."""

import os
import shutil
import sys
import threading

import numpy as np
import pytest

from clip_core.errors import ImageError, InputError
from clip_core.hub import MODELS
from triclip.embed import ClipSpec
from triclip.pipeline import Clip, expand_images
from triclip.search import FolderIndex, Index, open_index
from triclip.search.opening import own_index
from triclip.upkeep import update, watch
from triclip.walk import Rules, find_pictures

pytest.importorskip("torch", reason="the embedded model runs on it here")

PICTURES = MODELS / "emoji" / "pictures"
KINDS = ("x.index", "x.npz", "x.npy", "x.parquet")


@pytest.fixture(scope="module")
def clip():
    return Clip.from_pretrained("emoji")


class Counting(ClipSpec):
    """Counts the pictures that go through the model."""

    def __init__(self, clip):
        super().__init__("emoji")
        self.clip, self.paths = clip, []

    def load_clip(self):
        return self

    def embed(self, paths, *arguments, **options):
        self.paths += paths
        return self.clip.embed(paths, *arguments, **options)


@pytest.fixture
def spec(clip):
    return Counting(clip)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("lion", "pizza", "rocket"):
        shutil.copy(PICTURES / f"{name}.png", folder)
    shutil.copy(PICTURES / "guitar.png", folder / "sub")
    return folder


def contents(path):
    if path.is_file():
        return path.read_bytes()
    return {one.name: (one.stat().st_ino, one.read_bytes()) for one in path.iterdir() if one.name != ".lock"}


def named(path):
    """Name -> vector; no name twice."""
    index = open_index(path)
    assert len(set(index.names)) == len(index)
    return dict(zip(index.names, np.array(index.vectors), strict=True))


def check_vectors(path, folder, clip):
    """The index is what embedding the folder anew would be."""
    found = named(path)
    pictures = [one for one in expand_images(folder) if one.stat().st_size > 20]
    assert sorted(found) == sorted(one.relative_to(folder).as_posix() for one in pictures)
    for one in pictures:
        np.testing.assert_allclose(found[one.relative_to(folder).as_posix()], clip.encode_image(one)[0], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_new_or_has_changed_is_embedded(photos, tmp_path, spec, kind):
    if kind.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / kind
    assert update(path, [photos], spec).new == 4 and len(spec.paths) == 4
    before = contents(path)
    again = update(path, [photos], spec)
    assert not again and again.total == 4 and len(spec.paths) == 4 and contents(path) == before
    shutil.copy(PICTURES / "octopus.png", photos / "octopus.png")
    shutil.copy(PICTURES / "snowman.png", photos / "lion.png")
    (photos / "pizza.png").unlink()
    changes = update(path, [photos], spec)
    assert (changes.new, changes.changed, changes.gone, changes.total) == (1, 1, 1, 4)
    assert sorted(os.path.basename(one) for one in spec.paths[4:]) == ["lion.png", "octopus.png"]
    check_vectors(path, photos, spec.clip)


def test_a_touched_or_moved_picture_is_not_embedded_again(photos, tmp_path, spec):
    path = tmp_path / "x.index"
    update(path, [photos], spec)
    os.utime(photos / "lion.png")
    (photos / "pizza.png").rename(photos / "sub" / "calzone.png")
    shutil.copy(photos / "rocket.png", photos / "twin.png")
    changes = update(path, [photos], spec)
    assert (changes.touched, changes.moved, changes.gone, changes.new, changes.total) == (1, 2, 0, 0, 5)
    assert len(spec.paths) == 4
    check_vectors(path, photos, spec.clip)
    assert not update(path, [photos], spec)


def test_what_was_not_asked_for_stays(photos, tmp_path, spec):
    path, other = tmp_path / "x.index", tmp_path / "other"
    shutil.copytree(photos / "sub", other)
    update(path, [photos, other], spec)
    (photos / "lion.png").unlink()
    (other / "guitar.png").unlink()
    shutil.copy(PICTURES / "octopus.png", other / "new.png")
    assert update(path, [other], spec).gone == 1  # the picture in `photos` is gone, too, but wasn't asked for
    assert "photos/lion.png" in named(path)
    assert update(path, [photos / "rocket.png"], spec).gone == 0
    assert update(path, [str(photos / "*.png")], spec).gone == 1
    assert sorted(named(path)) == ["other/new.png", "photos/pizza.png", "photos/rocket.png", "photos/sub/guitar.png"]


def test_a_drive_that_is_gone_empties_nothing(photos, tmp_path, spec):
    path = tmp_path / "x.index"
    update(path, [photos], spec)
    kept = named(path)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="photos"):
        update(path, [photos], spec)
    photos.mkdir()
    with pytest.raises(FileNotFoundError, match="drive missing"):
        update(path, [photos], spec)
    assert list(named(path)) == list(kept)
    shutil.copy(PICTURES / "octopus.png", photos)
    (photos / "sub").mkdir()  # where a drive was mounted that is not there
    changes = update(path, [photos], spec)
    assert changes.kept == 1 and changes.gone == 3 and "sub/guitar.png" in named(path)
    assert update(path, [photos], spec, prune=True).gone == 1
    assert list(named(path)) == ["octopus.png"]


def test_most_of_many_pictures_don_t_leave_at_once(tmp_path, spec):
    folder, path = tmp_path / "photos", tmp_path / "x.index"
    folder.mkdir()
    for number in range(24):
        shutil.copy(PICTURES / "lion.png", folder / f"{number}.png")
    update(path, [folder], spec)
    for number in range(20):
        (folder / f"{number}.png").unlink()
    assert update(path, [folder], spec).kept == 20 and len(named(path)) == 24
    assert update(path, [folder], spec, prune=True).gone == 20 and len(named(path)) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions keep nobody out here")
def test_a_folder_that_can_t_be_looked_into_loses_nothing(photos, tmp_path, spec):
    path = tmp_path / "x.index"
    update(path, [photos], spec)
    (photos / "sub").chmod(0)
    try:
        changes = update(path, [photos], spec)
    finally:
        (photos / "sub").chmod(0o700)
    assert changes.gone == changes.kept == 0 and "sub/guitar.png" in named(path)
    assert changes.walk.unlisted[0][0] == str(photos / "sub")


def test_what_can_t_be_read_is_tried_again_when_it_changes(photos, tmp_path, spec):
    path = tmp_path / "x.index"
    (photos / "broken.png").write_bytes(b"no picture")
    assert [os.path.basename(one) for one, _ in update(path, [photos], spec).unreadable] == ["broken.png"]
    again = update(path, [photos], spec)
    assert len(again.unreadable) == 1 and len(spec.paths) == 5  # known, not opened
    shutil.copy(PICTURES / "snowman.png", photos / "broken.png")
    assert update(path, [photos], spec).new == 1
    (photos / "lion.png").write_bytes(b"was one")
    changes = update(path, [photos], spec)
    assert len(changes.unreadable) == 1 and "lion.png" not in named(path) and not update(path, [photos], spec)
    with pytest.raises(ImageError, match="none of the 1 pictures"):
        update(tmp_path / "y.index", [photos / "lion.png"], spec)
    assert not (tmp_path / "y.index").exists()


def test_an_update_that_was_ended_goes_on(photos, tmp_path, spec, monkeypatch):
    """After each batch a commit; the third batch dies. What was there is not computed again, and no row is doubled."""
    path = tmp_path / "x.index"
    update(path, [photos / "lion.png"], spec)
    shutil.copy(PICTURES / "snowman.png", photos / "lion.png")
    module = sys.modules["triclip.upkeep.updating"]
    monkeypatch.setattr(module, "COMMIT", -1.0)
    monkeypatch.setattr(module, "_READ", 1)
    embed, calls = spec.embed, []

    def dying(paths, *arguments, **options):
        calls.append(paths)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(paths, *arguments, **options)

    spec.embed = dying
    with pytest.raises(KeyboardInterrupt):
        update(path, [photos], spec)
    assert len(FolderIndex(path)) == 3
    changes = update(path, [photos], spec)
    assert changes.new + changes.changed == 2
    check_vectors(path, photos, spec.clip)
    assert len(calls) == 5


def test_one_update_at_a_time(photos, tmp_path, spec):
    path = tmp_path / "x.index"
    update(path, [photos], spec)
    from triclip.locks import locked

    with locked(path / ".updating"), pytest.raises(InputError, match="another program"):
        update(path, [photos], spec)


def test_an_index_inside_moves_with_its_pictures(photos, tmp_path, spec):
    path = own_index(photos)
    update(path, [photos], spec)
    assert sorted(open_index(photos).names) == ["lion.png", "pizza.png", "rocket.png", "sub/guitar.png"]
    photos.rename(tmp_path / "moved")
    assert open_index(tmp_path / "moved").origin.root == str(tmp_path / "moved")
    assert not update(own_index(tmp_path / "moved"), [tmp_path / "moved"], spec)
    assert len(spec.paths) == 4
    assert len(expand_images(tmp_path / "moved")) == 4  # the index isn't looked into


def test_an_index_of_before_learns_the_versions(photos, tmp_path, spec):
    """One that `triclip index` made, without versions of its files: it is embedded anew, once."""
    path = tmp_path / "x.index"
    names = [str(photos / "lion.png"), str(photos / "gone.png")]
    Index(np.eye(2, 192, dtype=np.float32), names, "emoji").save(path)
    changes = update(path, [photos], spec)
    assert (changes.changed, changes.new, changes.gone) == (1, 3, 1)
    assert sorted(named(path)) == sorted(map(str, expand_images(photos)))
    assert not update(path, [photos], spec)
    own = Index(np.eye(1, 192, dtype=np.float32), ["a"], "emoji", {"year": [2000]})
    own.save(tmp_path / "y.index")
    with pytest.raises(InputError, match="columns of its own \\(year\\)"):
        update(tmp_path / "y.index", [photos], spec)


def test_parts_stay_few_and_untouched_ones_stay(photos, tmp_path, spec, monkeypatch):
    from triclip.search import changing

    path = tmp_path / "x.index"
    monkeypatch.setattr(changing, "PART", 4)
    monkeypatch.setattr(changing, "_SMALL", 3)
    update(path, [photos], spec)
    first = FolderIndex(path).manifest["parts"][0]["number"]
    for name in sorted(one.name for one in PICTURES.glob("*.png"))[:12]:
        shutil.copy(PICTURES / name, photos / f"more-{name}")
        update(path, [photos], spec)
        assert FolderIndex(path).manifest["parts"][0]["number"] == first
    rows = [part["rows"] for part in FolderIndex(path).manifest["parts"]]
    assert sum(rows) == 16 and len(rows) <= 6
    (photos / "lion.png").unlink()
    before = FolderIndex(path).manifest
    update(path, [photos], spec)
    after = FolderIndex(path).manifest
    assert after["id"] != before["id"] and after["parts"][1:-1] == before["parts"][1:-1]
    check_vectors(path, photos, spec.clip)


def test_watching_goes_on_through_errors(photos, tmp_path, spec):
    path, stop, told, failed = tmp_path / "x.index", threading.Event(), [], []
    runs = []

    def run():
        runs.append(1)
        if len(runs) == 2:
            photos.rename(tmp_path / "away")
        if len(runs) == 4:
            (tmp_path / "away").rename(photos)
            shutil.copy(PICTURES / "octopus.png", photos)
        if len(runs) == 5:
            stop.set()
        return update(path, [photos], spec)

    watch(run, told.append, failed.append, stop, pause=0.01)
    assert [changes.total for changes in told] == [4, 5] and len(failed) == 1


def test_what_a_walk_leaves_out(photos, tmp_path):
    for folder in (".cache", "@eaDir", "raw", "sub/raw"):
        (photos / folder).mkdir()
        shutil.copy(PICTURES / "octopus.png", photos / folder)
    shutil.copy(PICTURES / "octopus.png", photos / "._lion.png")
    (photos / "notes.txt").touch()
    (photos / "loop").symlink_to(photos)
    (tmp_path / "beside").mkdir()
    shutil.copy(PICTURES / "octopus.png", tmp_path / "beside" / "linked.png")
    (photos / "link").symlink_to(tmp_path / "beside")
    (photos / "one.png").symlink_to(tmp_path / "beside" / "linked.png")
    (photos / "dead.png").symlink_to(tmp_path / "nowhere.png")

    def names(**rules):
        walk = find_pictures([photos], Rules(**rules))
        return {os.path.relpath(path, photos).replace(os.sep, "/") for path in walk.files}, walk

    plain = {"lion.png", "pizza.png", "rocket.png", "sub/guitar.png", "one.png"}
    found, walk = names()
    assert found == plain | {"raw/octopus.png", "sub/raw/octopus.png"}
    assert (walk.hidden, walk.links, walk.not_pictures) == (3, 2, 1)
    assert names(exclude=("raw",))[0] == plain and names(exclude=("raw",))[1].excluded == 2
    assert names(exclude=("sub/*", "[lp]*.png"))[0] == {"rocket.png", "one.png", "raw/octopus.png"}
    more = {".cache/octopus.png", "@eaDir/octopus.png", "._lion.png"}
    assert names(exclude=("raw",), hidden=True)[0] == plain | more
    assert names(exclude=("raw",), links=True)[0] == plain | {"link/linked.png"}
