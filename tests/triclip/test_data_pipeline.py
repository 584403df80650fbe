"""The training pipeline: the same bytes on every topology and after a resume, with any broken samples."""

import hashlib
import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from clip_core import CLIPConfig, CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast
from clip_core.errors import ConfigError, DataError
from tests.triclip.image_text import bomb, picture, shard, table, write_tar
from triclip.data import Sample, Source, open_pipeline, open_source
from triclip.data.order import Order
from triclip.train.config import AnchorSection, TrainConfig
from triclip.train.engine import Process

pytest.importorskip("grain", reason="the pipeline is grain's")

VISION = {"image_size": 24, "patch_size": 8, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
MODEL = CLIPConfig(text_config={"max_position_embeddings": 16}, vision_config=VISION)
LENGTH = 16
SIZE = 24


@pytest.fixture(scope="module")
def processor():
    return CLIPProcessor(CLIPImageProcessor(size=SIZE, crop_size=SIZE), CLIPTokenizerFast())


def configured(paths=(), batch_size=8, seed=3, plain=False, **data):
    config = TrainConfig(seed=seed)
    config.data.train = [str(path) for path in paths]
    config.data.batch_size = batch_size
    for key, value in data.items():
        setattr(config.data, key, value)
    if plain:
        config.data.augment.crop_scale = [1.0, 1.0]
    else:
        config.data.augment.flip, config.data.augment.color_jitter = 0.5, [0.2, 0.2, 0.2, 0.05]
        config.data.augment.rotate, config.data.augment.background = 10.0, "random"
    return config


def all_of_it(config):
    config.loss.anchors, config.model.patch_dropout = AnchorSection(), 0.4
    return config


def opened(config, processor, index=0, count=1, **more):
    return open_pipeline(config, processor, Process(index, count), model_config=MODEL, **more)


def digest(batch):
    return hashlib.sha256(b"".join(key.encode() + batch[key].tobytes() for key in sorted(batch))).hexdigest()


def global_batch(batches):
    """Batches of all processes as one: row r belongs to process r % count."""
    count = len(batches)
    out = {key: np.empty((count * len(value), *value.shape[1:]), value.dtype) for key, value in batches[0].items()}
    for index, batch in enumerate(batches):
        for key, value in batch.items():
            out[key][index::count] = value
    return out


def steps(config, processor, number, count=1):
    """Digests of the global batches of the first steps."""
    pipelines = [opened(config, processor, index, count) for index in range(count)]
    try:
        return [digest(global_batch([next(pipeline) for pipeline in pipelines])) for _ in range(number)]
    finally:
        for pipeline in pipelines:
            pipeline.close()


# -- what a batch is --------------------------------------------------------------------------------------------------


def test_without_augmentation_batches_are_the_processors(tmp_path, processor):
    config = all_of_it(configured([table(tmp_path, 11)], batch_size=4, plain=True, shuffle=False))
    with opened(config, processor) as pipeline:
        assert pipeline.samples == 11
        for step in range(5):
            batch = next(pipeline)
            numbers = [(4 * step + row) % 11 for row in range(4)]
            pictures = [Image.open(tmp_path / "pictures" / f"{number}.png") for number in numbers]
            captions = [f"caption {number}" for number in numbers]
            want = processor(
                text=captions, images=pictures, return_tensors="np", padding="max_length", max_length=LENGTH
            )
            assert batch["pixel_values"].dtype == np.float32 and batch["input_ids"].dtype == np.int32
            assert np.array_equal(batch["pixel_values"], want["pixel_values"])
            assert np.array_equal(batch["input_ids"], want["input_ids"])
            assert batch["sample"].tolist() == numbers and batch["sample"].dtype == np.int32
            patches = batch["patches"]
            assert patches.shape == (4, 5) and patches.dtype == np.int32  # of 9 patches, 40% dropped
            assert (np.diff(patches) > 0).all() and patches.min() >= 0 and patches.max() < 9


def test_only_what_is_asked_for(tmp_path, processor):
    with opened(configured([table(tmp_path, 8)]), processor) as pipeline:
        assert sorted(next(pipeline)) == ["input_ids", "pixel_values"]


@pytest.mark.parametrize("profile", ["hf", "openai"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pictures_of_every_mode(processor, mode, profile):
    image_processor = CLIPImageProcessor(size=SIZE, crop_size=SIZE, profile=profile)
    both = CLIPProcessor(image_processor, processor.tokenizer)
    data = [picture(number, mode=mode) for number in range(4)]
    config = configured(batch_size=4, plain=True, shuffle=False)
    with opened(config, both, source=Listed(data)) as pipeline:
        found = next(pipeline)["pixel_values"]
    pictures = [Image.open(io.BytesIO(one)) for one in data]
    if mode == "RGBA":  # flattened on white
        pictures = [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one).convert("RGB") for one in pictures]
    assert np.array_equal(found, image_processor(pictures, return_tensors="np")["pixel_values"])


def test_long_captions_are_cut_and_keep_their_end(tmp_path, processor):
    source = Listed([picture(0)] * 2, [["word " * 100], ["short"]])
    with opened(configured(batch_size=2, shuffle=False), processor, source=source) as pipeline:
        ids = next(pipeline)["input_ids"]
    end = processor.tokenizer.eos_token_id
    assert ids.shape == (2, LENGTH) and ids[0, -1] == end and (ids[0, :-1] != end).all()
    assert ids[1].tolist()[2:] == [end] * 14


class Listed(Source):
    """Pictures and captions from lists; None is broken."""

    def __init__(self, pictures, captions=None):
        self.pictures = pictures
        self.captions = captions or [[f"caption {number}"] for number in range(len(pictures))]

    def __len__(self):
        return len(self.pictures)

    def name(self, number):
        return f"sample {number}"

    def __getitem__(self, number):
        if self.pictures[number] is None:
            raise DataError(f"{self.name(number)}: broken")
        return Sample(self.name(number), [self.pictures[number]], self.captions[number])


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("samples", "batch"), [(8, 8), (9, 8), (23, 8), (40, 8), (7, 1)])
def test_a_batch_holds_no_sample_twice_and_an_epoch_all_that_fit(samples, batch, shuffle):
    order = Order(samples, batch, 5, shuffle)
    drawn = [[next(order.candidates(step, row)) for row in range(batch)] for step in range(3 * (samples // batch))]
    assert all(len(set(step)) == batch and set(step) <= set(range(samples)) for step in drawn)
    if not shuffle:
        assert sum(drawn, []) == [place % samples for place in range(len(drawn) * batch)]
        return
    per_epoch = samples // batch
    epochs = [sum(drawn[epoch * per_epoch : (epoch + 1) * per_epoch], []) for epoch in range(3)]
    assert all(len(set(epoch)) == per_epoch * batch for epoch in epochs)
    if samples > 8:
        assert epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("samples", "batch"), [(8, 8), (9, 8), (23, 8), (40, 8)])
def test_substitutes_reach_every_sample_and_rows_share_none(samples, batch, shuffle):
    order = Order(samples, batch, 5, shuffle)
    for step in range(2 * (samples // batch)):
        rows = [list(order.candidates(step, row)) for row in range(batch)]
        assert sorted(sum(rows, [])) == list(range(samples)) == sorted(order.all(step))
        assert list(order.all(step))[:batch] == [row[0] for row in rows]


def test_every_place_use_and_seed_has_numbers_of_its_own():
    places = [(seed, step, row, use) for seed in (0, 1, -1, 2**63, 2**64 - 2) for step in (0, 1) for row in (0, 1)
              for use in range(3)]  # fmt: skip
    drawn = {place: Order(9, 2, place[0], False).random(*place[1:]).random() for place in places}
    assert len(set(drawn.values())) == len(places)
    assert drawn[0, 0, 1, 2] == Order(9, 1, 0, False).random(1, 0, 2).random()  # the place in the run alone counts


def test_too_few_samples(tmp_path, processor):
    with pytest.raises(ConfigError, match=r"batch_size.*\(5\), found 8"):
        opened(configured([table(tmp_path, 5)]), processor)
    with pytest.raises(ConfigError, match=r"multiple of the number of processes \(3\), found 8"):
        opened(configured([tmp_path / "train.jsonl"]), processor, 0, 3)
    with pytest.raises(ConfigError, match="image_size"):
        other = CLIPProcessor(CLIPImageProcessor(size=32, crop_size=32), processor.tokenizer)
        opened(configured([tmp_path / "train.jsonl"], batch_size=4), other)
    with pytest.raises(ConfigError, match="patch_dropout"):
        open_pipeline(all_of_it(configured([tmp_path / "train.jsonl"], batch_size=4)), processor, Process(0, 1))


# -- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_same_bytes_on_1_2_4_and_8_processes(tmp_path, processor):
    several = [
        (f"{number}.{end}", data)
        for number in range(40)
        for end, data in (
            ("front.png", picture(number)),
            ("back.png", picture(100 + number)),
            ("json", json.dumps({"captions": [f"{number} {word}" for word in "abcdefgh"]}).encode()),
        )
    ]
    shards = [write_tar(tmp_path / "b.tar", several), shard(tmp_path / "a.tar", 12, s5_png=b"broken", s9_txt=b"")]
    config = all_of_it(configured(shards, batch_size=16))
    want = steps(config, processor, 6)
    assert len(set(want)) == 6 and steps(config, processor, 6) == want
    for count in (2, 4, 8):
        assert steps(config, processor, 6, count) == want
    config.seed += 1
    assert not set(steps(config, processor, 6)) & set(want)


def test_chunks_and_threads_change_nothing(tmp_path, processor, monkeypatch):
    config = all_of_it(configured([table(tmp_path, 50)], batch_size=40))
    want = steps(config, processor, 3)
    for name, value in (("CHUNK", 7), ("CHUNK", 1000), ("MOST_THREADS", 1)):
        monkeypatch.setattr(f"triclip.data.pipeline.{name}", value)
        assert steps(config, processor, 3) == want


def test_a_run_goes_on_to_the_bit_on_another_number_of_processes(tmp_path, processor):
    config = all_of_it(configured([table(tmp_path, 21)]))  # two whole batches an epoch: resumed within and between
    want = steps(config, processor, 7)
    for before in (0, 1, 4, 5):
        with opened(config, processor, 0, 2) as one, opened(config, processor, 1, 2) as other:
            for _ in range(before):
                next(one), next(other)
            state = json.loads(json.dumps(one.get_state()))
            assert state == other.get_state()
        with opened(config, processor) as pipeline:
            next(pipeline)  # wherever it was
            pipeline.set_state(state)
            assert pipeline.get_state() == state
            assert [digest(next(pipeline)) for _ in range(7 - before)] == want[before:]


def test_a_state_of_other_data_is_refused(tmp_path, processor):
    config = configured([table(tmp_path, 21)])
    with opened(config, processor) as pipeline:
        state = pipeline.get_state()
        for key, value in (("samples", 20), ("batch_size", 4), ("seed", 1), ("shuffle", False)):
            with pytest.raises(ConfigError, match=f"{key} = {value}"):
                pipeline.set_state({**state, key: value})
        assert next(pipeline)["input_ids"].shape == (8, LENGTH)


def test_captions_and_pictures_are_drawn_anew_every_epoch(processor):
    pictures = [picture(number) for number in range(4)]
    captions = [[f"{number} {n}" for n in range(50)] for number in range(4)]

    class Several(Listed):
        def __getitem__(self, number):
            return Sample("x", pictures, captions[number])

    with opened(configured(batch_size=4, plain=True), processor, source=Several(pictures, captions)) as pipeline:
        batches = [next(pipeline) for _ in range(12)]
    assert len({tuple(row) for batch in batches for row in batch["input_ids"].tolist()}) > 30
    assert len({row.tobytes() for batch in batches for row in batch["pixel_values"]}) == 4


# -- broken samples ---------------------------------------------------------------------------------------------------


def test_broken_samples_are_named_once_and_replaced_alike_everywhere(tmp_path, processor, caplog):
    cut = picture(6)[:200]
    replaced = {"s2_png": b"", "s6_png": cut, "s7_png": b"GIF89a", "s8_png": bomb(), "s3_txt": b" ", "s4_txt": b"\xff"}
    config = all_of_it(configured([shard(tmp_path / "a.tar", 24, **replaced)]))
    with caplog.at_level(logging.WARNING, "triclip"), opened(config, processor) as pipeline:
        batches = [next(pipeline) for _ in range(9)]  # three epochs
        assert pipeline.skipped == 6
    for number, reason in (
        (2, "picture"),
        (6, "truncated"),
        (7, "Pillow"),
        (8, "pixels"),
        (3, "caption"),
        (4, "UTF-8"),
    ):
        lines = [record.getMessage() for record in caplog.records if f": 0000{number} " in record.getMessage()]
        assert len(lines) == 1 and reason in lines[0] and "a.tar" in lines[0]
    broken = {2, 3, 4, 6, 7, 8}
    for batch in batches:
        numbers = batch["sample"].tolist()
        assert batch["pixel_values"].shape == (8, 3, SIZE, SIZE)
        assert not set(numbers) & broken
    assert all(len(set(batch["sample"].tolist())) == 8 for batch in batches)
    want = steps(config, processor, 9)
    assert [digest(batch) for batch in batches] == want == steps(config, processor, 9, 4)


def test_a_missing_picture_is_a_broken_sample(tmp_path, processor):
    config = configured([table(tmp_path, 20)])
    (tmp_path / "pictures" / "3.png").unlink()
    (tmp_path / "pictures" / "4.png").unlink()
    (tmp_path / "pictures" / "4.png").mkdir()
    with opened(config, processor) as pipeline:
        for _ in range(4):
            next(pipeline)
        assert pipeline.skipped == 2


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("broken", [{3}, {0, 8}, {1, 9}, {2, 3, 9}])
def test_a_broken_sample_in_a_small_set_puts_no_other_twice_into_a_batch(processor, broken, shuffle):
    pictures = [None if number in broken else picture(number) for number in range(11)]
    config = all_of_it(configured(batch_size=8, shuffle=shuffle))
    with opened(config, processor, source=Listed(pictures)) as pipeline:
        batches = [next(pipeline) for _ in range(8)]
    numbers = [batch["sample"].tolist() for batch in batches]
    assert all(len(set(row)) == 8 and not set(row) & broken for row in numbers)
    halves = [opened(config, processor, index, 2, source=Listed(pictures)) for index in range(2)]
    try:
        both = [global_batch([next(half) for half in halves]) for _ in range(8)]
    finally:
        for half in halves:
            half.close()
    assert [digest(batch) for batch in both] == [digest(batch) for batch in batches]


def test_more_broken_samples_than_a_batch_can_spare_are_an_error(processor):
    for pictures, left in (([None] * 2 + [picture(n) for n in range(7)], 7), ([None] * 9 + [picture(0)], 1)):
        pipeline = opened(configured(), processor, source=Listed(pictures))
        with pipeline, pytest.raises(DataError, match=rf"data.batch_size.*usable samples \({left}\), found 8.*broken"):
            next(pipeline)


def test_nothing_but_broken_samples_is_an_error(processor, monkeypatch):
    monkeypatch.setattr("triclip.data.prepare.MOST_BROKEN", 3)
    with opened(configured(batch_size=2), processor, source=Listed([None] * 20)) as pipeline:
        for _ in range(2):
            with pytest.raises(DataError, match=r"3 broken ones in a row, the last: sample \d+: broken$"):
                next(pipeline)


def test_a_mistake_in_the_program_is_not_taken_for_a_broken_sample(processor):
    class Wrong(Listed):
        def __getitem__(self, number):
            raise ZeroDivisionError("a bug")

    with opened(configured(), processor, source=Wrong([picture(0)] * 8)) as pipeline, pytest.raises(ZeroDivisionError):
        next(pipeline)


def test_it_can_be_closed_and_go_on(tmp_path, processor):
    config = configured([table(tmp_path, 21)])
    want = steps(config, processor, 4)
    with opened(config, processor) as pipeline:
        pipeline.close()
        found = [digest(pipeline.next()), digest(next(pipeline))]
        pipeline.close()
        found += [digest(next(pipeline)), digest(next(pipeline))]
    pipeline.close()
    assert found == want


def test_the_source_may_be_given(tmp_path, processor):
    path = table(tmp_path, 9)
    want = steps(configured([path]), processor, 2)
    with opened(configured(), processor, source=open_source(path)) as pipeline:
        assert [digest(next(pipeline)) for _ in range(2)] == want
