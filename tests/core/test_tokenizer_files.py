"""Tokenizer files of every kind; damaged or hostile ones raise a CheckpointError that names the file."""

import json
import shutil
from pathlib import Path

import pytest

from clip_core.errors import CheckpointError
from clip_core.text.tokenizer import CLIPTokenizer, CLIPTokenizerFast

FOLDERS = Path(__file__).parents[1] / "golden" / "tokenizer" / "folders"
KINDS = [CLIPTokenizer, CLIPTokenizerFast]
BOTH = pytest.mark.parametrize("kind", KINDS, ids=["slow", "fast"])


@pytest.fixture
def bare(tmp_path):
    """A folder with vocab.json and merges.txt that a test may damage."""
    return shutil.copytree(FOLDERS / "bare", tmp_path / "bare")


@pytest.fixture
def five(tmp_path):
    """A folder with tokenizer.json and tokenizer_config.json."""
    return shutil.copytree(FOLDERS / "five", tmp_path / "five")


def edit(path, **changes):
    """Change entries of a JSON file; a dotted name is a path into it, ... takes the entry out."""
    found = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = found
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(found), encoding="utf-8")


# ---- what loads -----------------------------------------------------------------------------------------------------


@BOTH
def test_a_folder_in_a_folder_and_stray_keywords(kind, bare):
    tokenizer = kind.from_pretrained(
        bare.parent, subfolder="bare", use_fast=True, trust_remote_code=False, force_download=True, revision="main"
    )
    assert tokenizer("the cat")["input_ids"] == [41, 54, 48, 47]
    assert tokenizer.name_or_path == str(bare.parent)


@BOTH
def test_windows_line_ends_and_a_mark_at_the_start(kind, bare):
    wanted = kind.from_pretrained(bare)("the low cat")["input_ids"]
    merges = bare / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    vocab = bare / "vocab.json"
    vocab.write_bytes(b"\xef\xbb\xbf" + vocab.read_bytes())
    assert kind.from_pretrained(bare)("the low cat")["input_ids"] == wanted


def test_tokenizer_json_alone(five):
    (five / "tokenizer_config.json").unlink()
    tokenizer = CLIPTokenizerFast.from_pretrained(five)
    assert tokenizer("the cat")["input_ids"] == [41, 54, 48, 47] and tokenizer.model_max_length > 10**9
    assert CLIPTokenizer.from_pretrained(five)("the cat")["input_ids"] == [41, 54, 48, 47]
    for kind in KINDS:
        given = kind(tokenizer_file=five / "tokenizer.json", model_max_length=5)
        assert given(["the cat", "a a a a a"], truncation=True)["input_ids"][0] == [41, 54, 48, 47]


def test_a_template_as_post_processor(five):
    """It says where special tokens go, as RobertaProcessing does in CLIP's own file."""
    roberta = CLIPTokenizerFast.from_pretrained(five)
    token = {"<|startoftext|>": 41, "<|endoftext|>": 47}
    bos, eos = ({"SpecialToken": {"id": name, "type_id": 0}} for name in token)
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [bos, first, eos],
        "pair": [bos, first, eos, eos, second, eos],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in token.items()},
    }
    edit(five / "tokenizer.json", post_processor=template)
    tokenizer = CLIPTokenizerFast.from_pretrained(five)
    assert tokenizer("the cat", "dog").data == roberta("the cat", "dog").data
    assert tokenizer(["the cat"], return_tensors="np")["input_ids"].tolist() == [roberta("the cat")["input_ids"]]
    edit(five / "tokenizer.json", post_processor=None)
    assert CLIPTokenizerFast.from_pretrained(five)(["the cat"])["input_ids"] == [[54, 48]]


def test_unknown_characters(five):
    """One unknown token each; with `fuse_unk` one for neighbours; without an `unk_token` none."""
    tokenizer = CLIPTokenizerFast.from_pretrained(five)
    assert tokenizer("axyza", add_special_tokens=False)["input_ids"] == [0, 47, 47, 47, 22]
    edit(five / "tokenizer.json", model__fuse_unk=True)
    tokenizer = CLIPTokenizerFast.from_pretrained(five)
    found = tokenizer("axyza", add_special_tokens=False, return_offsets_mapping=True)
    assert found["input_ids"] == [0, 47, 22] and found["offset_mapping"] == [(0, 1), (1, 4), (4, 5)]
    edit(five / "tokenizer.json", model__unk_token=None)
    assert CLIPTokenizerFast.from_pretrained(five)("axyza", add_special_tokens=False)["input_ids"] == [0, 22]


@pytest.mark.parametrize(
    ("legacy_format", "names"),
    [
        (None, {"tokenizer.json", "vocab.json", "merges.txt"}),
        (False, {"tokenizer.json"}),
        (True, {"vocab.json", "merges.txt"}),
    ],
)
def test_what_is_saved(tmp_path, legacy_format, names):
    tokenizer = CLIPTokenizerFast.from_pretrained(FOLDERS / "sdxl")
    paths = tokenizer.save_pretrained(tmp_path, legacy_format=legacy_format)
    wanted = names | {"tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in tmp_path.iterdir()} - {"added_tokens.json"} == wanted
    assert {Path(path) for path in paths} == set(tmp_path.iterdir())
    for kind in KINDS:
        assert kind.from_pretrained(tmp_path)("a <S> low cat")["input_ids"][1:3] == [0, 57]


def test_a_prefix_and_save_vocabulary(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(FOLDERS / "bare")
    vocab, merges = tokenizer.save_vocabulary(tmp_path, filename_prefix="my")
    assert Path(vocab).name == "my-vocab.json" and Path(merges).name == "my-merges.txt"
    assert CLIPTokenizer(vocab, merges)("the cat").data == tokenizer("the cat").data
    assert json.loads(Path(vocab).read_text(encoding="utf-8")) == tokenizer.encoder
    with pytest.raises(FileNotFoundError, match="save_directory"):
        tokenizer.save_vocabulary(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="save_directory"):
        tokenizer.save_pretrained(vocab)
    with pytest.raises(TypeError, match="unexpected keyword argument 'push'"):
        tokenizer.save_pretrained(tmp_path, push=True)
    with pytest.raises(ValueError, match="legacy_format"):
        tokenizer.save_pretrained(tmp_path, legacy_format=False)


# ---- what doesn't ---------------------------------------------------------------------------------------------------


@BOTH
def test_nothing_there(kind, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match="no tokenizer here: wanted vocab.json and merges.txt, or tokenizer.json"
    ):
        kind.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        kind.from_pretrained(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        kind(tmp_path / "vocab.json", tmp_path / "merges.txt")


@BOTH
def test_half_of_the_two_files(kind, bare):
    (bare / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="found .'vocab.json'."):
        kind.from_pretrained(bare)


@BOTH
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b'{"a": 0, "b'),
        ("vocab.json", b"\xff\xfe\x00"),
        ("vocab.json", b"[1, 2]"),
        ("vocab.json", b"{}"),
        ("vocab.json", b'{"a": "0"}'),
        ("vocab.json", b'{"a": -1}'),
        ("vocab.json", b'{"a": true}'),
        ("vocab.json", b"[" * 200_000),
        ("merges.txt", b"\xff\xfe\x00"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b'{"a":' * 200_000),
        ("tokenizer_config.json", b'{"added_tokens_decoder": 5}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"5": {"content": 5}}}'),
        ("tokenizer_config.json", b'{"pad_token": 5}'),
        ("tokenizer_config.json", b'{"model_max_length": "long"}'),
        ("tokenizer_config.json", b'{"model_max_length": NaN}'),
        ("tokenizer_config.json", b'{"model_max_length": 0}'),
        ("tokenizer_config.json", b'{"padding_side": "up"}'),
        ("tokenizer_config.json", b'{"model_input_names": 5}'),
        ("tokenizer_config.json", b'{"errors": 5}'),
        ("tokenizer_config.json", b'{"additional_special_tokens": [5]}'),
        ("tokenizer_config.json", b'{"additional_special_tokens": "a"}'),
        ("special_tokens_map.json", b'{"additional_special_tokens": [null]}'),
        ("special_tokens_map.json", b'{"additional_special_tokens": 5}'),
        ("special_tokens_map.json", b"5"),
        ("special_tokens_map.json", b'{"pad_token": {"content": 5}}'),
        ("special_tokens_map.json", b'{"pad_token": [5]}'),
        ("added_tokens.json", b'{"a": "x"}'),
        ("added_tokens.json", b"[]"),
    ],
)
def test_damaged_small_files(kind, bare, name, content):
    (bare / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        kind.from_pretrained(bare)
    assert "bare" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "model: wanted an object"),
        ({"model__type": "Unigram"}, "model.type: wanted 'BPE', found 'Unigram'"),
        ({"model__vocab": ...}, "model: vocab"),
        ({"model__vocab": [["a", 0.0]]}, "model: vocab"),
        ({"model__merges": ...}, "model.merges: wanted a list"),
        ({"model__merges": ["a b c"]}, "model.merges: wanted 'left right'"),
        ({"model__merges": [["a", 5]]}, "model.merges: wanted 'left right'"),
        ({"model__merges": ["z q"]}, "'z' of 'z q' is not in the vocabulary"),
        ({"model__merges": [5]}, "model.merges"),
        ({"model__dropout": 0.5}, "model.dropout"),
        ({"model__continuing_subword_prefix": "##"}, "model.continuing_subword_prefix"),
        ({"model__end_of_word_suffix": 5}, "model.end_of_word_suffix"),
        ({"model__unk_token": 5}, "model.unk_token"),
        ({"normalizer": None}, "normalizer: wanted CLIP's"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "normalizer: wanted CLIP's"),
        ({"normalizer": {"type": "Sequence", "normalizers": 5}}, "normalizer: wanted CLIP's"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer: wanted CLIP's"),
        ({"pre_tokenizer": 5}, "pre_tokenizer: wanted CLIP's"),
        ({"post_processor": {"type": "RobertaProcessing"}}, "post_processor"),
        ({"post_processor": {"type": "Other"}}, "post_processor"),
        ({"post_processor": 5}, "post_processor"),
        ({"added_tokens": 5}, "added_tokens"),
        ({"added_tokens": [5]}, "added_tokens"),
        ({"added_tokens": [{"content": "a"}]}, "added_tokens"),
    ],
)
def test_other_or_damaged_tokenizer_json(five, changes, message):
    edit(five / "tokenizer.json", **changes)
    for kind in KINDS:
        with pytest.raises(CheckpointError, match="five.*" + message.replace("(", r"\(")):
            kind.from_pretrained(five)


CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def set_pattern(folder, pattern):
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
    (folder / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize("pattern", ["(", r"(a+)+$|", "(?<=a", ".|" + CLIP_PATTERN, r"\w+|" + CLIP_PATTERN, 5, None])
def test_patterns_of_others_are_not_run(five, pattern):
    set_pattern(five, pattern)
    with pytest.raises(CheckpointError, match="pre_tokenizer"):
        CLIPTokenizerFast.from_pretrained(five)


def test_patterns_with_texts_before_clips_own(five):
    set_pattern(five, CLIP_PATTERN)
    wanted = CLIPTokenizerFast.from_pretrained(five)(["the cat! dog"])["input_ids"]
    set_pattern(five, r"<x>|\[y\]|" + CLIP_PATTERN)
    tokenizer = CLIPTokenizerFast.from_pretrained(five)
    assert tokenizer(["the cat! dog"])["input_ids"] == wanted
    # Found whole, then cut by the byte-level step's own pattern: "<x>!" is not one run of "x", ">!".
    assert tokenizer("cat<x>!", add_special_tokens=False).word_ids() == [0, 1, 2, 3, 4]
    bare = CLIPTokenizerFast.from_pretrained(FOLDERS / "bare")
    assert bare("cat<x>!", add_special_tokens=False).word_ids() == [0, 1, 2, 3, 3]


def test_merges_that_the_vocabulary_lacks(bare):
    """The slow tokenizer takes them (what comes of them is unknown); the fast one refuses, as in transformers."""
    with (bare / "merges.txt").open("a") as file:
        file.write("z z\nbroken line here\n")
    tokenizer = CLIPTokenizer.from_pretrained(bare)
    assert tokenizer("zzz the")["input_ids"] == [41, 47, 47, 54, 47]  # zz and z</w>, both unknown
    with pytest.raises(CheckpointError, match="merges"):
        CLIPTokenizerFast.from_pretrained(bare)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    tokenizer = CLIPTokenizerFast.from_pretrained(FOLDERS / "bare")
    tokenizer.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    write = Path.write_text

    def fail(path, *arguments, **options):
        if path.name == "merges.txt":
            raise OSError("disk full")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    tokenizer.add_tokens(["<x>"])
    with pytest.raises(OSError, match="disk full"):
        tokenizer.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
