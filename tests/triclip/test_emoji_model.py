"""The embedded default model: its files, its vocabulary, and its results on the bundled pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from clip_core import CLIPConfig, CLIPImageProcessor, CLIPTokenizer, CLIPTokenizerFast

MODEL = Path(__file__).parents[2] / "clip_core" / "models" / "emoji"
DEMO = json.loads((MODEL / "pictures" / "demo.json").read_text())["pictures"]
MEGABYTE = 1_000_000
# Of 16, among the first three; the card says 13 and 10. Chance is 3. One less, for other machines' rounding.
NAMES_FOUND, PROMPTS_FOUND = 12, 9


def test_the_files_of_a_model_are_there_and_small():
    names = "README.md config.json model.safetensors vocab.json merges.txt tokenizer.json tokenizer_config.json"
    for name in [*names.split(), "special_tokens_map.json", "preprocessor_config.json", "pictures/LICENSE"]:
        assert (MODEL / name).stat().st_size > 0, name
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 12 * MEGABYTE


def test_weights_are_half_precision_and_finite():
    from safetensors.numpy import load_file

    weights = load_file(MODEL / "model.safetensors")
    assert {str(array.dtype) for array in weights.values()} == {"float16"}
    assert all(np.isfinite(array).all() for array in weights.values())
    assert sum(array.size for array in weights.values()) < 5_500_000
    assert weights["logit_scale"] <= np.log(100) + 1e-2


def test_both_tokenizers_read_the_vocabulary_and_agree():
    slow, fast = CLIPTokenizer.from_pretrained(MODEL), CLIPTokenizerFast.from_pretrained(MODEL)
    config = CLIPConfig.from_pretrained(MODEL)
    assert len(slow) == len(fast) == config.text_config.vocab_size == 2048
    assert (slow.bos_token_id, slow.eos_token_id) == (2046, 2047) == (fast.bos_token_id, fast.eos_token_id)
    assert slow.model_max_length == config.text_config.max_position_embeddings == 24
    texts = [item["prompt"] for item in DEMO] + ["O'Clock 10:30, naïve café", "日本 🎌", ""]
    assert slow(texts)["input_ids"] == fast(texts)["input_ids"]
    assert fast.decode(fast("birthday cake")["input_ids"], skip_special_tokens=True).strip() == "birthday cake"


def test_image_settings_fit_the_vision_tower():
    processor, config = CLIPImageProcessor.from_pretrained(MODEL), CLIPConfig.from_pretrained(MODEL)
    size = config.vision_config.image_size
    assert processor.size == {"shortest_edge": size} and processor.crop_size == {"height": size, "width": size}


def test_bundled_pictures_are_found_by_name_and_by_words_not_trained_on():
    pytest.importorskip("torch", reason="the model runs here with PyTorch")
    from triclip.pipeline import Clip

    clip = Clip.from_pretrained(MODEL)
    images = clip.encode_image([MODEL / "pictures" / item["file"] for item in DEMO])
    for kind, least in (("name", NAMES_FOUND), ("prompt", PROMPTS_FOUND)):
        scores = clip.encode_text([item[kind] for item in DEMO]) @ images.T
        ranks = (scores > np.diagonal(scores)[:, None]).sum(1)
        assert (ranks < 3).sum() >= least, (kind, ranks.tolist())
