"""Properties of the tokenizers on any input: consistency of their parts, preserved state, named errors."""

import copy
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core.errors import InputError
from clip_core.text.bpe import BytePairEncoder, to_alphabet
from clip_core.text.files import bundled_data
from clip_core.text.tokenizer import AddedToken, CLIPTokenizer, CLIPTokenizerFast, openai_tokenize

KINDS = [CLIPTokenizer, CLIPTokenizerFast]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.lists(
    st.sampled_from(
        ["a", "Cat", "don't", "dog's", "<|endoftext|>", "<|", " ", "\t", "\x1c", "3.5", "caf\u00e9", "!", "\u03a3"]
    )
).map("".join)


@pytest.fixture(scope="module", params=KINDS, ids=["slow", "fast"])
def shared(request):
    """A tokenizer that the test doesn't change."""
    return request.param()


@pytest.fixture(params=KINDS, ids=["slow", "fast"])
def tokenizer(request):
    return request.param()


# ---- the parts agree ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=6),
    padding=st.sampled_from([True, "max_length", False]),
    truncation=st.booleans(),
    max_length=st.sampled_from([None, 2, 3, 8]),
    special=st.booleans(),
    multiple=st.sampled_from([None, 1, 2]),
    side=st.sampled_from(["right", "left"]),
    mask=st.booleans(),
)
def test_short_way_equals_long_way(shared, texts, padding, truncation, max_length, special, multiple, side, mask):
    """Asking for one more value takes the long way."""
    if multiple == 2:  # a limit that is no multiple is refused
        max_length = {None: 78, 3: 4}.get(max_length, max_length)
    given_options = {
        "padding": padding,
        "truncation": truncation,
        "max_length": max_length,
        "add_special_tokens": special,
        "pad_to_multiple_of": multiple,
        "padding_side": side,
        "return_attention_mask": mask,
        "verbose": False,
    }
    short = shared(texts, **given_options)
    long = shared(texts, return_special_tokens_mask=True, **given_options)
    del long["special_tokens_mask"]
    assert short.data == long.data
    single = shared(texts[0], return_special_tokens_mask=True, **given_options)
    del single["special_tokens_mask"]
    assert shared(texts[0], **given_options).data == single.data
    equally_long = len({len(row) for row in short["input_ids"]}) == 1
    if equally_long and short["input_ids"][0]:
        arrays = shared(texts, return_tensors="np", **given_options)
        assert {name: array.tolist() for name, array in arrays.items()} == short.data
        assert all(array.dtype == np.int64 for array in arrays.values())


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_single_batch_tokens_and_ids_agree(shared, text):
    ids = shared(text)["input_ids"]
    assert shared([text])["input_ids"] == [ids]
    assert shared.encode(text) == ids
    assert shared.encode_plus(text).data == shared(text).data
    assert shared.batch_encode_plus([text, text])["input_ids"] == [ids, ids]
    assert shared.convert_tokens_to_ids(shared.tokenize(text)) == ids[1:-1]
    assert shared.build_inputs_with_special_tokens(ids[1:-1]) == ids
    assert shared.prepare_for_model(ids[1:-1]).data == shared(text).data
    assert shared.batch_decode([ids]) == [shared.decode(np.array(ids))] == [shared.decode(ids)]


@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_fast_offsets_cover_what_the_tokens_are_from(text):
    tokenizer = _fast()
    batch = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    for i, (start, end) in enumerate(batch["offset_mapping"]):
        assert 0 <= start < end <= len(text)
        assert batch.token_to_chars(i) == (start, end)
        covering = batch.char_to_token(start)  # of a character of several tokens, the first
        assert covering is not None and covering <= i
    words = batch.word_ids()
    assert words == sorted(words)
    assert batch.tokens() == tokenizer.tokenize(text)


def _fast(made=[]):  # noqa: B006, one for all examples
    made[:] = made or [CLIPTokenizerFast()]
    return made[0]


def test_words_of_a_bundled_vocabulary_are_what_the_merges_give():
    """`whole_words`: every token that ends a word comes out of the merges of its own characters."""
    data = bundled_data()
    engine = BytePairEncoder(data.vocab, data.merges)
    ends = [token for token in data.vocab if token.endswith("</w>") and len(token) > 4]
    assert len(ends) > 30_000
    assert not [token for token in ends if engine.symbols(token[:-4]) != [token]][:5]


def naive_merges(word, merges):
    """Byte-pair encoding as its definition says: take the merges in order, each from the left wherever it fits."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    for merge in merges:
        left, right = merge.split(" ")
        i = 0
        while i < len(symbols) - 1:
            if symbols[i] == left and symbols[i + 1] == right:
                symbols[i : i + 2] = [left + right]
            i += 1
    return symbols


@settings(max_examples=200, deadline=None)
@given(data=st.data(), word=st.text("ab", min_size=1, max_size=24))
def test_merging_equals_its_definition(data, word):
    symbols = ["a", "b", "a</w>", "b</w>"]
    merges = []
    for _ in range(data.draw(st.integers(0, 12))):
        left = data.draw(st.sampled_from([s for s in symbols if not s.endswith("</w>")]))
        right = data.draw(st.sampled_from(symbols))
        if left + right not in symbols:  # as in training: every merge makes a token of its own
            merges.append(f"{left} {right}")
            symbols.append(left + right)
    engine = BytePairEncoder({s: i for i, s in enumerate(symbols)}, merges)
    split = [*word[:-1], word[-1] + "</w>"]
    assert engine.symbols(word) == naive_merges(word, merges)
    assert engine._merge_long(list(split)) == engine._merge(list(split))


def test_very_long_words_end():
    ids = _fast()("ab" * 50_000)["input_ids"]
    assert _fast().decode(ids, skip_special_tokens=True) == "ab" * 50_000
    assert len(_fast()("!" * 100_000)["input_ids"]) > 2


@given(text=st.text(max_size=20).filter(lambda t: not any(0xD800 <= ord(c) <= 0xDFFF for c in t)))
def test_byte_alphabet_is_one_to_one(text):
    tokenizer = _fast()
    assert tokenizer.convert_tokens_to_string([to_alphabet(text)]) == text


# ---- what batches answer --------------------------------------------------------------------------------------------


def test_questions_by_token():
    batch = CLIPTokenizerFast()(["A photo of an otter", "It's"], ["cats", "two"], padding=True)
    assert batch.tokens(1)[:4] == ["<|startoftext|>", "it</w>", "'s</w>", "<|endoftext|>"]
    assert batch.word_ids(1)[:4] == [None, 0, 1, None]
    assert batch.sequence_ids(0)[:3] == [None, 0, 0] and 1 in batch.sequence_ids(0)
    assert batch.n_sequences == 2 and batch.is_fast
    assert batch.token_to_word(0, 2) == 1 and batch.token_to_sequence(0, 1) == 0
    assert batch.word_to_tokens(0, 0) == (1, 2) and batch.word_to_chars(0, 1) == (2, 7)
    assert batch.char_to_token(0, 2) == 2 and batch.char_to_word(0, 2) == 1
    assert batch.char_to_token(0, 1) is None and batch.token_to_chars(0, 0) is None
    assert batch[0].ids == batch["input_ids"][0]
    again = pickle.loads(pickle.dumps(batch))
    assert again.data == batch.data and not again.is_fast


def test_slow_batches_have_no_answers_by_token():
    batch = CLIPTokenizer()(["a", "b c"])
    assert batch.encodings is None and batch.n_sequences is None
    with pytest.raises(ValueError, match="fast tokenizer"):
        batch.tokens()
    assert batch[:1]["input_ids"] == batch["input_ids"][:1]
    with pytest.raises(KeyError):
        batch[0]


def test_targets_become_labels(tokenizer):
    batch = tokenizer("a", text_target="b c")
    assert batch["labels"] == tokenizer("b c")["input_ids"]
    assert tokenizer(text_target="b c").data == tokenizer("b c").data


@pytest.mark.parametrize("name", ["pt", "tf", "jax"])
def test_frameworks(tokenizer, name):
    module = {"pt": "torch", "tf": "tensorflow", "jax": "jax"}[name]
    pytest.importorskip(module, reason=f"return_tensors={name!r} needs {module}")
    batch = tokenizer(["a photo", "cats"], padding=True, return_tensors=name)
    assert type(batch["input_ids"]).__module__.split(".")[0].startswith(module[:3])
    wanted = "int64" if name == "pt" else "int32"
    assert wanted in str(batch["input_ids"].dtype)
    assert np.asarray(batch["input_ids"]).tolist() == tokenizer(["a photo", "cats"], padding=True)["input_ids"]
    assert tokenizer.batch_decode(batch["input_ids"])[1].startswith("<|startoftext|>cats")
    padded = tokenizer.pad([{"input_ids": batch["input_ids"][0]}, {"input_ids": batch["input_ids"][1]}])
    assert type(padded["input_ids"]) is type(batch["input_ids"])


def test_no_framework_is_imported():
    code = (
        "import sys; from clip_core.text.tokenizer import CLIPTokenizer, CLIPTokenizerFast;"
        "[k()(['a photo', 'x'], padding=True, return_tensors='np') for k in (CLIPTokenizer, CLIPTokenizerFast)];"
        "print([m for m in ('torch', 'tensorflow', 'jax', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_apart(tokenizer, copied):
    tokenizer.add_tokens(["<cat-toy>"])
    tokenizer.model_max_length = 20
    text = "a <cat-toy> \u00e9 <|ENDOFTEXT|>"
    twin = copied(tokenizer)
    assert twin(text).data == tokenizer(text).data and len(twin) == len(tokenizer)
    assert twin.special_tokens_map == tokenizer.special_tokens_map and twin.model_max_length == 20
    twin.add_tokens(["<dog>"])
    twin.pad_token = "!"
    assert len(twin) == len(tokenizer) + 1 and tokenizer.pad_token_id == 49407
    assert copy.copy(tokenizer)(text).data == tokenizer(text).data


def test_added_tokens_show_at_once(tokenizer):
    """What was cached before the token was added must not stay."""
    before = tokenizer(["a zorgblat"])["input_ids"][0]
    assert tokenizer.add_tokens("zorgblat") == 1
    after = tokenizer(["a zorgblat"])["input_ids"][0]
    assert len(before) > len(after) and 49408 in after
    assert tokenizer.add_tokens(["zorgblat"]) == 0
    assert (
        tokenizer.get_added_vocab()["zorgblat"] == 49408 and tokenizer.vocab_size == 49408 and len(tokenizer) == 49409
    )


def test_attributes(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (49406, 49407, 49407)
    assert tokenizer.model_max_length == 77 and tokenizer.max_len_single_sentence == 75
    assert tokenizer.max_len_sentences_pair == 73
    assert (
        tokenizer.all_special_ids == [49406, 49407] and tokenizer.mask_token is None and tokenizer.mask_token_id is None
    )
    tokenizer.pad_token_id = 0
    assert tokenizer.pad_token == "!" and tokenizer(["a", "b c"], padding=True)["input_ids"][0][-1] == 0
    tokenizer.pad_token = None
    with pytest.raises(InputError, match="pad_token"):
        tokenizer(["a", "b c"], padding=True)
    with pytest.raises(ValueError, match="eos_token"):
        tokenizer.eos_token = 5
    assert "vocab_size=49408" in repr(tokenizer)
    assert tokenizer.is_fast == isinstance(tokenizer, CLIPTokenizerFast)


def test_arguments_are_not_changed(tokenizer):
    token = AddedToken("<x>")
    tokenizer.add_tokens([token], special_tokens=True)
    assert not token.special
    encoded = {"input_ids": [[1, 2], [3]]}
    tokenizer.pad(encoded)
    assert encoded == {"input_ids": [[1, 2], [3]]}
    ids = [1, 2, 3]
    tokenizer.prepare_for_model(ids, truncation=True, max_length=3)
    assert ids == [1, 2, 3]


def test_another_librarys_added_token(tokenizer):
    class Foreign:
        content, single_word, lstrip, rstrip, normalized, special = "<x>", False, True, False, False, False

    assert tokenizer.add_tokens([Foreign()]) == 1
    assert tokenizer.added_tokens_decoder[49408].lstrip
    with pytest.raises(TypeError, match="wanted a string or an AddedToken"):
        tokenizer.add_tokens([5])


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_no_start_token():
    with pytest.raises(InputError, match="bos_token: not set"):
        CLIPTokenizer(bos_token=None)(["a"])
    with pytest.raises(InputError, match="bos_token: not set"):
        CLIPTokenizerFast(bos_token=None)
    assert CLIPTokenizer(bos_token=None)(["a"], add_special_tokens=False)["input_ids"] == [[320]]


def test_too_long_warns_once(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer("a " * 100)
        tokenizer(["a " * 100])
        tokenizer("a " * 100, truncation=True)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "Token indices sequence length is longer than the specified maximum sequence length for this model (102 > 77)"
    ]


def test_ignored_max_length_warns(tokenizer):
    with pytest.warns(UserWarning, match="max_length"):
        tokenizer(["a"], padding=True, max_length=5)


def test_strides_that_never_end(shared):
    """A window has to be longer than what it shares with the next."""
    options = {"truncation": True, "max_length": 5, "stride": 3, "return_overflowing_tokens": True}
    if not shared.is_fast:  # it has no windows: what was cut off, and 3 tokens before it
        assert shared("a b c d e", **options)["overflowing_tokens"] == shared("a b c d e")["input_ids"][1:-1]
        return
    with pytest.raises(InputError, match="stride: wanted less than the 3 tokens"):
        shared("a b c d e", **options)
    with pytest.raises(InputError, match="stride: wanted at most the 3 tokens"):
        shared("a b c d e", **{**options, "stride": 4})


def test_no_limit_means_no_padding_or_truncation(tokenizer, caplog):
    tokenizer.model_max_length = int(1e30)
    with caplog.at_level(logging.WARNING):
        assert len(tokenizer("a " * 100, padding="max_length", truncation=True)["input_ids"]) == 102
    assert len(caplog.records) == 2


# ---- OpenAI's own ---------------------------------------------------------------------------------------------------


def test_openai_lengths():
    ids = openai_tokenize("a photo of a cat", context_length=9)
    assert ids.tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407, 0, 0]]
    with pytest.raises(InputError, match="102 tokens for context_length 77"):
        openai_tokenize(["a " * 100])
    for cut in (openai_tokenize("a " * 100, truncate=True), openai_tokenize("a " * 100, profile="open_clip")):
        assert cut.shape == (1, 77) and cut[0, -1] == 49407
    with pytest.raises(InputError, match="profile"):
        openai_tokenize("a", profile="hf")
    with pytest.raises(InputError, match="context_length"):
        openai_tokenize("a", context_length=1)
    with pytest.raises(TypeError, match="texts"):
        openai_tokenize([5])


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t(5), "text: wanted a string or a list of strings, found int"),
        (lambda t: t(None), "text: wanted `text` or `text_target`"),
        (lambda t: t([]), "text: wanted at least one text"),
        (lambda t: t([None]), "text: .*None"),
        (lambda t: t(["a", 5]), "text: wanted a string"),
        (lambda t: t([[1.5]]), "text: wanted lists of strings"),
        (lambda t: t({"a": 1}), "text: .*dict"),
        (lambda t: t("a", 5), "text_pair: .*int"),
        (lambda t: t(["a"], "b"), "text_pair: .*a string"),
        (lambda t: t(["a"], ["b", "c"]), r"text_pair: wanted as many as text \(1\), found 2"),
        (lambda t: t([("a", "b", "c")]), "text: .*3 items"),
        (lambda t: t("a", padding="foo"), "padding: .*'foo'"),
        (lambda t: t("a", truncation="foo"), "truncation: .*'foo'"),
        (lambda t: t("a", max_length="5"), "max_length: wanted an integer, found str"),
        (lambda t: t("a", max_length=-1), "max_length: wanted 0 or more"),
        (lambda t: t("a", truncation=True, max_length=5, padding=True, pad_to_multiple_of=4), "max_length: .*multiple"),
        (lambda t: t("a", return_tensors="xx"), "return_tensors: .*'xx'"),
        (lambda t: t("a", padding_side="up"), "padding_side: .*'up'"),
        (lambda t: t.decode("ab"), "ids: wanted integers|token_ids"),
        (lambda t: t.decode([1.5]), "ids: wanted integers"),
        (lambda t: t.decode([-1]), "token_ids: wanted"),
        (lambda t: t.pad({"x": [1]}), "encoded_inputs: .*'input_ids'"),
        (lambda t: t.pad({"input_ids": [[1], [2]], "x": [1]}), "encoded_inputs: .*as many"),
        (lambda t: t.batch_encode_plus("a"), "batch_text_or_text_pairs: .*str"),
        (lambda t: t.add_special_tokens({"foo_token": "x"}), "foo_token: no special-token attribute"),
        (lambda t: type(t)(padding_side="up"), "padding_side: .*'up'"),
        (lambda t: type(t)(vocab_file="x"), "merges_file: .*together"),
    ],
)
def test_bad_arguments_are_named(shared, call, message):
    with pytest.raises(ValueError, match=message):
        call(shared)


def test_wrong_types_are_type_errors_too(shared):
    for call in (lambda: shared(5), lambda: shared(["a", 5]), lambda: shared.decode([1.5])):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match="vocab_file"):
        type(shared)(vocab_file=5, merges_file="x")


def test_ids_outside_the_vocabulary():
    """transformers' fast tokenizer leaves them out, its slow one fails."""
    assert CLIPTokenizerFast().decode([320, 99999]) == "a"
    with pytest.raises(InputError, match="token_ids: wanted ids of the vocabulary, 0 to 49407, found 99999"):
        CLIPTokenizer().decode([320, 99999])
    assert CLIPTokenizer().convert_ids_to_tokens([320, 99999]) == ["a</w>", None]


def test_lone_surrogates(monkeypatch):
    assert CLIPTokenizerFast()("a\ud800")["input_ids"] == CLIPTokenizerFast()("a\ufffd\ufffd\ufffd")["input_ids"]
    slow = CLIPTokenizer()
    slow.fix_text = str  # a mender that leaves it in
    with pytest.raises(InputError, match="lone surrogate"):
        slow("a\ud800")


def test_a_single_id_is_skipped_by_the_fast_tokenizer_only():
    assert CLIPTokenizerFast().decode(49407, skip_special_tokens=True) == ""
    assert CLIPTokenizer().decode(49407, skip_special_tokens=True) == "<|endoftext|>"


def test_pad_keeps_a_mask_that_is_there(shared):
    batch = shared.pad([{"input_ids": [1, 2], "attention_mask": [0, 1]}, {"input_ids": [3], "attention_mask": [1]}])
    assert batch["attention_mask"] == [[0, 1], [1, 0]]


def test_offsets_need_the_fast_tokenizer():
    with pytest.raises(NotImplementedError, match="fast tokenizer"):
        CLIPTokenizer()("a", return_offsets_mapping=True)


def test_rows_of_unequal_length(shared):
    """As in transformers: an array of arrays for NumPy, an error for the others."""
    assert shared(["a", "b c"], return_tensors="np")["input_ids"].dtype == object
    pytest.importorskip("torch", reason="return_tensors='pt' needs torch")
    with pytest.raises(ValueError, match="padding=True"):
        shared(["a", "b c"], return_tensors="pt")


def test_no_option_is_lost_when_saved(tmp_path, tokenizer):
    twin = type(tokenizer)(errors="strict", my_option=[1, {"a": None}], padding_side="left")
    paths = twin.save_pretrained(tmp_path)
    assert all(json.loads(Path(path).read_text("utf-8")) for path in paths if path.endswith(".json"))
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.init_kwargs["my_option"] == [1, {"a": None}] and again.padding_side == "left"
    assert again.errors == twin.errors and again.model_max_length == 77
    assert again("a photo <|ENDOFTEXT|>").data == twin("a photo <|ENDOFTEXT|>").data
