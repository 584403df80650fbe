"""Common to the slow and the fast tokenizer: v4.37's calls, padding, loading and saving."""

from __future__ import annotations

import contextlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from clip_core.absent import refuse
from clip_core.batch import BatchEncoding
from clip_core.errors import InputError
from clip_core.hub import PushToHub, upload_message
from clip_core.text import persist
from clip_core.text.added_tokens import convert_added_tokens
from clip_core.text.encoder import TextEncoder
from clip_core.text.rows import InputTypeError, Options, as_lists, check_texts, collate, logger, resolve

HUB_NAME = "openai/clip-vit-base-patch32"  # the only checkpoint in v4.37's class attributes


class TokenizerBase(TextEncoder, PushToHub):
    """See `clip_core.text.tokenizer.CLIPTokenizer` and `CLIPTokenizerFast`."""

    slow_tokenizer_class: ClassVar[type | None] = None
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": persist.VOCAB, "merges_file": persist.MERGES}
    pretrained_vocab_files_map: ClassVar[dict[str, dict[str, str]]] = {}
    pretrained_init_configuration: ClassVar[dict[str, dict[str, Any]]] = {}
    max_model_input_sizes: ClassVar[dict[str, int]] = {HUB_NAME: 77}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.pretrained_vocab_files_map = {
            argument: {HUB_NAME: f"https://huggingface.co/{HUB_NAME}/resolve/main/{file}"}
            for argument, file in cls.vocab_files_names.items()
        }

    # ---- calling ----

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Texts to `input_ids` and `attention_mask`.

        Args:
            text: a string, a list of strings, a list of (text, pair), or, with `is_split_into_words`, a list of words
                or a list of such lists.
            text_pair: the second texts, in the same form.
            text_target, text_pair_target: texts whose ids are returned as `labels` (or alone, without `text`).
            add_special_tokens: put the start and end tokens around; bos A eos, or bos A eos eos B eos for a pair.
            padding: True or "longest" (to the longest row), "max_length", False or "do_not_pad" (default).
            truncation: True or "longest_first", "only_first", "only_second", False or "do_not_truncate" (default).
                The end token stays.
            max_length: in tokens, special ones included; default `model_max_length`.
            stride: how many tokens a window shares with the next (see `return_overflowing_tokens`).
            pad_to_multiple_of: round the padded length up.
            return_tensors: "np", "pt", "tf" or "jax"; None: lists. Only that framework is imported.
            return_overflowing_tokens: what truncation cut off: as further rows with `overflow_to_sample_mapping`
                (fast), or as `overflowing_tokens` and `num_truncated_tokens` (slow).
            return_token_type_ids, return_attention_mask, return_special_tokens_mask, return_length: more values;
                the attention mask is there by default.
            return_offsets_mapping: (start, end) in characters per token (fast only).
            verbose: log warnings.
            **kwargs: `padding_side` for this call, `split_special_tokens` (slow only: added tokens are split like any
                text), and v4.37's deprecated `pad_to_max_length` and `truncation_strategy`. Others are a warning in the
                log from the slow kind, a TypeError from the fast one, as in v4.37.

        Returns:
            A mapping: `input_ids` [rows, length] (or [length] for one text without `return_tensors`), …

        Raises:
            InputError (a ValueError): an invalid value; also a TypeError for a wrong type.
        """
        options = resolve(
            self,
            padding,
            truncation,
            kwargs,
            add_special_tokens=add_special_tokens,
            max_length=max_length,
            stride=stride,
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
        )
        if text is None and text_target is None:
            raise InputError("text: wanted `text` or `text_target`, found neither")
        if text is None:
            return self._call("text_target", text_target, text_pair_target, options)
        batch = self._call("text", text, text_pair, options)
        if text_target is not None:
            batch["labels"] = self._call("text_target", text_target, text_pair_target, options)["input_ids"]
        return batch

    def _call(self, name: str, text: Any, pair: Any, options: Options) -> BatchEncoding:
        check_texts(name, text)
        if pair is not None:
            check_texts(f"{name}_pair", pair)
        batched = isinstance(text, (list, tuple))
        if options.is_split_into_words:
            batched = batched and bool(text) and isinstance(text[0], (list, tuple))
        if not batched:
            return self._single(text, pair, options)
        if pair is None:
            return self._batch(text, options)
        if isinstance(pair, str):
            raise InputTypeError(f"{name}_pair: wanted a list as long as {name}, found a string")
        if len(text) != len(pair):
            raise InputError(f"{name}_pair: wanted as many as {name} ({len(text)}), found {len(pair)}")
        return self._batch(list(zip(text, pair, strict=True)), options)

    def encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """One text or pair; arguments as in `__call__`."""
        options = resolve(
            self,
            padding,
            truncation,
            kwargs,
            add_special_tokens=add_special_tokens,
            max_length=max_length,
            stride=stride,
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
        )
        return self._single(text, text_pair, options)

    def batch_encode_plus(
        self,
        batch_text_or_text_pairs: Any,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """A list of texts or pairs; arguments as in `__call__`."""
        if not isinstance(batch_text_or_text_pairs, (list, tuple)):
            found = type(batch_text_or_text_pairs).__name__
            raise InputTypeError(f"batch_text_or_text_pairs: wanted a list or a tuple, found {found}")
        options = resolve(
            self,
            padding,
            truncation,
            kwargs,
            add_special_tokens=add_special_tokens,
            max_length=max_length,
            stride=stride,
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
        )
        return self._batch(batch_text_or_text_pairs, options)

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The `input_ids` alone; arguments as in `__call__`."""
        arguments = (add_special_tokens, padding, truncation, max_length, stride)
        return self.encode_plus(text, text_pair, *arguments, return_tensors=return_tensors, **kwargs)["input_ids"]

    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Model inputs from the ids of one text or pair, without special tokens; arguments as in `__call__`.

        Args:
            prepend_batch_axis: give every tensor a leading axis of 1.
        """
        known = ("padding_side", "pad_to_max_length", "truncation_strategy")
        further = {name: kwargs.pop(name) for name in known if name in kwargs}
        if kwargs:
            logger.warning(f"Keyword arguments {kwargs} not recognized.")
        options = resolve(
            self,
            padding,
            truncation,
            further,
            add_special_tokens=add_special_tokens,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
        )
        return self._prepared(list(ids), None if pair_ids is None else list(pair_ids), options, prepend_batch_axis)

    # ---- padding what was encoded before ----

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
        padding_side: str | None = None,
    ) -> BatchEncoding:
        """Pad encodings to one length.

        Args:
            encoded_inputs: an encoding, a mapping of lists, or a list of encodings; lists, arrays or tensors.
            padding, max_length, pad_to_multiple_of, return_attention_mask, return_tensors: as in `__call__`, but
                padding is to the longest by default. Given tensors, returns tensors of the same framework.

        Returns:
            A new mapping; the argument is unchanged.
        """
        main = self.model_input_names[0]
        encoded, kind = as_lists(collate(encoded_inputs, main), main)
        if self.is_fast:
            self._warn_once(
                verbose,
                "Asking-to-pad-a-fast-tokenizer",
                f"You're using a {type(self).__name__} tokenizer. Please note that with a fast tokenizer, using the "
                "`__call__` method is faster than using a method to encode the text followed by a call to the `pad` "
                "method to get a padded encoding.",
            )
        further = {"padding_side": padding_side}
        options = resolve(
            self,
            padding,
            False,
            further,
            max_length=max_length,
            return_attention_mask=return_attention_mask,
            verbose=verbose,
        )
        if not encoded[main]:
            return BatchEncoding({**encoded, "attention_mask": []} if return_attention_mask else encoded)
        padded = self._padder(options).batch(encoded, options.padding, options.max_length, pad_to_multiple_of)
        return BatchEncoding(padded, None, kind if return_tensors is None else return_tensors)

    # ---- ids to text ----

    @abstractmethod
    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Ids to text."""

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """`decode` of every row."""
        clean = clean_up_tokenization_spaces
        return [
            self.decode(row, skip_special_tokens, clean_up_tokenization_spaces=clean, **kwargs) for row in sequences
        ]

    # ---- files ----

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *init_inputs: Any,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """A tokenizer from a local folder or a hub name.

        Args:
            pretrained_model_name_or_path: a folder with vocab.json and merges.txt, or with tokenizer.json; or a name
                that `clip_core.hub` resolves.
            cache_dir, local_files_only, token, revision: for hub names; `force_download` has no effect.
            subfolder: the folder within it (diffusers: "tokenizer", "tokenizer_2").
            **kwargs: `vocab_file`, `merges_file`, `tokenizer_file` name other files than the folder's; others override
                the files' settings (`pad_token`, `model_max_length`, `padding_side`, …); `use_fast` and the like are
                accepted without effect.

        Raises:
            FileNotFoundError: no such folder, or no tokenizer in it.
            CheckpointError: a damaged file, or another model's tokenizer.
        """
        where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        where |= {"revision": revision, "subfolder": subfolder}
        arguments = persist.constructor_arguments(pretrained_model_name_or_path, cls.is_fast, where, kwargs)
        with persist.named_errors(pretrained_model_name_or_path):
            made = cls(*init_inputs, **arguments)
        made.init_inputs = init_inputs
        return made

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json and merges.txt into an existing folder; returns their paths.

        Raises FileNotFoundError or NotADirectoryError if there is no such folder.
        """
        return persist.save_vocabulary(self.data, save_directory, filename_prefix)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """Write every file that transformers (4.37 to 5) and this package read, in one step; returns their paths.

        Args:
            save_directory: made if missing.
            legacy_format: fast only: False writes tokenizer.json without vocab.json and merges.txt, True those without
                tokenizer.json, None both.
            filename_prefix: put before every name, with a hyphen.
            push_to_hub: upload these files afterwards, through huggingface_hub.
            **kwargs: `repo_id` (default: the folder's name), `commit_message`, `private`, `token`, …: see
                `clip_core.hub.push_to_hub`.

        Raises:
            NotADirectoryError: `save_directory` is a file. InputError: `legacy_format`. TypeError: another keyword.
        """
        if legacy_format is False and not self.is_fast:
            raise InputError("legacy_format: False needs a fast tokenizer (CLIPTokenizerFast)")
        legacy, single = legacy_format is not False, self.is_fast and legacy_format is not True
        vocabulary = persist.vocabulary_content(self.data, self.added_tokens_decoder, legacy, single)
        upload = {"commit_message": upload_message(self), **kwargs} if push_to_hub else kwargs
        return persist.save(
            {**self._settings_files(), **vocabulary}, save_directory, filename_prefix, push_to_hub, upload
        )

    def _settings_files(self) -> dict[str, str]:
        """tokenizer_config.json and special_tokens_map.json, as text."""
        names = ("model_max_length", "clean_up_tokenization_spaces", "errors", "padding_side", "truncation_side")
        config = {
            **persist.kept_options(self.init_kwargs),
            **{name: getattr(self, name) for name in names},
            **self.special_tokens_map,
            "added_tokens_decoder": {str(i): t.to_dict() for i, t in self.added_tokens_decoder.items()},
            "tokenizer_class": "CLIPTokenizer",
        }
        if getattr(self, "_processor_class", None) is not None:
            config["processor_class"] = self._processor_class
        special = self.convert_added_tokens(self.special_tokens_map_extended, save=True, add_type_field=False)
        return {persist.CONFIG: persist.as_json(config), persist.SPECIAL_MAP: persist.as_json(special)}

    _processor_class: str | None = None

    def _set_processor_class(self, processor_class: str) -> None:
        # Saved as "processor_class", by which transformers' AutoProcessor finds the class.
        self._processor_class = processor_class

    @classmethod
    def convert_added_tokens(cls, obj: Any, save: bool = False, add_type_field: bool = True) -> Any:
        """Convert AddedTokens inside dicts and lists to plain dicts (`save`), or such dicts back to AddedTokens.

        Args:
            save: the direction.
            add_type_field: include `"__type": "AddedToken"`, needed for the way back; else without `special`.
        """
        return convert_added_tokens(obj, save, add_type_field)

    # ---- deprecated in v4.37 ----

    @contextlib.contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """No effect: CLIP tokenizes targets like texts. Warns, as in v4.37; use `text_target=`."""
        warnings.warn("as_target_tokenizer is deprecated: use text_target=", stacklevel=3)
        yield

    def prepare_seq2seq_batch(
        self,
        src_texts: list[str],
        tgt_texts: list[str] | None = None,
        max_length: int | None = None,
        max_target_length: int | None = None,
        padding: str = "longest",
        return_tensors: Any = None,
        truncation: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Texts, and targets as `labels`. Warns (FutureWarning), as in v4.37; use a call with `text_target=`."""
        warnings.warn("prepare_seq2seq_batch is deprecated: use text_target=", FutureWarning, stacklevel=2)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("src_lang", "tgt_lang")}
        shared = {"padding": padding, "truncation": truncation, "return_tensors": return_tensors, **kwargs}
        length = self.model_max_length if max_length is None else max_length
        batch = self(src_texts, max_length=length, **shared)
        if tgt_texts is not None:
            length = length if max_target_length is None else max_target_length
            batch["labels"] = self(text_target=tgt_texts, max_length=length, **shared)["input_ids"]
        return batch


refuse(TokenizerBase, "tokenizer")
