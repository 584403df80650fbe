"""Evaluation data: every sample once, in order, with any batch size and number of processes."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from clip_core.errors import DataError
from tests.triclip.image_text import picture, shard, table
from tests.triclip.test_data_pipeline import Listed, processor  # noqa: F401
from triclip.data import Sample, open_evaluation
from triclip.train.engine import Process


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_sample_once_in_order(tmp_path, processor, batch_size, count):  # noqa: F811
    path = table(tmp_path, 11)
    pictures = [Image.open(tmp_path / "pictures" / f"{number}.png") for number in range(11)]
    captions = [f"caption {number}" for number in range(11)]
    want = processor(text=captions, images=pictures, return_tensors="np", padding="max_length")
    pixels, ids, images, texts, lengths = [], [], [], [], set()
    for index in range(count):
        evaluation = open_evaluation(path, processor, Process(index, count), batch_size=batch_size)
        assert evaluation.samples == 11
        batches = list(evaluation)
        lengths.add(len(batches))
        assert len(batches) == len(evaluation)
        for batch in batches:
            assert len(batch) <= batch_size and batch.labels == []
            pixels.append(batch.pixel_values), ids.append(batch.input_ids)
            images += batch.image_sample.tolist()
            texts += batch.text_sample.tolist()
    assert len(lengths) == 1  # equally many in every process
    assert images == texts == list(range(11))
    assert np.array_equal(np.concatenate(pixels), want["pixel_values"])
    assert np.array_equal(np.concatenate(ids), want["input_ids"])


def test_all_pictures_and_captions_of_a_sample(processor):  # noqa: F811
    class Several(Listed):
        def __getitem__(self, number):
            return Sample("x", self.pictures[: number + 1], ["a", "b"][: 2 - number])

    source = Several([picture(number) for number in range(2)])
    (batch,) = open_evaluation(source, processor, length=7)
    assert batch.image_sample.tolist() == [0, 1, 1] and batch.text_sample.tolist() == [0, 0, 1]
    assert batch.captions == ["a", "b", "a"] and batch.input_ids.shape == (3, 7)
    assert np.array_equal(batch.pixel_values[0], batch.pixel_values[1])


def test_pixel_values_are_the_processors_of_transparent_pictures_too(processor):  # noqa: F811
    data = picture(0, mode="RGBA")
    (batch,) = open_evaluation(Listed([data]), processor)
    want = processor(images=Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"]
    assert np.array_equal(batch.pixel_values, want)


def test_labels(tmp_path, processor):  # noqa: F811
    for number, label in enumerate("bab"):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{number}.png").write_bytes(picture(number))
    evaluation = open_evaluation(tmp_path, processor, labelled=True, batch_size=2)
    assert evaluation.label_names == ["a", "b"]
    assert [batch.labels for batch in evaluation] == [[0, 1], [1]]
    assert [batch.labels for batch in evaluation] == [[0, 1], [1]]  # as often as wanted
    (tmp_path / "t.csv").write_text("image,class,text\nb/0.png,owl,x\n")
    (batch,) = open_evaluation(tmp_path / "t.csv", processor, label_key="class")
    assert batch.labels == ["owl"] and len(batch.input_ids) == 0


def test_broken_samples_are_left_out_and_counted(tmp_path, processor, caplog):  # noqa: F811
    path = shard(tmp_path / "a.tar", 6, s1_png=b"no", s4_txt=b"\xff")
    evaluation = open_evaluation(path, processor, batch_size=2)
    with caplog.at_level(logging.WARNING, "triclip"):
        for _ in range(2):
            batches = list(evaluation)
            assert [batch.image_sample.tolist() for batch in batches] == [[0], [2, 3], [5]]
    assert evaluation.skipped == 2
    assert sum("left out a broken sample" in record.getMessage() for record in caplog.records) == 2


def test_stopping_early_leaves_nothing_running(tmp_path, processor):  # noqa: F811
    import threading

    before = threading.active_count()
    iterator = iter(open_evaluation(table(tmp_path, 20), processor, batch_size=2))
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


def test_a_mistake_in_the_program_comes_through(processor):  # noqa: F811
    class Wrong(Listed):
        def __getitem__(self, number):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        list(open_evaluation(Wrong([b""]), processor))


def test_data_that_cannot_be_used(tmp_path, processor):  # noqa: F811
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_evaluation(tmp_path / "nowhere.jsonl", processor)
    with pytest.raises(DataError, match="label"):
        open_evaluation(table(tmp_path, 2), processor, labelled=True)
