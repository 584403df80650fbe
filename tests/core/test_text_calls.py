"""Calls of the tokenizers against v4.37.2's (tests/golden/make_text_calls.py), their batches, and their files."""

import copy
import json
import logging
import os
import pickle
import threading
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest

from clip_core import BatchEncoding, BatchFeature, CLIPTokenizer, CLIPTokenizerFast, MissingDependencyError
from clip_core.errors import CheckpointError
from clip_core.text import slow
from clip_core.text.tokenizer import openai_tokenize
from tests.golden.make_text_calls import outcome

KINDS = [CLIPTokenizer, CLIPTokenizerFast]
ROWS = json.loads((Path(__file__).parents[1] / "golden/text_calls.json").read_text("utf-8"))


@pytest.fixture(params=KINDS, ids=["slow", "fast"])
def kind(request):
    return request.param


# ---- calls ----------------------------------------------------------------------------------------------------------


def test_keywords_and_positions_are_v4_37_s(kind):
    tokenizer = kind()
    tokenizer.add_tokens(["<new>"])
    wrong = []
    for row in (row for row in ROWS if row[0] == kind.__name__):
        _, method, arguments, keywords, result, warned, logs = row
        if method == "prepare_for_model" and {"foo", "return_lengths"} & set(keywords):
            logs = True  # ignored without a word there
        found = json.loads(json.dumps(outcome(tokenizer, method, arguments, keywords)))
        if found != [result, warned, logs]:
            wrong.append((method, arguments, keywords, found))
    assert not wrong


def test_a_warning_is_given_once_and_can_be_silenced(kind, caplog):
    tokenizer = kind()
    with caplog.at_level(logging.WARNING, logger="clip_core"):
        for _ in range(2):
            tokenizer("a " * 100)
        assert len(caplog.records) == 1
        assert tokenizer.deprecation_warnings == {"sequence-length-is-longer-than-the-specified-maximum": True}
        kind(verbose=False)("a " * 100)
        assert len(caplog.records) == 1


@pytest.mark.parametrize("step", ["tokenize", "_tokenize", "bpe", "prepare_for_tokenization", "convert_tokens_to_ids"])
def test_a_subclass_s_own_step_is_taken(step):
    """Also where many texts are encoded chunk by chunk."""
    calls = []

    def own(self, *arguments, **keywords):
        calls.append(step)
        return getattr(CLIPTokenizer, step)(self, *arguments, **keywords)

    tokenizer = type("Own", (CLIPTokenizer,), {step: own})()
    calls.clear()
    assert tokenizer(["a cat", "a dog"], padding=True).data == CLIPTokenizer()(["a cat", "a dog"], padding=True).data
    assert calls


def test_bpe_and_its_cache():
    tokenizer = CLIPTokenizer()
    assert (
        tokenizer.bpe("cats") == "cats</w>" and tokenizer.bpe("a") == "a</w>" and tokenizer.bpe("catsdogsz").count(" ")
    )
    assert tokenizer.cache["cats"] == "cats</w>" and tokenizer.cache["<|endoftext|>"] == "<|endoftext|>"
    assert tokenizer.prepare_for_tokenization("a", is_split_into_words=True, more=1) == ("a", {"more": 1})


def test_the_ids_may_be_called_otherwise(kind):
    """`model_input_names` names what `pad` fills up, as in v4.37."""
    tokenizer = kind(model_input_names=["tokens", "attention_mask"])
    padded = tokenizer.pad([{"tokens": [1, 2]}, {"tokens": [3]}], padding=True)
    assert padded["tokens"] == [[1, 2], [3, tokenizer.pad_token_id]] and padded["attention_mask"] == [[1, 1], [1, 0]]


def test_old_ways_to_prepare_targets(kind):
    tokenizer = kind()
    with pytest.warns(FutureWarning, match="text_target="):
        batch = tokenizer.prepare_seq2seq_batch(["a cat"], ["a dog"], max_length=9, src_lang="en")
    assert (
        batch["labels"] == tokenizer(["a dog"])["input_ids"] and batch["input_ids"] == tokenizer(["a cat"])["input_ids"]
    )
    with pytest.warns(UserWarning, match="text_target="), tokenizer.as_target_tokenizer():
        assert tokenizer("a").input_ids


# ---- without ftfy ---------------------------------------------------------------------------------------------------


def test_without_ftfy(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    monkeypatch.setattr(slow, "_said", set())
    with pytest.raises(MissingDependencyError, match=r"pip install 'triclip\[text\]'"):
        openai_tokenize("a cat")
    with caplog.at_level(logging.WARNING, logger="clip_core"):
        CLIPTokenizer(), CLIPTokenizer(), CLIPTokenizerFast()
    assert [record.getMessage()[:40] for record in caplog.records] == ["CLIPTokenizer: ftfy is not installed: cu"]


# ---- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_kind", [BatchEncoding, BatchFeature])
def test_batches_are_user_dicts(batch_kind):
    batch = batch_kind({"a": [1], "b": [2]})
    for twin in (copy.copy(batch), batch.copy(), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch)), batch | {}):
        assert type(twin) is batch_kind and twin.data == batch.data
        twin["c"] = 3
        assert "c" not in batch and batch.a == [1]
    assert isinstance(batch, UserDict) and (batch | {"b": 5}).data == {"a": [1], "b": 5}
    batch |= {"d": 4}
    assert type(batch) is batch_kind and list(batch) == ["a", "b", "d"] and "b" in batch and batch.get("z") is None
    assert batch_kind.fromkeys(["x"]).data == {"x": None}
    with pytest.raises(AttributeError, match="it holds a, b, d"):
        batch.z  # noqa: B018


def test_a_copy_keeps_what_a_fast_tokenizer_knows():
    batch = CLIPTokenizerFast()("a cat")
    assert copy.copy(batch).tokens() == copy.deepcopy(batch).tokens() == batch.tokens()


def test_a_leading_axis_and_values_that_are_arrays():
    made = BatchEncoding({"input_ids": [1, 2]}, None, "np", True)
    assert made["input_ids"].shape == (1, 2)
    batch = BatchEncoding({"input_ids": [1, 2], "kept": np.array([0.5], np.float32)})
    assert batch.convert_to_tensors("np", prepend_batch_axis=True) is batch
    assert batch["input_ids"].shape == (1, 2) and batch["kept"].shape == (1, 1)
    flags = BatchFeature({"flags": [True, False], "bytes": [np.zeros(2, np.uint8)]}, "np")
    assert flags["flags"].dtype == bool and flags["bytes"].dtype == np.uint8
    assert BatchEncoding({"a": [1]}, n_sequences=2).n_sequences == 2


class Tensor:
    """What `to` needs of a torch tensor."""

    def __init__(self, floating):
        self.floating, self.asked = floating, None

    def is_floating_point(self):
        return self.floating

    def to(self, *arguments, **keywords):
        moved = Tensor(self.floating)
        moved.asked = (arguments, keywords)
        return moved


class dtype:  # noqa: N801 - torch's is called so
    pass


@pytest.mark.parametrize(
    ("arguments", "keywords", "whole"),
    [
        (("cuda", dtype()), {}, {"device": "cuda"}),
        ((dtype(),), {}, {}),
        (("cuda",), {"dtype": dtype()}, {"device": "cuda"}),
        (("cuda", dtype(), True), {}, {"device": "cuda", "non_blocking": True}),
        ((), {"device": "cuda", "non_blocking": True}, {"device": "cuda", "non_blocking": True}),
    ],
)
def test_only_floating_values_are_cast(arguments, keywords, whole):
    batch = BatchFeature({"ids": Tensor(False), "pixels": Tensor(True), "rest": [1]})
    assert batch.to(*arguments, **keywords) is batch
    assert batch["pixels"].asked == (arguments, keywords) and batch["rest"] == [1]
    assert batch["ids"].asked == (((), whole) if whole else None)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    CLIPTokenizerFast().save_pretrained(path)
    return path


def test_other_files_than_the_folder_s(kind, folder, tmp_path):
    tokenizer = kind.from_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (tmp_path / f"my-{name}").write_bytes((folder / name).read_bytes())
        (tmp_path / name).write_text("damaged")
    mine = {"vocab_file": tmp_path / "my-vocab.json", "merges_file": tmp_path / "my-merges.txt"}
    found = kind.from_pretrained(tmp_path, **mine, pad_token="!")
    assert found("a cat").data == tokenizer("a cat").data and found.pad_token == "!"
    found = kind.from_pretrained(tmp_path, tokenizer_file=str(tmp_path / "my-tokenizer.json"))
    assert found("a cat").data == tokenizer("a cat").data
    (tmp_path / "merges.txt").write_bytes((folder / "merges.txt").read_bytes())
    found = kind.from_pretrained(tmp_path, vocab_file=mine["vocab_file"])
    assert found("a cat").data == tokenizer("a cat").data
    with pytest.raises(FileNotFoundError, match="none.json"):
        kind.from_pretrained(tmp_path, vocab_file=tmp_path / "none.json")


@pytest.mark.parametrize("share", [0, 0.005, 0.5, 0.99])
def test_merges_that_are_cut_short_are_refused(kind, share, folder, tmp_path):
    lines = (folder / "merges.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "merges.txt").write_text("".join(lines[: int(len(lines) * share)]), "utf-8")
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"merges.txt: its \d+ merges don't belong to the vocabulary"):
        kind.from_pretrained(tmp_path)
    found = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    found["model"]["merges"] = found["model"]["merges"][: int(len(lines) * share)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(found), "utf-8")
    with pytest.raises(CheckpointError, match="merges: its"):
        kind(tokenizer_file=tmp_path / "tokenizer.json")


def test_another_vocabulary_s_merges_are_refused(kind, folder, tmp_path):
    merges = (folder / "merges.txt").read_text("utf-8").replace("e", "\u0120")
    (tmp_path / "merges.txt").write_text(merges, "utf-8")
    with pytest.raises(CheckpointError, match="merges"):
        kind(folder / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.json", "tokenizer.json", "special_tokens_map.json"])
def test_a_pipe_or_folder_in_the_place_of_a_file_is_named(kind, name, folder, tmp_path):
    for found in ("a pipe", "a folder"):
        target = tmp_path / found[2:]
        kind.from_pretrained(folder).save_pretrained(target, **({"legacy_format": None} if kind.is_fast else {}))
        (target / name).unlink(missing_ok=True)
        if name == "special_tokens_map.json":  # read where the config says nothing of added tokens
            (target / "tokenizer_config.json").write_text("{}")
        os.mkfifo(target / name) if found == "a pipe" else (target / name).mkdir()
        if name == "tokenizer.json" and not kind.is_fast:
            os.remove(target / "merges.txt")
        with pytest.raises(CheckpointError, match=f"{name}: wanted a file, found {found}"):
            kind.from_pretrained(target)


def test_another_class_s_tokenizer_is_warned_of(kind, folder, tmp_path, caplog):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "BertTokenizer"}))
    with caplog.at_level(logging.WARNING, logger="clip_core"):
        kind.from_pretrained(tmp_path)
    assert "names BertTokenizer" in caplog.text


def test_saving_leaves_the_process_s_umask_alone(tmp_path):
    """Files that other threads make meanwhile keep their mode; so do those that are saved."""
    before = os.umask(0o077)
    try:
        done, modes = threading.Event(), set()

        def write():
            while not done.is_set():
                path = tmp_path / "mine"
                path.touch()
                modes.add(path.stat().st_mode & 0o777)
                path.unlink()

        thread = threading.Thread(target=write)
        thread.start()
        tokenizer = CLIPTokenizer()
        for _ in range(3):
            tokenizer.save_pretrained(tmp_path / "saved")
        done.set()
        thread.join()
    finally:
        os.umask(before)
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()} == {0o600}


# ---- the tokenizers library -----------------------------------------------------------------------------------------


def test_training_on_other_texts():
    texts = ["the quick brown fox", "a dog's café, 123!", "the cat sat on the mat"] * 4
    new = CLIPTokenizerFast().train_new_from_iterator(
        [texts], 300, new_special_tokens=["<new>"], special_tokens_map={"<|endoftext|>": "<end>"}, show_progress=False
    )
    assert new.eos_token == new.pad_token == "<end>" and new.additional_special_tokens == ["<new>"]
    assert new.model_max_length == 77 and len(new) < 200
    ids = new("the cat <new> sat")["input_ids"]
    assert ids[0] == new.bos_token_id == 0 and ids[-1] == new.eos_token_id == 1 and 2 in ids
    assert new.decode(ids, skip_special_tokens=True) == "the cat sat"


def test_the_backend_gives_the_same_ids():
    tokenizer = CLIPTokenizerFast()
    text = "A café's 12 cats"
    assert tokenizer.backend_tokenizer.encode(text).ids == tokenizer(text)["input_ids"]
    tokenizer.add_tokens(["<x>"])
    assert tokenizer.backend_tokenizer.encode("<x>").ids == tokenizer("<x>")["input_ids"]
    tokenizer.set_truncation_and_padding("max_length", "longest_first", 6, 0, None)
    assert len(tokenizer.backend_tokenizer.encode(text).ids) == 6
    assert CLIPTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)(text).data == tokenizer(text).data


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    for use in (lambda t: t.backend_tokenizer, lambda t: t.decoder, lambda t: t.train_new_from_iterator([], 9)):
        with pytest.raises(MissingDependencyError, match=r"pip install 'triclip\[tokenizers\]'"):
            use(CLIPTokenizerFast())
