"""`Clip` on the embedded model: each shortcut of the pipeline against the plain path."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from clip_core import ImageError, InputError, MissingDependencyError
from conformance.compare import relative_error
from triclip import Clip
from triclip.pipeline import expand_images
from triclip.zero_shot import Classification, unit, zero_shot_head

TEXTS = ["cat", "a red heart", "the flag of a country far away with many words in its name", "x", "cat"]
PLAIN_PATH = 1e-5  # same model and inputs, another batch: only the order of float32 sums differs


@pytest.fixture(scope="module")
def clip():
    return Clip.from_pretrained("emoji")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8)) for i in range(5)]


def test_encode_text_equals_one_sentence_at_a_time(clip, pictures):
    limit = clip.config.text_config.max_position_embeddings
    rows = []
    for text in TEXTS:
        ids = clip.processor.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows.append(clip.model.get_text_features(ids)[0].numpy())
    plain = np.stack(rows)
    for batch_size in (1, 2, 64):
        assert np.abs(clip.encode_text(TEXTS, batch_size, normalize=False) - plain).max() < PLAIN_PATH
    found = clip.encode_text(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit(plain), atol=PLAIN_PATH)
    np.testing.assert_array_equal(clip.encode_text("cat").shape, (1, plain.shape[1]))


def test_encode_image_equals_one_picture_at_a_time(clip, pictures):
    rows = []
    for picture in pictures:
        pixels = clip.processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            rows.append(clip.model.get_image_features(pixels)[0].numpy())
    for batch_size in (2, 32):
        found = clip.encode_image(pictures, batch_size, normalize=False)
        assert np.abs(found - np.stack(rows)).max() < PLAIN_PATH


def test_a_batch_on_each_core_equals_one_on_all(clip, pictures, tmp_path):
    for i, picture in enumerate(pictures * 3):
        picture.save(tmp_path / f"{i:02}.png")
    (tmp_path / "07.png").write_text("no picture")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        plain = clip.embed(tmp_path, batch_size=4, normalize=False)
        torch.set_num_threads(3)
        found = clip.embed(tmp_path, batch_size=4, normalize=False)
        assert torch.get_num_threads() == 3  # of this thread, and of those that begin now
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        with pytest.raises(ImageError, match="07.png"):
            clip.encode_image(tmp_path)
    finally:
        torch.set_num_threads(before)
    assert found.sources == plain.sources and found.skipped == plain.skipped and len(found.skipped) == 1
    assert relative_error(found.vectors, plain.vectors) < PLAIN_PATH


def test_cores_share_the_batches(clip, pictures, tmp_path, monkeypatch):
    """Each batch is computed on one core, several at once."""
    for i, picture in enumerate(pictures * 4):
        picture.save(tmp_path / f"{i:02}.png")
    seen, together = [], threading.Barrier(2)
    real = clip.runner.image_features

    def features(model, pixels):
        seen.append((threading.current_thread().name, torch.get_num_threads(), len(pixels)))
        together.wait(timeout=60)
        return real(model, pixels)

    monkeypatch.setattr(clip.runner, "image_features", features)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        clip.encode_image(tmp_path, batch_size=10)
    finally:
        torch.set_num_threads(before)
    assert [(threads, size) for _, threads, size in seen] == [(1, 5)] * 4
    assert len({name for name, *_ in seen}) == 2


def test_paths_folders_patterns_pictures_and_arrays_are_the_same(clip, pictures, tmp_path):
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    wanted = clip.encode_image(pictures)
    array = [np.asarray(picture) for picture in pictures]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for given in (tmp_path, str(tmp_path), f"{tmp_path}/*.png", paths, [str(p) for p in paths], array):
        np.testing.assert_allclose(clip.encode_image(given), wanted, atol=PLAIN_PATH)


def test_unreadable_pictures_are_reported_or_raised(clip, pictures, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    pictures[0].save(tmp_path / "good.png")
    found = clip.embed(tmp_path)
    assert [p.name for p in found.sources] == ["good.png"] and len(found.vectors) == 1
    assert len(found.skipped) == 1 and "bad.png" in found.skipped[0][1]
    with pytest.raises(ImageError, match="bad.png"):
        clip.encode_image(tmp_path)


def test_classify_follows_the_recipe(clip, pictures):
    labels, templates = ["cat", "red heart"], ["a {}.", "a drawing of a {}"]
    result = clip.classify(pictures, labels, templates)
    head = np.stack([unit(unit(clip.encode_text([t.format(n) for t in templates])).mean(0)) for n in labels])
    logits = clip.encode_image(pictures) @ head.T * np.exp(float(clip.model.logit_scale.detach()))
    wanted = torch.tensor(logits).softmax(-1).numpy()
    np.testing.assert_allclose(result.probabilities, wanted, atol=1e-4)
    np.testing.assert_allclose(result.probabilities.sum(-1), 1, atol=1e-5)
    assert len(result) == 5 and [row[0][0] for row in result] == result.best


def test_similarity_takes_vectors_too(clip, pictures):
    images, texts = clip.encode_image(pictures), clip.encode_text(TEXTS)
    np.testing.assert_allclose(clip.similarity(pictures, TEXTS), images @ texts.T, atol=1e-5)
    np.testing.assert_allclose(clip.similarity(images * 3, texts), images @ texts.T, atol=1e-5)


def test_heads_have_one_unit_column_per_label():
    def encode(sentences):
        return unit(np.array([[len(s), s.count("a") + 1.0] for s in sentences]))

    head = zero_shot_head(encode, ["a", "bb", "ccc"], ["{}", "an {} a"])
    assert head.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(head, axis=0), 1, atol=1e-6)


def test_ranking_keeps_the_order_of_equal_labels():
    result = Classification(("x", "y", "z"), np.array([[0.25, 0.5, 0.25]], np.float32))
    assert result[0] == [("y", 0.5), ("x", 0.25), ("z", 0.25)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.encode_text([]), "texts: wanted at least one"),
        (lambda c: c.encode_text([1]), "texts: wanted strings, found 1"),
        (lambda c: c.encode_image([]), "images: wanted at least one"),
        (lambda c: c.classify(np.zeros((1, 4)), "cat"), "labels: wanted a list"),
        (lambda c: c.classify([], ["cat"]), "images: wanted at least one"),
        (lambda c: c.zero_shot_head([]), "labels: wanted at least one"),
        (lambda c: c.zero_shot_head([3]), "labels: wanted strings"),
        (lambda c: c.zero_shot_head(["cat"], "no place"), "templates"),
        (lambda c: c.zero_shot_head(["cat"], []), "templates: wanted at least one"),
    ],
)
def test_bad_input_says_what_was_wanted(clip, call, words):
    with pytest.raises(InputError, match=words):
        call(clip)


def test_unknown_backends_and_missing_ones(monkeypatch):
    with pytest.raises(InputError, match="backend: wanted one of torch, tf, flax, found 'mxnet'"):
        Clip.from_pretrained("emoji", backend="mxnet")
    import sys

    monkeypatch.setitem(sys.modules, "triclip.backends.torch_", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises((MissingDependencyError, ModuleNotFoundError)):
        Clip.from_pretrained("emoji", backend="torch")


def test_expand_images_keeps_what_is_no_path():
    picture = Image.new("RGB", (2, 2))
    assert expand_images(picture) == [picture]
    assert len(expand_images(np.zeros((3, 4, 4, 3), np.uint8))) == 3
    with pytest.raises(FileNotFoundError, match="absent"):
        expand_images("absent/*.png")


def test_the_scale_is_the_parameters_exponential(clip):
    assert clip.logit_scale == pytest.approx(float(clip.model.logit_scale.detach().exp()), rel=1e-6)


def transparent(colour: tuple[int, int, int], mode: str) -> Image.Image:
    """A shape in the middle of a transparent picture, on whose hidden pixels lies `colour`."""
    rgba = Image.new("RGBA", (40, 40), (*colour, 0))
    rgba.paste((20, 20, 20, 255), (8, 4, 30, 33))
    return rgba if mode == "RGBA" else rgba.quantize(8)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_lies_under_transparency_changes_nothing(clip, tmp_path, mode):
    pictures = [transparent(colour, mode) for colour in ((0, 0, 0), (255, 255, 255), (20, 90, 200))]
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(tmp_path / f"{number}.png")
        picture.save(paths[-1])
    flat = Image.new("RGB", (40, 40), "white")
    flat.paste((20, 20, 20), (8, 4, 30, 33))
    want = clip.encode_image(flat)
    for given in (pictures, paths):
        assert np.abs(clip.encode_image(given) - want).max() < 1e-6
    other = Clip(clip.model, clip.processor, background="#1450c8")
    assert np.abs(other.encode_image(pictures) - want).max() > 1e-3
    plain = Clip(clip.model, clip.processor, background=None)  # as the processor, and transformers, have it
    assert np.abs(plain.encode_image(pictures[2]) - want).max() > 1e-3


def test_any_iterable_of_pictures(clip, pictures):
    want = clip.encode_image(pictures)
    for given in (
        tuple(pictures),
        iter(pictures),
        (picture for picture in pictures),
        dict(enumerate(pictures)).values(),
    ):
        np.testing.assert_array_equal(clip.encode_image(given), want)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8"])
def test_batch_sizes_are_checked(clip, pictures, size):
    for run in (lambda: clip.encode_text(["a"], batch_size=size), lambda: clip.encode_image(pictures, batch_size=size)):
        with pytest.raises(InputError, match="batch_size: wanted a whole number from 1"):
            run()


def test_classify_skips_what_cannot_be_read(clip, tmp_path, pictures):
    pictures[0].save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"none")
    pictures[1].save(tmp_path / "c.png")
    with pytest.raises(ImageError, match=r"b\.png"):
        clip.classify(tmp_path, ["x", "y"])
    found = clip.classify(tmp_path, ["x", "y"], skip_unreadable=True)
    assert [path.name for path in found.sources] == ["a.png", "c.png"] and len(found) == 2
    assert [path.name for path, _ in found.skipped] == ["b.png"]
    part = found[1:]
    assert [path.name for path in part.sources] == ["c.png"] and part[0] == found[1] and part.labels == found.labels


def test_labels_that_cannot_be_told_apart_are_refused(clip, pictures):
    for labels, message in ((["cat", "dog", "cat"], "'cat' twice"), (["cat", " "], "empty label")):
        with pytest.raises(InputError, match=message):
            clip.classify(pictures, labels)
    assert clip.zero_shot_head(["cat", "cat"]).shape[1] == 2  # a head may hold them: ImageNet's does


def test_a_clip_can_be_copied_and_pickled(clip, pictures):
    want = clip.encode_image(pictures), clip.encode_text(["a cat"])
    for other in (copy.deepcopy(clip), pickle.loads(pickle.dumps(clip)), copy.copy(clip)):
        np.testing.assert_array_equal(other.encode_image(pictures), want[0])
        np.testing.assert_array_equal(other.encode_text(["a cat"]), want[1])


def test_a_folder_gives_every_format_that_pillow_reads(tmp_path):
    names = ["a.jfif", "b.JPE", "c.tga", "d.webp", "e.dds", "f.pcx", "g.jp2"]
    for name in [*names, "notes.txt", "page.pdf", "drawing.eps"]:
        (tmp_path / name).touch()
    assert [path.name for path in expand_images(tmp_path)] == names
