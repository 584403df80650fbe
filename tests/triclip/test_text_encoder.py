"""`Clip(..., text_encoder=...)`: another encoder's text vectors beside the model's pictures (multilingual CLIPs)."""

import copy
import pickle

import numpy as np
import pytest
from PIL import Image

from clip_core import InputError
from triclip import Clip
from triclip.search import Index
from triclip.zero_shot import unit

BACKENDS = {"torch": "torch", "tf": "tensorflow", "flax": "flax"}
TEXTS = ["Katze", "ein rotes Herz", "Katze", "猫"]
WIDTH = 192


def vectors_of(texts):
    """Something that tells strings apart, the same in every call."""
    return np.stack([np.random.default_rng(list(text.encode())).normal(size=WIDTH) for text in texts])


class SentenceModel:
    """As sentence-transformers' models are: callable for another thing, with an `encode` that gives NumPy's arrays."""

    def __init__(self):
        self.seen = []

    def __call__(self, features):
        raise AssertionError("that is the module's forward pass")

    def encode(self, sentences, batch_size=32, show_progress_bar=None, convert_to_numpy=True):
        assert isinstance(sentences, list)
        self.seen += sentences
        return vectors_of(sentences).astype(np.float32)


@pytest.fixture(scope="module", params=list(BACKENDS))
def own(request):
    pytest.importorskip(BACKENDS[request.param])
    return Clip.from_pretrained(backend=request.param)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(3)]


def test_every_use_takes_its_vectors(own, pictures):
    clip = Clip(own.model, own.processor, own.backend, text_encoder=vectors_of)
    wanted = unit(vectors_of(TEXTS))
    for batch_size in (1, 2, 64):
        np.testing.assert_allclose(clip.encode_text(TEXTS, batch_size), wanted, atol=1e-6)
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), vectors_of(TEXTS), rtol=1e-6)
    vectors = own.encode_image(pictures)
    np.testing.assert_allclose(clip.encode_image(pictures), vectors, atol=1e-5)
    np.testing.assert_allclose(clip.similarity(pictures, TEXTS), vectors @ wanted.T, atol=1e-6)
    head = clip.zero_shot_head(["Katze", "Hund"], ["{}", "Bild: {}"])
    wanted_head = unit(unit(vectors_of(["Katze", "Bild: Katze", "Hund", "Bild: Hund"])).reshape(2, 2, -1).mean(1)).T
    np.testing.assert_allclose(head, wanted_head, atol=1e-6)
    logits = vectors @ head * clip.logit_scale
    found = clip.classify(pictures, ["Katze", "Hund"], ["{}", "Bild: {}"])
    assert found.best == [["Katze", "Hund"][i] for i in logits.argmax(1)]
    scores, rows = Index(vectors, ["a", "b", "c"], "emoji").search_rows(clip.encode_text("Katze"), 3)
    np.testing.assert_allclose(scores[0], np.sort(vectors @ wanted[0])[::-1], atol=1e-6)
    assert rows.shape == (1, 3)


def test_sentence_transformers_models_are_asked_for_each_string_once():
    model = SentenceModel()
    clip = Clip.from_pretrained(text_encoder=model)
    np.testing.assert_allclose(clip.encode_text(TEXTS), unit(vectors_of(TEXTS)), atol=1e-6)
    assert sorted(model.seen) == sorted(set(TEXTS))
    for again in (copy.deepcopy(clip), pickle.loads(pickle.dumps(clip))):
        np.testing.assert_array_equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))


def test_vectors_of_any_framework():
    torch = pytest.importorskip("torch")

    def encoder(texts):
        return torch.nn.Parameter(torch.from_numpy(vectors_of(texts)).bfloat16())

    wanted = vectors_of(TEXTS)
    np.testing.assert_allclose(
        Clip.from_pretrained(text_encoder=encoder).encode_text(TEXTS, normalize=False), wanted, rtol=0.01
    )
    lists = Clip.from_pretrained(text_encoder=lambda texts: vectors_of(texts).tolist())
    np.testing.assert_allclose(lists.encode_text(TEXTS, normalize=False), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "encoder, message",
    [
        ("a/name", "text_encoder: wanted a function from a list of strings.*found str"),
        (lambda texts: np.zeros((len(texts), 512)), r"text_encoder: wanted vectors \[1, 192\].*float64 \[1, 512\]"),
        (lambda texts: np.zeros(WIDTH), r"text_encoder: wanted vectors \[1, 192\].*\[192\]"),
        (lambda texts: [[str(i) for i in range(WIDTH)]], "text_encoder: wanted vectors .*found <U3"),
        (lambda texts: [[1.0], [1.0, 2.0]], "text_encoder: found no vectors of one width"),
        (lambda texts: np.full((1, WIDTH), np.nan), "text_encoder: found NaN or infinity"),
    ],
)
def test_what_is_no_encoder(encoder, message):
    with pytest.raises(InputError, match=message):
        Clip.from_pretrained(text_encoder=encoder).encode_text("Katze")


def test_what_needs_the_model_s_own_texts_says_so(pictures):
    from triclip.explain import explain
    from triclip.train import evaluate_clip

    clip = Clip.from_pretrained(text_encoder=vectors_of)
    with pytest.raises(InputError, match="clip: found one with a text_encoder"):
        explain(clip, pictures[0], "Katze")
    with pytest.raises(InputError, match="clip: found one with a text_encoder"):
        evaluate_clip(clip, retrieval="photos")
