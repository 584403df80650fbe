"""Evaluation of data against metrics computed one by one, in one process and in several, with any batches."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clip_core import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast, ConfigError
from clip_core.errors import DataError
from clip_core.hub import MODELS
from triclip import metrics
from triclip.data import open_evaluation
from triclip.train.config import EvaluateSection, TrainConfig
from triclip.train.engine import Process
from triclip.train.evaluate import Evaluator, Stopped, _HeadMaker, evaluate_retrieval
from triclip.train.labels import check_labels, default_templates, numbered, read_labels

CAPTIONS = ["red", "RED", "green", "blue", "a blue one", "white", "black", "yellow", "pink"]
MODEL = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=10), prompt_templates=None)


@pytest.fixture(scope="module")
def processor():
    size = {"height": 8, "width": 8}
    images = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=size)
    return CLIPProcessor(images, CLIPTokenizerFast.from_pretrained(MODELS / "emoji"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty-three pictures with two captions each, many of them shared, one picture broken; labels."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    rows = []
    for i in range(23):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(folder / f"{i}.png")
        first, second = rng.choice(CAPTIONS, 2, replace=False)
        rows.append(f'{{"image": "{i}.png", "caption": ["{first}", "{second}"], "label": "class {i % 4}"}}')
    (folder / "11.png").write_text("no picture")
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "pairs.jsonl"


class Encoder:
    """Fixed random maps; `gather` among threads that each play a process."""

    def __init__(self, group=None, index=0):
        rng = np.random.default_rng(9)
        self.pixels, self.tokens = rng.normal(size=(192, 6)), rng.normal(size=(2048, 6))
        self.group, self.index, self.calls = group, index, 0

    def image_features(self, pixel_values):
        self.calls += 1
        return unit(pixel_values.reshape(len(pixel_values), 192) @ self.pixels)

    def text_features(self, input_ids):
        self.calls += 1
        assert input_ids.dtype == np.int32 and input_ids.shape[1] == 10
        return unit(self.tokens[input_ids].mean(1) if len(input_ids) else np.zeros((0, 6)))

    def gather(self, rows):
        assert rows.ndim == 2 and rows.dtype in (np.float32, np.int32)
        if self.group is None:
            return rows
        self.group.rows[self.index] = rows
        self.group.barrier.wait()
        out = np.concatenate(self.group.rows)
        self.group.barrier.wait()
        return out


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def in_processes(count, work):
    """What `work(encoder, process)` returns in each of `count` threads, which gather among themselves."""
    group = SimpleNamespace(rows=[None] * count, barrier=threading.Barrier(count, timeout=60))
    encoders = [Encoder(group, index) for index in range(count)]
    results = [None] * count

    def play(index):
        try:
            results[index] = work(encoders[index], Process(index, count))
        except BaseException as error:
            results[index] = error
            group.barrier.abort()

    threads = [threading.Thread(target=play, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results if isinstance(result, BaseException)]
    # Who is still at the barrier when another has ended hears of that alone: what ended the other says why.
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    return results, encoders


def settings(data, **values):
    return TrainConfig(evaluate=EvaluateSection(**{"retrieval": [str(data)], "zero_shot": [str(data)], **values}))


def expected(data, processor):
    """Recall at 1 by a loop over the whole matrix, and zero-shot accuracy by a loop over pictures."""
    batch = next(iter(open_evaluation([str(data)], processor, batch_size=50, length=10)))
    encoder = Encoder()
    images, texts = encoder.image_features(batch.pixel_values), encoder.text_features(batch.input_ids)
    scores = images @ texts.T
    words = [caption.lower() for caption in batch.captions]  # CLIP's tokenizer sees no capitals
    samples = batch.image_sample.tolist()
    of_picture = [{w for w, s in zip(words, batch.text_sample, strict=True) if s == sample} for sample in samples]
    by_image = []
    for i, own in enumerate(of_picture):
        best = max(score for score, word in zip(scores[i], words, strict=True) if word in own)
        others = [score for score, word in zip(scores[i], words, strict=True) if word not in own]
        by_image.append(1 + sum(score >= best for score in others))
    by_text = []
    for m, word in enumerate(words):
        best = max(scores[i, m] for i, own in enumerate(of_picture) if word in own)
        by_text.append(1 + sum(scores[i, m] >= best for i, own in enumerate(of_picture) if word not in own))
    return by_image, by_text, images, samples


def recall(ranks, depth):
    return pytest.approx(np.mean([rank <= depth for rank in ranks]))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_figures_are_those_of_a_loop(data, processor, batch_size):
    found = Evaluator(settings(data, batch_size=batch_size, templates=["a {} thing"]), MODEL, processor).run(Encoder())
    by_image, by_text, images, samples = expected(data, processor)
    part = found["retrieval"]
    assert part["images"] == 22 and part["texts"] == 44 and part["skipped"] == 1
    for depth in (1, 5, 10):
        assert part["image_to_text"][f"R@{depth}"] == recall(by_image, depth)
        assert part["text_to_image"][f"R@{depth}"] == recall(by_text, depth)
    assert part["text_to_image"]["MRR"] == pytest.approx(np.mean([1 / rank for rank in by_text]))
    ids = processor.tokenizer([f"a class {c} thing" for c in range(4)], padding="max_length", max_length=10)
    head = Encoder().text_features(np.array(ids["input_ids"], np.int32))
    right = [(image @ head.T).argmax() == sample % 4 for image, sample in zip(images, samples, strict=True)]
    assert found["zero_shot"]["top1"] == pytest.approx(np.mean(right)) and found["zero_shot"]["top5"] == 1
    assert found["zero_shot"]["classes"] == 4 and found["zero_shot"]["images"] == 22


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_share_the_work_and_agree(data, processor, count):
    config = settings(data, batch_size=8, templates=["a {} thing", "{}"])
    alone = Evaluator(config, MODEL, processor).run(Encoder())
    results, encoders = in_processes(
        count, lambda encoder, process: Evaluator(config, MODEL, processor, process).run(encoder)
    )
    assert all(result == alone for result in results)
    assert len({encoder.calls for encoder in encoders}) == 1  # every process computes equally often


def test_a_class_is_the_unit_mean_of_its_sentences(processor):
    head = _HeadMaker(Encoder(), processor, 10, ["{}", "two {} things"], batch_size=3)(["red", "blue"])
    for column, name in zip(head.T, ["red", "blue"], strict=True):
        ids = processor.tokenizer([name, f"two {name} things"], padding="max_length", max_length=10)
        mean = Encoder().text_features(np.array(ids["input_ids"], np.int32)).mean(0)
        np.testing.assert_allclose(column, mean / np.linalg.norm(mean), atol=1e-6)
        assert np.linalg.norm(mean) < 0.99


def test_more_processes_than_samples(data, processor):
    few = data.with_name("few.jsonl")
    few.write_text("".join(line + "\n" for line in data.read_text().splitlines()[:2]))
    config = settings(few, templates=["{}"])
    results, _ = in_processes(4, lambda encoder, process: Evaluator(config, MODEL, processor, process).run(encoder))
    assert results[0] == results[3] and results[0]["retrieval"]["images"] == 2


def test_what_one_process_finds_wrong_ends_all(data, processor):
    rows = data.read_text().splitlines()
    wrong = data.with_name("wrong.jsonl")
    wrong.write_text("\n".join(rows[:9]) + "\n" + rows[9].replace("class 1", "cow") + "\n")
    (data.parent / "four.txt").write_text("".join(f"class {c}\n" for c in range(4)))
    config = settings(wrong, retrieval=[], zero_shot=[str(wrong)], labels=str(data.parent / "four.txt"))
    seen = []

    def work(encoder, process):
        try:
            Evaluator(config, MODEL, processor, process).run(encoder)
        except DataError as error:
            seen.append(str(error))

    in_processes(2, work)
    assert len(seen) == 2 and any("'cow'" in message for message in seen)
    one = data.with_name("one.jsonl")
    one.write_text('{"image": "0.png", "label": 0}\n')
    with pytest.raises(ConfigError, match="labels: wanted a file with the names"):
        in_processes(2, lambda encoder, process: Evaluator(
            settings(one, retrieval=[], zero_shot=[str(one)]), MODEL, processor, process).run(encoder))  # fmt: skip


def test_it_stops_when_it_is_asked_to(data, processor):
    with pytest.raises(Stopped):
        Evaluator(settings(data, batch_size=4), MODEL, processor).run(Encoder(), lambda: True)


def test_nothing_to_evaluate(processor):
    assert not Evaluator(TrainConfig(), MODEL, processor)


def test_numbers_and_a_file_of_labels(data, processor, tmp_path):
    numbers = data.with_name("numbers.jsonl")
    numbers.write_text("".join(f'{{"image": "{i}.png", "label": {i % 3}}}\n' for i in range(6)))
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    section = {"retrieval": [], "zero_shot": [str(numbers)]}
    labelled = Evaluator(settings(data, labels=str(tmp_path / "labels.txt"), **section), MODEL, processor)
    assert labelled.run(Encoder())["zero_shot"]["classes"] == 3
    with pytest.raises(ConfigError, match="labels: wanted a file with the names"):
        Evaluator(settings(data, **section), MODEL, processor).run(Encoder())
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    short = Evaluator(settings(data, labels=str(tmp_path / "labels.txt"), **section), MODEL, processor)
    with pytest.raises(DataError, match="labels: wanted numbers from 0 to 1, one per label, found 2 in the data"):
        short.run(Encoder())


@pytest.mark.parametrize(
    "text, message",
    [
        ("cat\n\ndog\n", "line 2: wanted a label, found ''"),
        ("cat\n  \n", "line 2: wanted a label"),
        ("", "line 1: wanted a label"),
    ],
)
def test_label_files_that_cannot_be_meant(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"labels.txt: {message}"):
        read_labels(path)


def test_a_name_may_stand_for_several_classes_where_the_data_hold_numbers():
    names = ["missile", "cat", "missile"]
    assert numbered([2, 0, 1], names).tolist() == [2, 0, 1]
    assert numbered([2, 0, 1], names, names).tolist() == [2, 0, 1]
    assert numbered([2, 0, 1], names, ["n1", "n2", "n3"]).tolist() == [2, 0, 1]
    assert numbered(["cat"], names).tolist() == [1]
    for labels, own in ((["missile"], None), ([0], ["cat", "missile"])):
        with pytest.raises(DataError, match="'missile' stands in lines 1 and 3: wanted numbers in the data"):
            numbered(labels, names, own)


def test_imagenet_is_built_in():
    names = read_labels("imagenet")
    assert len(names) == 1000 and names[0] == "tench" and names[-1] == "toilet paper"
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["missile", "sunglasses"]
    assert len(default_templates("imagenet")) == 80 and default_templates("labels.txt") is None
    assert numbered([657, 744], names).tolist() == [657, 744] and names[657] == names[744] == "missile"


def test_classes_of_one_name_share_their_credit(data, processor):
    """As open_clip's figures have them: one of the two is right, and neither ranks behind any third."""
    head = _HeadMaker(Encoder(), processor, 10, ["a {}."], 2)(["cat", "dog", "cat"])
    assert np.array_equal(head[:, 0], head[:, 2]) and not np.array_equal(head[:, 0], head[:, 1])
    pictures = np.repeat(head.T[:1], 2, axis=0)
    assert metrics.class_ranks(pictures, head, [0, 2]).tolist() == [1, 2]
    assert metrics.predicted_classes(pictures, head, [0, 2]).tolist() == [0, 0]


def test_label_files(tmp_path):
    (tmp_path / "l.txt").write_bytes("\ufeffcat\r\n hot dog\r\né".encode())
    assert read_labels(tmp_path / "l.txt") == ["cat", "hot dog", "é"]
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="l.txt: wanted UTF-8"):
        read_labels(tmp_path / "l.txt")
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="names: wanted labels, found none"):
        check_labels([], "names")
    with pytest.raises(DataError, match="wanted one of the 2 labels, found 'cow' in the data"):
        numbered(["cat", "cow"], ["cat", "dog"])


def test_numbers_go_by_the_data_s_own_names_where_those_are_known():
    assert numbered([0, 1, 1, 2], ["red", "green", "blue"], ["blue", "green", "red"]).tolist() == [2, 1, 1, 0]
    assert numbered([0, 1], ["red", "green", "blue"], ["blue", "green"]).tolist() == [2, 1]
    assert numbered([0, 1], ["tench", "goldfish"], ["n01440764", "n01443537"]).tolist() == [0, 1]
    for names in (["red", "n01443537"], ["n1", "n2", "n3"]):
        with pytest.raises(
            DataError, match=f"wanted one of the 2 labels, found '{names[-1] if len(names) == 2 else 'n1'}'"
        ):
            numbered([0], ["red", "green"], names)


def test_captions_that_cannot_be_found(data, processor):
    broken = data.with_name("broken.jsonl")
    broken.write_text('{"image": "11.png", "caption": "x"}\n')
    with pytest.raises(DataError, match="retrieval: wanted pictures with captions, found none in 1 samples"):
        evaluate_retrieval(Encoder(), open_evaluation([str(broken)], processor, length=10))
