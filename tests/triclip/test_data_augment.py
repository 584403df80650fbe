"""Augmentation: each setting's effect within its bounds; all random numbers from the given generator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triclip.data.augment import CONTRAST, Augmenter, crop_box, luma, recolour
from triclip.train.config import AugmentSection

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def seeded(seed=0):
    return np.random.default_rng(seed)


def augmenter(**settings):
    return Augmenter(AugmentSection(**{"crop_scale": [1.0, 1.0], **settings}), 30, 40, Image.Resampling.BICUBIC)


def changed(seed=0, pixels=NOISE, background=(255, 255, 255), **settings):
    return augmenter(**settings).change(Image.fromarray(pixels), background, seeded(seed))


def test_the_same_generator_gives_the_same_bytes():
    settings = {"flip": 0.5, "grayscale": 0.3, "color_jitter": [0.4, 0.4, 0.4, 0.1], "rotate": 20.0}
    draws = [changed(seed, **settings) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    assert draws[0].dtype == np.uint8 and draws[0].shape == NOISE.shape


def test_nothing_asked_for_changes_nothing():
    assert augmenter().is_plain and not augmenter(flip=0.1).is_plain
    assert augmenter().crop(Image.fromarray(NOISE), seeded()) is None
    assert np.array_equal(changed(), NOISE)


def test_flip_and_grey_have_their_probabilities():
    flipped = [np.array_equal(changed(seed, flip=0.25), NOISE[:, ::-1]) for seed in range(400)]
    assert 70 < sum(flipped) < 130
    assert all(np.array_equal(changed(seed, flip=0.25), NOISE) for seed in range(400) if not flipped[seed])
    grey = changed(grayscale=1.0)
    assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(NOISE).convert("L")))
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])


def test_rotation_keeps_the_middle_and_bares_the_corners():
    plain = np.full((30, 40, 3), 100, np.uint8)
    bare = 0
    for seed in range(10):
        turned = changed(seed, plain, (7, 8, 9), rotate=45.0)
        assert (turned[5:25, 15:25] == 100).all()
        bare += (turned[0, 0] == (7, 8, 9)).all()
    assert bare > 5
    assert np.array_equal(changed(0, plain, rotate=0.0), plain)


def test_backgrounds():
    assert augmenter().background(seeded()) == (255, 255, 255)
    assert augmenter(background="black").background(seeded()) == (0, 0, 0)
    drawn = [augmenter(background="random").background(seeded(seed)) for seed in range(300)]
    assert 110 < drawn.count((255, 255, 255)) < 190 and len(set(drawn)) > 100


def drawing(colour=(0, 0, 0), mode="RGBA"):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((*colour, 255), (2, 2, 6, 6))
    picture.putpixel((2, 2), (*colour, 100))
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_tint_recolours_drawings_of_one_colour_and_keeps_their_shape(mode):
    tints = [augmenter(tint=0.5).tint(drawing(mode=mode), (255, 255, 255), seeded(seed)) for seed in range(200)]
    assert all(np.array_equal(tint.getchannel("A"), drawing().getchannel("A")) for tint in tints)
    colours = [tint.getpixel((4, 4))[:3] for tint in tints]
    assert 70 < colours.count((0, 0, 0)) < 130 and len(set(colours)) > 60
    assert all(luma(colour) <= 255 - CONTRAST for colour in colours)


def test_tint_makes_a_drawing_stand_out_from_its_background():
    assert augmenter(tint=1e-9).tint(drawing(), (20, 0, 0), seeded()).getpixel((4, 4)) == (255, 255, 255, 255)
    assert augmenter(tint=1e-9).tint(drawing((250, 250, 250)), (255, 255, 255), seeded()).getpixel((4, 4))[:3] == (
        0,
        0,
        0,
    )
    assert augmenter(tint=1e-9).tint(drawing((90, 0, 0)), (255, 255, 255), seeded()).getpixel((4, 4))[:3] == (90, 0, 0)


def test_tint_leaves_other_pictures_as_they_are():
    two = drawing()
    two.putpixel((3, 3), (200, 0, 0, 255))
    opaque, empty = Image.new("RGBA", (8, 8), (0, 0, 0, 255)), Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for picture in (two, opaque, empty, Image.fromarray(NOISE), drawing().convert("P")):
        assert augmenter(tint=1.0).tint(picture, (255, 255, 255), seeded()) is picture
    assert augmenter().tint(drawing(), (0, 0, 0), seeded()).getpixel((4, 4)) == (0, 0, 0, 255)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.05, 1), st.floats(0.2, 1), st.integers(0, 1000))
def test_crops_lie_inside_and_keep_their_bounds(width, height, least, ratio, seed):
    left, top, right, bottom = crop_box(width, height, [least, 1.0], [ratio, 1 / ratio], seeded(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if min(width, height) > 100 and ratio < min(width / height, height / width):
        share, shape = (right - left) * (bottom - top) / (width * height), (right - left) / (bottom - top)
        assert least * 0.95 < share <= 1 and ratio * 0.95 < shape < 1.05 / ratio


def test_crops_that_never_fit_take_the_middle():
    assert crop_box(1000, 10, [1.0, 1.0], [1.0, 1.0], seeded()) == (495, 0, 505, 10)
    assert crop_box(10, 1000, [0.9, 1.0], [0.5, 2.0], seeded()) == (0, 490, 10, 510)
    assert crop_box(64, 48, [1.0, 1.0], [4 / 3, 4 / 3], seeded()) == (0, 0, 64, 48)


def test_crops_move():
    boxes = {crop_box(100, 100, [0.2, 0.9], [0.75, 1.33], seeded(seed)) for seed in range(50)}
    assert len(boxes) == 50 and len({box[0] for box in boxes}) > 20


class Fixed:
    """A generator whose uniform draws are given."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        value = self.values.pop(0)
        assert low <= value <= high
        return value


def test_recolouring_by_hand():
    jitter = [0.5, 0.5, 0.5, 0.5]

    def drawn(brightness=0.0, contrast=0.0, saturation=0.0, turn=0.0):
        return recolour(NOISE, jitter, Fixed(brightness, contrast, saturation, turn)).astype(int)

    exact = NOISE.astype(float)
    grey = exact @ [0.299, 0.587, 0.114]
    assert np.array_equal(drawn(), NOISE)
    assert np.abs(drawn(brightness=0.5) - np.clip(exact * 1.5, 0, 255)).max() <= 0.51
    assert np.abs(drawn(contrast=-0.5) - (exact * 0.5 + 0.5 * grey.mean())).max() <= 0.51
    wanted = np.clip(exact * 1.4 - 0.4 * grey[..., None], 0, 255)
    assert np.abs(drawn(saturation=0.4) - wanted).max() <= 0.51
    # A third of a turn passes the colours round; greys stay as they are.
    assert np.array_equal(np.roll(NOISE, 1, -1), drawn(turn=1 / 3))
    assert np.array_equal(
        recolour(np.full((2, 2, 3), 77, np.uint8), jitter, Fixed(0, 0.3, -0.2, 0.27)), np.full((2, 2, 3), 77)
    )


@pytest.mark.parametrize("jitter", [[1.0, 1.0, 1.0, 0.5], [2.0, 2.0, 2.0, 0.0]])
def test_strong_recolouring_stays_in_range(jitter):
    for seed in range(20):
        assert recolour(NOISE, jitter, seeded(seed)).dtype == np.uint8
