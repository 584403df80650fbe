"""CLIPProcessor: text, pictures or both; its files; its old names."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_core import BatchEncoding, CLIPImageProcessor, CLIPProcessor, CLIPTokenizer, CLIPTokenizerFast
from clip_core.errors import InputError

picture = Image.fromarray(np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8))


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizerFast()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return CLIPProcessor(CLIPImageProcessor(size=24, crop_size=20), tokenizer)


def test_text_and_pictures(processor):
    both = processor(text=["a cat", "a big dog"], images=[picture], return_tensors="np", padding=True)
    assert list(both) == ["input_ids", "attention_mask", "pixel_values"]
    assert isinstance(both, BatchEncoding)
    np.testing.assert_array_equal(both.input_ids, [[49406, 320, 2368, 49407, 49407], [49406, 320, 1205, 1929, 49407]])
    np.testing.assert_array_equal(both["attention_mask"], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(both.pixel_values, processor.image_processor(picture)["pixel_values"])
    assert processor.model_input_names == list(both)


def test_text_alone_and_pictures_alone(processor, tokenizer):
    assert processor("a cat").data == tokenizer("a cat").data
    assert processor(["a cat"], None, "np")["input_ids"].shape == (1, 4)
    alone = processor(images=picture, return_tensors="np")
    assert list(alone) == ["pixel_values"]
    assert alone.pixel_values.shape == (1, 3, 20, 20)
    assert isinstance(processor(images=picture)["pixel_values"], list)


def test_neither_is_an_error(processor):
    with pytest.raises(InputError, match="text, images"):
        processor()


def test_each_part_gets_its_own_keywords(processor):
    both = processor(
        text="a cat", images=picture, return_tensors="np", padding="max_length", max_length=9, do_center_crop=False
    )
    assert both.input_ids.shape == (1, 9)
    assert both.pixel_values.shape == (1, 3, 24, 32)
    turned = processor(text="a cat", images=picture, apply_exif_orientation=True)
    np.testing.assert_array_equal(turned.pixel_values, processor(images=picture).pixel_values)


def test_a_strict_tokenizer_gets_no_keywords_of_pictures(processor):
    class Strict:
        def __call__(self, text, return_tensors=None, padding=False):
            return BatchEncoding({"input_ids": [[len(text), padding]]})

        def decode(self, ids):
            return ""

    strict = CLIPProcessor(processor.image_processor, Strict())
    both = strict("a cat", picture, padding=True, do_rescale=False, resample=2, apply_exif_orientation=True)
    assert both["input_ids"] == [[5, True]]


def test_decoding(processor, tokenizer):
    ids = tokenizer(["a cat", "a dog"])["input_ids"]
    assert processor.decode(ids[0], skip_special_tokens=True) == tokenizer.decode(ids[0], skip_special_tokens=True)
    assert processor.batch_decode(ids) == tokenizer.batch_decode(ids)


def test_parts_are_attributes_under_old_and_new_names(processor, tokenizer):
    assert processor.tokenizer is tokenizer
    with pytest.warns(FutureWarning, match="image_processor"):
        assert processor.feature_extractor is processor.image_processor
    with pytest.warns(FutureWarning, match="image_processor_class"):
        assert processor.feature_extractor_class == "CLIPImageProcessor"
    with pytest.warns(FutureWarning, match="feature_extractor is deprecated"):
        old = CLIPProcessor(feature_extractor=processor.image_processor, tokenizer=tokenizer)
    assert old.image_processor is processor.image_processor


def test_missing_or_swapped_parts(processor, tokenizer):
    with pytest.raises(InputError, match="image_processor: wanted"):
        CLIPProcessor(tokenizer=tokenizer)
    with pytest.raises(InputError, match="tokenizer: wanted"):
        CLIPProcessor(processor.image_processor)
    with pytest.raises(InputError, match="image_processor: wanted"):
        CLIPProcessor(tokenizer, processor.image_processor)
    with pytest.raises(TypeError, match="colour"):
        CLIPProcessor(processor.image_processor, tokenizer, colour=3)


def test_save_and_load(processor, tmp_path):
    files = processor.save_pretrained(tmp_path)
    assert str(tmp_path / "preprocessor_config.json") in files
    # By this transformers' AutoProcessor knows what to make of the folder.
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["processor_class"] == "CLIPProcessor"
    again = CLIPProcessor.from_pretrained(tmp_path)
    assert isinstance(again.tokenizer, CLIPTokenizerFast)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    want = processor(text=["It's 42 dogs!"], images=picture, return_tensors="np")
    found = again(text=["It's 42 dogs!"], images=picture, return_tensors="np")
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])
    slow = CLIPProcessor.from_pretrained(str(tmp_path), use_fast=False)
    assert isinstance(slow.tokenizer, CLIPTokenizer)
    assert not isinstance(slow.tokenizer, CLIPTokenizerFast)


def test_stray_keywords(processor, tmp_path):
    processor.save_pretrained(tmp_path / "inside")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = CLIPProcessor.from_pretrained(
            tmp_path, subfolder="inside", revision="main", force_download=False, do_normalize=False
        )
    assert again.image_processor.do_normalize is False


def test_folder_of_transformers_5(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings.pop("processor_class")
    (tmp_path / "preprocessor_config.json").unlink()
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": settings, "processor_class": "CLIPProcessor"})
    )
    again = CLIPProcessor.from_pretrained(tmp_path)
    assert again.image_processor.size == {"shortest_edge": 24}
    assert again("a cat").input_ids == processor("a cat").input_ids


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        CLIPProcessor.from_pretrained(tmp_path)


def test_representations(processor):
    assert processor.to_dict() == {"processor_class": "CLIPProcessor"}
    assert json.loads(processor.to_json_string()) == processor.to_dict()
    assert "CLIPImageProcessor" in repr(processor)


class Named(CLIPProcessor):
    """A subclass with an argument of its own."""

    def __init__(self, image_processor=None, tokenizer=None, prefix=""):
        super().__init__(image_processor, tokenizer)
        self.prefix = prefix


def test_a_subclass_s_own_arguments_are_saved(tmp_path):
    processor = Named(CLIPImageProcessor(), CLIPTokenizerFast(), prefix="a photo of ")
    written = processor.save_pretrained(tmp_path)
    assert written[-1] == str(tmp_path / "processor_config.json")
    assert json.loads(Path(written[-1]).read_text("utf-8")) == {"prefix": "a photo of ", "processor_class": "Named"}
    assert Named.from_pretrained(tmp_path).prefix == "a photo of "
    found, rest = Named.get_processor_dict(tmp_path, local_files_only=True, other=1)
    assert found["prefix"] == "a photo of " and rest == {"other": 1}
    parts = [processor.image_processor, processor.tokenizer]
    again, rest = Named.from_args_and_dict(parts, {**found, "auto_map": {}}, prefix="b", z=1, return_unused_kwargs=True)
    assert again.prefix == "b" and rest == {"z": 1}
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config["processor_class"] == "Named"


def test_from_pretrained_takes_v4_37_s_positions(tmp_path):
    CLIPProcessor(CLIPImageProcessor(), CLIPTokenizerFast()).save_pretrained(tmp_path / "sub")
    assert not (tmp_path / "sub/processor_config.json").exists()
    found = CLIPProcessor.from_pretrained(tmp_path, None, False, True, None, "main", subfolder="sub")
    assert found.get_processor_dict(tmp_path, subfolder="sub") == ({}, {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        found.save_pretrained(tmp_path, speed=1)
    found.to_json_file(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text("utf-8")) == {"processor_class": "CLIPProcessor"}
    with pytest.raises(AttributeError, match="no auto classes"):
        found.register_for_auto_class()
