"""A tokenizer's vocabulary files: vocab.json + merges.txt, tokenizer.json, and the bundled vocabulary.

A damaged file is a CheckpointError that names it; nothing in a file is ever executed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_core.errors import CheckpointError, InputError, MissingDependencyError
from clip_core.text.added_tokens import AddedToken, parse_added_tokens
from clip_core.text.bpe import BYTE_TO_CHAR, END_OF_WORD
from clip_core.text.normalize import PIECES

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
BUNDLED = Path(__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
# OpenAI's tokenizer uses this many of the file's 262,144 merges, and transformers reads at most as many.
OPENAI_MERGES = 49152 - 256 - 2
_BUNDLED_BYTES = 540_000  # the first 48,895 lines take 524,619 bytes

# Tokens that no merge produces: control tokens such as "<|endoftext|>", "<unk>", "[MASK]".
_CONTROL = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_EXCEPTIONS = 100

# Literal alternatives before CLIP's own in a pattern (bos and eos in transformers 5).
_LITERALS = re.compile(r"(?:(?:[^\\.^$*+?{}\[\]|()]|\\[^\w])+\|)*")

# A place in a template: "A" and "B" are the texts, anything else a special token.
Template = tuple[str, ...]


@dataclass
class TokenizerData:
    """The contents of the files.

    Args:
        vocab: token -> id.
        merges: "left right" per merge, best first.
        end_of_word: the mark on a word's last character.
        unk_token: named by tokenizer.json; None when no file names one.
        fuse_unk: neighbouring unknown characters give one token.
        whole_words: see BytePairEncoder.
        added_tokens: tokenizer.json's, by id; None when there is no tokenizer.json.
        pattern: tokenizer.json's pattern for cutting pieces.
        post_processor: tokenizer.json's, which places the special tokens; None without tokenizer.json, or if it has
            none.
    """

    vocab: dict[str, int]
    merges: Sequence[str]
    end_of_word: str = END_OF_WORD
    unk_token: str | None = None
    fuse_unk: bool = False
    whole_words: bool = False
    added_tokens: dict[int, AddedToken] | None = None
    pattern: str = PIECES
    post_processor: dict[str, Any] | None = None


@functools.lru_cache(maxsize=1)
def _bundled() -> tuple[dict[str, int], tuple[str, ...]]:
    text = zlib.decompressobj(wbits=31).decompress(BUNDLED.read_bytes(), _BUNDLED_BYTES).decode("utf-8", "ignore")
    merges = tuple(text.split("\n")[1 : OPENAI_MERGES + 1])
    alphabet = list(BYTE_TO_CHAR.values())
    tokens = [*alphabet, *(char + END_OF_WORD for char in alphabet), *(m.replace(" ", "") for m in merges), BOS, EOS]
    return dict(zip(tokens, range(len(tokens)), strict=True)), merges


def bundled_data() -> TokenizerData:
    """OpenAI's vocabulary of 49,408 tokens, bundled with the package."""
    vocab, merges = _bundled()
    return TokenizerData(dict(vocab), merges, whole_words=True)


def check_regular(path: str | os.PathLike) -> bool:
    """Whether the file exists. Raises CheckpointError for a folder, a pipe or a device of that name."""
    path = Path(path)
    if path.is_file():
        return True
    if path.exists():
        found = "a folder" if path.is_dir() else "a pipe" if path.is_fifo() else "a device or socket"
        raise CheckpointError(f"{path}: wanted a file, found {found}")
    return False


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file. Raises FileNotFoundError, or CheckpointError if it is damaged or nested too deeply."""
    check_regular(path)
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: JSON nested too deeply") from error


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON file with an object. Raises as `read_json`, and CheckpointError for another value."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found


def read_vocab_and_merges(vocab_file: str | os.PathLike, merges_file: str | os.PathLike) -> TokenizerData:
    """vocab.json and merges.txt, of which the first line (a version) is skipped and 48,894 lines are read."""
    vocab = _checked_vocab(read_json(vocab_file), str(vocab_file))
    check_regular(merges_file)
    try:
        text = Path(merges_file).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{merges_file}: not UTF-8 text ({error})") from error
    lines = text.replace("\r\n", "\n").strip().split("\n")[1 : OPENAI_MERGES + 1]
    # The last of equal lines gives the rank, as in a mapping built from them.
    merges = [" ".join(line.split()) for line in lines]
    check_belonging(vocab, merges, str(merges_file))
    return TokenizerData(vocab, merges)


def check_belonging(vocab: Mapping[str, int], merges: Sequence[str], where: str, added: Iterable[str] = ()) -> None:
    """Raise CheckpointError if the merges are not those of the vocabulary: cut short, empty, or another one's.

    A merge makes every token of several characters, and every merge makes a token. This holds for trained vocabularies;
    a few exceptions are allowed, because people add tokens by hand. `added` tokens need no merge.
    """
    made = set("\n".join(merges).replace(" ", "").split("\n"))
    made.discard("")
    rest = vocab.keys() - made
    useless = len(made) - (len(vocab) - len(rest))
    rest.difference_update(added)
    unmade = sum(len(token.removesuffix(END_OF_WORD)) > 1 and not _CONTROL.fullmatch(token) for token in rest)
    joined = len(made) - useless + unmade  # tokens of several characters
    few = max(_EXCEPTIONS, len(vocab) // 500)
    if unmade > few or 2 * unmade > joined > 3 or useless > few or 2 * useless > len(made) > 3:
        raise CheckpointError(
            f"{where}: its {len(merges)} merges don't belong to the vocabulary: {unmade} of its {joined} tokens "
            f"of several characters come from no merge, and {useless} merges make no token of it; the file is cut "
            f"short or another vocabulary's: fetch or copy it again"
        )


def _checked_vocab(vocab: Any, where: str) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise CheckpointError(f"{where}: vocab: wanted an object of token: id, found {_brief(vocab)}")
    for token, token_id in vocab.items():
        if type(token_id) is not int or not 0 <= token_id < 2**32:
            raise CheckpointError(f"{where}: vocab: {token!r}: wanted an id, found {_brief(token_id)}")
    return vocab


def read_tokenizer_json(path: str | os.PathLike) -> TokenizerData:
    """tokenizer.json with CLIP's byte-level BPE; merges as "a b" strings or as pairs."""
    return _tokenizer_data(read_json_object(path), path)


def read_tokenizer_object(tokenizer: Any) -> TokenizerData:
    """As `read_tokenizer_json`, from a Tokenizer of the `tokenizers` library."""
    if not callable(getattr(tokenizer, "to_str", None)):
        raise TypeError(f"tokenizer_object: wanted a tokenizers.Tokenizer, found {type(tokenizer).__name__}")
    return _tokenizer_data(json.loads(tokenizer.to_str()), "tokenizer_object")


def _tokenizer_data(found: dict[str, Any], path: str | os.PathLike) -> TokenizerData:
    model = found.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: model: wanted an object, found {_brief(model)}")
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{path}: model.type: wanted 'BPE', found {_brief(model['type'])}")
    for option in ("dropout", "continuing_subword_prefix", "byte_fallback", "ignore_merges"):
        if model.get(option):
            raise CheckpointError(f"{path}: model.{option}: not CLIP's, found {_brief(model[option])}")
    vocab = _checked_vocab(model.get("vocab"), f"{path}: model")
    try:
        added = parse_added_tokens(found.get("added_tokens") or [], f"{path}: added_tokens")
    except InputError as error:
        raise CheckpointError(str(error)) from error
    data = TokenizerData(
        vocab,
        _checked_merges(model.get("merges"), vocab, str(path)),
        end_of_word=_text(model.get("end_of_word_suffix"), f"{path}: model.end_of_word_suffix") or "",
        unk_token=_text(model.get("unk_token"), f"{path}: model.unk_token"),
        fuse_unk=bool(model.get("fuse_unk")),
        added_tokens=added,
    )
    check_belonging(vocab, data.merges, f"{path}: model.merges", map(str, added.values()))
    _check_normalizer(found.get("normalizer"), str(path))
    data.pattern = _pattern(found.get("pre_tokenizer"), str(path))
    data.post_processor = found.get("post_processor")
    templates(data.post_processor, str(path))
    return data


def _checked_merges(merges: Any, vocab: Mapping[str, int], path: str) -> list[str]:
    if not isinstance(merges, list):
        raise CheckpointError(f"{path}: model.merges: wanted a list, found {_brief(merges)}")
    lines: list[str] = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise CheckpointError(f"{path}: model.merges: wanted 'left right' or a pair, found {_brief(merge)}")
        left, right = parts
        for token in (left, right, left + right):
            if token not in vocab:
                raise CheckpointError(f"{path}: model.merges: {token!r} of {_brief(merge)} is not in the vocabulary")
        lines.append(f"{left} {right}")
    return lines


def check_merges(data: TokenizerData, where: str) -> None:
    """Raise CheckpointError if a merge has a part or a result outside the vocabulary."""
    _checked_merges(list(data.merges), data.vocab, where)


def _check_normalizer(normalizer: Any, path: str) -> None:
    steps = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    kinds = [step.get("type") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else None
    if kinds != ["NFC", "Replace", "Lowercase"]:
        raise CheckpointError(f"{path}: normalizer: wanted CLIP's NFC, Replace, Lowercase, found {_brief(normalizer)}")
    replacement = (steps[1].get("pattern"), steps[1].get("content"))  # type: ignore[index]
    if replacement != ({"Regex": r"\s+"}, " "):
        raise CheckpointError(f"{path}: normalizer: wanted white space replaced by ' ', found {_brief(replacement)}")


def _pattern(pre_tokenizer: Any, path: str) -> str:
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    kinds = [step.get("type") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else None
    if kinds != ["Split", "ByteLevel"]:
        raise CheckpointError(f"{path}: pre_tokenizer: wanted CLIP's Split, ByteLevel, found {_brief(pre_tokenizer)}")
    split, byte_level = steps  # type: ignore[misc]
    pattern = split["pattern"].get("Regex") if isinstance(split.get("pattern"), dict) else None
    options = (split.get("behavior"), split.get("invert"), byte_level.get("add_prefix_space"))
    if not isinstance(pattern, str) or options != ("Removed", True, False) or byte_level.get("use_regex") is False:
        raise CheckpointError(f"{path}: pre_tokenizer: not CLIP's options: {_brief(pre_tokenizer)}")
    # No other pattern is run, because a hostile file's pattern could run for ever.
    if not pattern.endswith(PIECES) or not _LITERALS.fullmatch(pattern.removesuffix(PIECES)):
        raise CheckpointError(f"{path}: pre_tokenizer: pattern: wanted CLIP's, found {_brief(pattern)}")
    return pattern


def roberta_processing(bos: tuple[str, int], eos: tuple[str, int]) -> dict[str, Any]:
    """The post-processor of CLIP's own tokenizer.json, for these (token, id)."""
    return {"type": "RobertaProcessing", "sep": [*eos], "cls": [*bos], "trim_offsets": False, "add_prefix_space": False}


def templates(processor: Any, path: str = "tokenizer.json") -> tuple[Template, Template, dict[str, int]]:
    """A post-processor as (template for one text, template for a pair, the special tokens' ids)."""
    if processor is None:
        return ("A",), ("A", "B"), {}
    try:
        if processor["type"] == "RobertaProcessing":
            (bos, bos_id), (eos, eos_id) = processor["cls"], processor["sep"]
            ids = {bos: bos_id, eos: eos_id}
            single: Template = (bos, "A", eos)
            pair: Template = (bos, "A", eos, eos, "B", eos)
        elif processor["type"] == "TemplateProcessing":
            single, pair = (_template(processor[name]) for name in ("single", "pair"))
            ids = {name: token["ids"][0] for name, token in processor["special_tokens"].items()}
        else:
            raise KeyError(processor["type"])
        if not all(type(ids[place]) is int for place in (*single, *pair) if place not in ("A", "B")):
            raise TypeError(ids)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path}: post_processor: not one of CLIP's: {_brief(processor)}") from error
    return single, pair, ids


def _template(places: list[dict[str, dict[str, Any]]]) -> Template:
    return tuple(next(iter(place.values()))["id"] for place in places)


def _text(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{where}: wanted a string, found {_brief(value)}")
    return value


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 120 else f"{type(value).__name__} {shown[:100]}…"


# ---- writing --------------------------------------------------------------------------------------------------------


def merges_text(merges: Sequence[str]) -> str:
    """The text of merges.txt."""
    return "\n".join(["#version: 0.2", *merges, ""])


def tokenizer_json(data: TokenizerData, added_tokens: Mapping[int, AddedToken]) -> dict[str, Any]:
    """The contents of tokenizer.json, with merges as strings, which every version of the `tokenizers` library reads."""
    spaced = any(merge.count(" ") != 1 for merge in data.merges)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **token.to_dict()} for i, token in sorted(added_tokens.items())],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": data.pattern}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": data.post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": data.unk_token,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": data.end_of_word,
            "fuse_unk": data.fuse_unk,
            "byte_fallback": False,
            "vocab": dict(sorted(data.vocab.items(), key=lambda item: item[1])),
            "merges": [merge.split(" ", 1) for merge in data.merges] if spaced else list(data.merges),
        },
    }


# ---- training by the library `tokenizers` ----------------------------------------------------------------------------


def tokenizers_library() -> Any:
    """The library, from the extra `tokenizers`; MissingDependencyError without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError(
            "backend_tokenizer, decoder and train_new_from_iterator need the tokenizers library: "
            "pip install 'triclip[tokenizers]'"
        ) from error
    return tokenizers


def train_vocabulary(
    definition: Mapping[str, Any],
    texts: Iterable[Any],
    vocab_size: int,
    length: int | None,
    special_tokens: Sequence[AddedToken],
    renamed: Mapping[str, str],
    options: dict[str, Any],
) -> Any:
    """A tokenizer with the same steps and a newly trained vocabulary, as transformers 4.37.2 trains it.

    Args:
        definition: the contents of tokenizer.json.
        texts: strings, or lists of them.
        vocab_size: of the new vocabulary, special tokens included.
        length: how many texts there are, for the progress bar.
        special_tokens: in the order of their new ids, which are the first.
        renamed: old special token -> new one.
        options: for the library's BpeTrainer.

    Returns the library's Tokenizer.
    """
    tokenizers = tokenizers_library()
    model = {**definition["model"], "vocab": {}, "merges": []}
    model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    empty = {**definition, "added_tokens": [], "post_processor": None, "model": model}
    trained = tokenizers.Tokenizer.from_str(json.dumps(empty))
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            options.setdefault(name, model[name])
    specials = [tokenizers.AddedToken(t.content, **_flags(t)) for t in special_tokens]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, **options)
    trained.train_from_iterator(texts, length=length, trainer=trainer)
    found = json.loads(trained.to_str())
    found["post_processor"] = _post_processor(definition["post_processor"], trained, renamed)
    return tokenizers.Tokenizer.from_str(json.dumps(found))


def _flags(token: AddedToken) -> dict[str, bool]:
    return {name: value for name, value in token.to_dict().items() if name not in ("content", "special")}


def _post_processor(processor: Any, trained: Any, renamed: Mapping[str, str]) -> Any:
    """The post-processor with the new special tokens and ids."""

    def new(token: str) -> tuple[str, int]:
        name = renamed.get(token, token)
        return name, trained.token_to_id(name)

    if processor is None:
        return None
    if processor["type"] == "RobertaProcessing":
        return {**processor, **{end: list(new(processor[end][0])) for end in ("sep", "cls")}}
    specials = {}
    for token in processor["special_tokens"]:
        name, token_id = new(token)
        specials[name] = {"id": name, "ids": [token_id], "tokens": [name]}
    places = {
        kind: [
            {part: {**place, "id": renamed.get(place["id"], place["id"])} for part, place in item.items()}
            for item in processor[kind]
        ]
        for kind in ("single", "pair")
    }
    return {**processor, **places, "special_tokens": specials}
