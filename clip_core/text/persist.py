"""from_pretrained and save_pretrained of the tokenizers: which file says what, as transformers 4.37.2 reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_core.errors import CheckpointError, InputError
from clip_core.text.added_tokens import AddedToken, as_added_token, parse_added_tokens
from clip_core.text.files import (
    bundled_data,
    merges_text,
    read_json_object,
    read_tokenizer_json,
    read_vocab_and_merges,
    tokenizer_json,
    write_json,
    write_text,
)
from clip_core.text.special_tokens import SPECIAL_TOKENS

VOCAB, MERGES, TOKENIZER = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
FILES = (CONFIG, SPECIAL_MAP, ADDED, TOKENIZER, VOCAB, MERGES)

# Of tokenizer_config.json: what says where files were rather than what the tokenizer is.
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


class Persistent:
    """Mixin: loading from and saving to folders."""

    is_fast: bool

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *init_inputs: Any,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A tokenizer from a local folder or a hub name.

        Args:
            pretrained_model_name_or_path: a folder with vocab.json and merges.txt, or with tokenizer.json; or a name
                that `clip_core.hub` resolves.
            cache_dir, local_files_only, token, revision: for names.
            subfolder: the folder within it (diffusers: "tokenizer", "tokenizer_2").
            **kwargs: override what the files say (`pad_token`, `model_max_length`, `padding_side`, …). Others, such as
                `use_fast`, are accepted and change nothing.

        Raises:
            FileNotFoundError: no such folder, or no tokenizer in it.
            CheckpointError: a damaged file, or a tokenizer that is not CLIP's.
        """
        from clip_core import hub

        folder = Path(
            hub.resolve_folder(
                pretrained_model_name_or_path,
                subfolder=subfolder or None,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                files=FILES,
            )
        )
        ignored = (*getattr(hub, "ACCEPTED_ARGUMENTS", ()), "use_fast", "from_slow", "tokenizer_type")
        given = {name: value for name, value in kwargs.items() if name not in ignored}
        options = read_options(folder, given)
        options["name_or_path"] = str(pretrained_model_name_or_path)
        files = vocabulary_files(folder, cls.is_fast)
        try:
            return cls(*init_inputs, **files, **options)
        except InputError as error:
            raise CheckpointError(f"{folder}: {CONFIG} or an argument: {error}") from error

    def save_vocabulary(
        self: Any, save_directory: str | os.PathLike, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write vocab.json and merges.txt into an existing folder; returns their paths.

        Raises FileNotFoundError or NotADirectoryError when there is no such folder.
        """
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory: wanted a folder, found a file: {folder}")
        if not folder.exists():
            raise FileNotFoundError(f"save_directory: no such folder: {folder}")
        data = self.data
        vocab_path, merges_path = (folder / _prefixed(name, filename_prefix) for name in (VOCAB, MERGES))
        write_json(vocab_path, dict(sorted(data.vocab.items(), key=lambda item: item[1])), sort_keys=False)
        write_text(merges_path, merges_text(data.merges))
        return str(vocab_path), str(merges_path)

    def save_pretrained(
        self: Any,
        save_directory: str | os.PathLike,
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """Write every file that transformers (4.37 to 5) and this package read; returns their paths.

        Args:
            save_directory: made when missing.
            legacy_format: fast only: False writes tokenizer.json without vocab.json and merges.txt, True those without
                tokenizer.json, None both.
            filename_prefix: goes before every name, with a hyphen.

        Raises:
            NotADirectoryError: `save_directory` is a file. InputError: `push_to_hub`, which is not offered.
        """
        if push_to_hub:
            raise InputError("push_to_hub: not offered; save to a folder and upload it with huggingface_hub")
        if legacy_format is False and not self.is_fast:
            raise InputError("legacy_format: False needs a fast tokenizer (CLIPTokenizerFast)")
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory: wanted a folder, found a file: {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / _prefixed(CONFIG, filename_prefix), folder / _prefixed(SPECIAL_MAP, filename_prefix)]
        write_json(paths[0], self._config())
        write_json(paths[1], self._special_map())
        names = [str(path) for path in paths]
        if legacy_format is not False:
            names += self.save_vocabulary(folder, filename_prefix)
            further = {t: i for t, i in self.added_tokens_encoder.items() if i >= self.vocab_size}
            if further:
                names.append(str(folder / _prefixed(ADDED, filename_prefix)))
                write_json(Path(names[-1]), further)
        if self.is_fast and legacy_format is not True:
            names.append(str(folder / _prefixed(TOKENIZER, filename_prefix)))
            write_json(Path(names[-1]), tokenizer_json(self.data, self.added_tokens_decoder), sort_keys=False)
        return tuple(names)

    def _config(self: Any) -> dict[str, Any]:
        names = ("model_max_length", "clean_up_tokenization_spaces", "errors", "padding_side", "truncation_side")
        kept = {name: value for name, value in self.init_kwargs.items() if _is_plain(value)}
        kept = {name: value for name, value in kept.items() if name not in (*_NOT_OPTIONS, *SPECIAL_TOKENS)}
        return {
            **kept,
            **{name: getattr(self, name) for name in names},
            **self.special_tokens_map,
            "added_tokens_decoder": {str(i): t.to_dict() for i, t in self.added_tokens_decoder.items()},
            "tokenizer_class": "CLIPTokenizer",
        }

    def _special_map(self: Any) -> dict[str, Any]:
        def plain(token: Any) -> Any:
            if isinstance(token, list):
                return [plain(item) for item in token]
            if isinstance(token, AddedToken):
                return {name: value for name, value in token.to_dict().items() if name != "special"}
            return token

        return {name: plain(token) for name, token in self.special_tokens_map_extended.items()}


def _prefixed(name: str, prefix: str | None) -> str:
    return f"{prefix}-{name}" if prefix else name


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def vocabulary_files(folder: Path, fast: bool) -> dict[str, str]:
    """The constructor's file arguments for a folder: the slow kind prefers vocab.json, the fast kind tokenizer.json.

    Raises FileNotFoundError when the folder holds no vocabulary.
    """
    legacy = {"vocab_file": str(folder / VOCAB), "merges_file": str(folder / MERGES)}
    has_legacy = (folder / VOCAB).is_file() and (folder / MERGES).is_file()
    single = {"tokenizer_file": str(folder / TOKENIZER)}
    has_single = (folder / TOKENIZER).is_file()
    if has_single and (fast or not has_legacy):
        return single
    if has_legacy:
        return legacy
    there = [name for name in (VOCAB, MERGES) if (folder / name).is_file()]
    raise FileNotFoundError(
        f"{folder}: no tokenizer here: wanted {VOCAB} and {MERGES}, or {TOKENIZER}; found {there or 'none of them'}"
    )


def load_data(vocab_file: Any, merges_file: Any, tokenizer_file: Any) -> Any:
    """TokenizerData from what the constructor got; the bundled vocabulary when it got nothing."""
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


def read_options(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments from tokenizer_config.json and, where that predates `added_tokens_decoder`, from
    special_tokens_map.json, added_tokens.json and tokenizer.json, which then win. `given` wins over all."""
    config = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
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
            added = _legacy_added_tokens(folder, options)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    by_content = {token.content: token for token in added.values()}
    for name in SPECIAL_TOKENS[:-1]:
        if options.get(name) is not None:
            options[name] = by_content.get(str(options[name]), options[name])
    return {**options, "added_tokens_decoder": added}


def _token_or_value(value: Any) -> Any:
    """{"__type": "AddedToken", …} as an AddedToken; lists item by item; anything else as it is."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return as_added_token(value)
    return [_token_or_value(item) for item in value] if isinstance(value, list) else value


def _apply_special_map(folder: Path, options: dict[str, Any], given: Mapping[str, Any]) -> None:
    if not (folder / SPECIAL_MAP).is_file():
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


def _legacy_added_tokens(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = {}
    specials = {str(options[name]) for name in SPECIAL_TOKENS[:-1] if options.get(name) is not None}
    specials |= {str(token) for token in options.get("additional_special_tokens") or ()}
    if (folder / ADDED).is_file():
        for content, token_id in read_json_object(folder / ADDED).items():
            if type(token_id) is not int or token_id < 0:
                raise CheckpointError(f"{folder / ADDED}: {content!r}: wanted an id, found {token_id!r}")
            found[token_id] = AddedToken(content, special=content in specials)
    if (folder / TOKENIZER).is_file():
        path = folder / TOKENIZER
        found.update(parse_added_tokens(read_json_object(path).get("added_tokens") or [], f"{path}: added_tokens"))
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
