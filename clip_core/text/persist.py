"""A tokenizer's folder: settings and vocabulary files, as transformers 4.37.2 reads and writes them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clip_core import hub
from clip_core.errors import CheckpointError, InputError
from clip_core.files import replace_folder, write_text
from clip_core.text.added_tokens import AddedToken, as_added_token, parse_added_tokens
from clip_core.text.files import (
    TokenizerData,
    bundled_data,
    check_regular,
    merges_text,
    read_json_object,
    read_tokenizer_json,
    read_vocab_and_merges,
    tokenizer_json,
)

logger = logging.getLogger("clip_core.text.tokenizer")

VOCAB, MERGES, TOKENIZER = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
FILES = (CONFIG, SPECIAL_MAP, ADDED, TOKENIZER, VOCAB, MERGES)

SINGLE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS = (*SINGLE_TOKENS, "additional_special_tokens")

# Entries of tokenizer_config.json about the location of files, which are not settings.
_NOT_OPTIONS = (
    "tokenizer_class",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "special_tokens_map_file",
    "added_tokens_file",
    "init_inputs",
    "auto_map",
    "added_tokens_decoder",
    "name_or_path",
    "backend",
    "is_local",
    "local_files_only",
)
_FILE_ARGUMENTS = ("vocab_file", "merges_file", "tokenizer_file")
_IGNORED = (*hub.ACCEPTED_ARGUMENTS, "use_fast", "from_slow", "tokenizer_type")  # of from_pretrained


# ---- loading --------------------------------------------------------------------------------------------------------


def constructor_arguments(
    name_or_path: str | os.PathLike, fast: bool, where: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A tokenizer's constructor arguments from a folder or hub name.

    Args:
        fast: the kind, which decides the preferred vocabulary file.
        where: `clip_core.hub.HUB_ARGUMENTS`.
        given: the caller's keywords, which win over the files.
    """
    where = {**where, "subfolder": where.get("subfolder") or None}
    folder = Path(hub.resolve_folder(name_or_path, files=FILES, **where))
    given = {name: value for name, value in given.items() if name not in _IGNORED}
    _warn_of_another_class(folder)
    own: dict[str, Any] = {name: given.pop(name) for name in _FILE_ARGUMENTS if name in given}
    own = {name: path for name, path in own.items() if path is not None}
    single = own.get("tokenizer_file") if own else folder / TOKENIZER
    options = read_options(folder, given, single)
    options["name_or_path"] = str(name_or_path)
    return {**vocabulary_files(folder, fast, own), **options}


def _warn_of_another_class(folder: Path) -> None:
    found = read_json_object(folder / CONFIG).get("tokenizer_class") if check_regular(folder / CONFIG) else None
    if isinstance(found, str) and found.removesuffix("Fast") != "CLIPTokenizer":
        logger.warning(
            "The tokenizer class you load from this checkpoint is not the same type as the class this function is "
            f"called from: {folder / CONFIG} names {found}; its ids may be another's than CLIP's."
        )


@contextlib.contextmanager
def named_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turn errors about a file's values into a CheckpointError that names the folder."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{folder}: {CONFIG} or an argument: {error}") from error


def vocabulary_files(folder: Path, fast: bool, own: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's file arguments for a folder: the slow kind prefers vocab.json, the fast kind tokenizer.json.

    `own`: files named by the caller; given only one of vocab.json and merges.txt, the folder supplies the other.
    Raises FileNotFoundError if the folder has no vocabulary.
    """
    if "tokenizer_file" in own:
        return dict(own)
    legacy = {"vocab_file": folder / VOCAB, "merges_file": folder / MERGES, **own}
    has_legacy = all(check_regular(path) for path in legacy.values())
    has_single = not own and check_regular(folder / TOKENIZER)
    if has_single and (fast or not has_legacy):
        return {"tokenizer_file": str(folder / TOKENIZER)}
    if has_legacy:
        return {name: str(path) for name, path in legacy.items()}
    wanted = [Path(path).name for path in legacy.values()]
    there = [Path(path).name for path in legacy.values() if check_regular(path)]
    raise FileNotFoundError(
        f"{folder}: no tokenizer here: wanted {' and '.join(wanted)}, or {TOKENIZER}; found {there or 'none of them'}"
    )


def load_data(vocab_file: Any, merges_file: Any, tokenizer_file: Any) -> TokenizerData:
    """TokenizerData from the constructor's files; the bundled vocabulary without any."""
    for name, path in (("vocab_file", vocab_file), ("merges_file", merges_file), ("tokenizer_file", tokenizer_file)):
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{name}: wanted a path, found {type(path).__name__}")
    if tokenizer_file is not None:
        return read_tokenizer_json(tokenizer_file)
    if vocab_file is None and merges_file is None:
        return bundled_data()
    if vocab_file is None or merges_file is None:
        missing = "merges_file" if merges_file is None else "vocab_file"
        raise InputError(f"{missing}: vocab_file and merges_file come together, found only one of them")
    return read_vocab_and_merges(vocab_file, merges_file)


def read_options(folder: Path, given: Mapping[str, Any], single: Any) -> dict[str, Any]:
    """Constructor arguments from tokenizer_config.json. Without `added_tokens_decoder` in it (older files), those of
    special_tokens_map.json, added_tokens.json and `single` (tokenizer.json) win; `given` wins over all."""
    config = read_json_object(folder / CONFIG) if check_regular(folder / CONFIG) else {}
    options = {name: _token_or_value(value) for name, value in config.items() if name not in _NOT_OPTIONS}
    extra = options.pop("extra_special_tokens", None)  # transformers 5's name for additional_special_tokens
    if isinstance(extra, list) and extra:
        options.setdefault("additional_special_tokens", extra)
    options.update(given)
    _check_special_tokens(options, str(folder / CONFIG))
    try:
        if "added_tokens_decoder" in config:
            added = parse_added_tokens(config["added_tokens_decoder"], f"{folder / CONFIG}: added_tokens_decoder")
        else:
            _apply_special_map(folder, options, given)
            _check_special_tokens(options, str(folder / SPECIAL_MAP))
            added = _legacy_added_tokens(folder, options, single)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    by_content = {token.content: token for token in added.values()}
    for name in SPECIAL_TOKENS[:-1]:
        if options.get(name) is not None:
            options[name] = by_content.get(str(options[name]), options[name])
    return {**options, "added_tokens_decoder": added}


def _token_or_value(value: Any) -> Any:
    """{"__type": "AddedToken", …} as an AddedToken; lists item by item; anything else unchanged."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return as_added_token(value)
    return [_token_or_value(item) for item in value] if isinstance(value, list) else value


def _apply_special_map(folder: Path, options: dict[str, Any], given: Mapping[str, Any]) -> None:
    if not check_regular(folder / SPECIAL_MAP):
        return
    for name, value in read_json_object(folder / SPECIAL_MAP).items():
        if given.get(name) or name not in SPECIAL_TOKENS:
            continue
        if name == "additional_special_tokens" and isinstance(value, list):
            known = list(options.get(name) or [])
            options[name] = known + [t for t in map(_special, value) if t not in known]
        else:
            options[name] = _special(value)


def _special(value: Any) -> Any:
    is_token = isinstance(value, dict) and isinstance(value.get("content"), str)
    return as_added_token({**value, "special": True}) if is_token else value


def _legacy_added_tokens(folder: Path, options: Mapping[str, Any], single: Any) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = {}
    specials = {str(options[name]) for name in SPECIAL_TOKENS[:-1] if options.get(name) is not None}
    specials |= {str(token) for token in options.get("additional_special_tokens") or ()}
    if check_regular(folder / ADDED):
        for content, token_id in read_json_object(folder / ADDED).items():
            if type(token_id) is not int or token_id < 0:
                raise CheckpointError(f"{folder / ADDED}: {content!r}: wanted an id, found {token_id!r}")
            found[token_id] = AddedToken(content, special=content in specials)
    if single is not None and check_regular(single):
        tokens = read_json_object(single).get("added_tokens") or []
        found.update(parse_added_tokens(tokens, f"{single}: added_tokens"))
    return found


def _check_special_tokens(options: Mapping[str, Any], where: str) -> None:
    for name in SPECIAL_TOKENS:
        value = options.get(name)
        if value is None:
            continue
        is_list = name == "additional_special_tokens"
        if is_list and not isinstance(value, (list, tuple)):
            raise CheckpointError(f"{where}: {name}: wanted a list of tokens, found {value!r}")
        for item in value if is_list else [value]:
            if not isinstance(item, (str, AddedToken)) and not hasattr(item, "content"):
                raise CheckpointError(f"{where}: {name}: wanted a token, found {item!r}")


# ---- saving ---------------------------------------------------------------------------------------------------------


def as_json(value: Any, sort_keys: bool = True) -> str:
    """JSON, indented."""
    return json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n"


def kept_options(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's options that tokenizer_config.json stores."""
    left_out = (*_NOT_OPTIONS, *SPECIAL_TOKENS)
    return {name: value for name, value in init_kwargs.items() if name not in left_out and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold the value."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def vocabulary_content(
    data: TokenizerData, added_tokens: Mapping[int, AddedToken], legacy: bool, single: bool
) -> dict[str, str]:
    """File name -> text: vocab.json, merges.txt and added_tokens.json (`legacy`), tokenizer.json (`single`)."""
    found: dict[str, str] = {}
    if legacy:
        found[VOCAB] = as_json(dict(sorted(data.vocab.items(), key=lambda item: item[1])), sort_keys=False)
        found[MERGES] = merges_text(data.merges)
        further = {token.content: i for i, token in added_tokens.items() if i >= len(data.vocab)}
        if further:
            found[ADDED] = as_json(further)
    if single:
        found[TOKENIZER] = as_json(tokenizer_json(data, added_tokens), sort_keys=False)
    return found


def save_vocabulary(
    data: TokenizerData, save_directory: str | os.PathLike, filename_prefix: str | None
) -> tuple[str, ...]:
    """Write vocab.json and merges.txt into an existing folder."""
    folder = Path(save_directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"save_directory: wanted a folder, found a file: {folder}")
    if not folder.exists():
        raise FileNotFoundError(f"save_directory: no such folder: {folder}")
    paths = []
    for name, text in vocabulary_content(data, {}, legacy=True, single=False).items():
        paths.append(str(folder / _prefixed(name, filename_prefix)))
        write_text(paths[-1], text)
    return tuple(paths)


def save(
    content: Mapping[str, str],
    save_directory: str | os.PathLike,
    prefix: str | None,
    push: bool,
    upload: dict[str, Any],
) -> tuple[str, ...]:
    """Write files in one step, and upload them if asked for; returns their paths."""
    where = hub.upload_arguments(upload, save_directory)
    folder = Path(save_directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"save_directory: wanted a folder, found a file: {folder}")
    files = {_prefixed(name, prefix): text for name, text in content.items()}
    with replace_folder(folder) as stage:
        for name, text in files.items():
            (stage.path / name).write_text(text, encoding="utf-8", newline="\n")
    if push:
        hub.push_to_hub(folder, files=files, **where)
    return tuple(str(folder / name) for name in files)


def _prefixed(name: str, prefix: str | None) -> str:
    return f"{prefix}-{name}" if prefix else name
