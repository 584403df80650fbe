"""Texts to batches, for the slow and the fast tokenizer, after a call's arguments are resolved."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clip_core.batch import BatchEncoding
from clip_core.errors import InputError
from clip_core.text.bpe import ID_SIZE, BytePairEncoder, QuickEncoder, cut, pack, pad_packed, unpack
from clip_core.text.files import TokenizerData
from clip_core.text.rows import (
    Options,
    Padder,
    check_overflow,
    checked_limit,
    checked_names,
    checked_side,
    checked_text,
    logger,
    padding_length,
    truncate,
)
from clip_core.text.vocabulary import Vocabulary


class TextEncoder(Vocabulary):
    """A vocabulary that encodes texts. `TokenizerBase` adds v4.37's methods."""

    is_fast = False
    # Defaults, which a subclass may state as v4.37's subclasses do; an instance has its own.
    padding_side = "right"
    truncation_side = "right"
    model_input_names: Any = ["input_ids", "attention_mask"]

    def __init__(self, data: TokenizerData, special_tokens: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        options = dict(options)
        self.init_kwargs = {**special_tokens, **options}
        self.init_inputs: tuple[Any, ...] = ()
        self.data = data
        self.name_or_path = str(options.pop("name_or_path", ""))
        limit = options.pop("model_max_length", options.pop("max_len", None))
        self.model_max_length = checked_limit("model_max_length", limit)
        self.padding_side = checked_side("padding_side", options.pop("padding_side", self.padding_side))
        self.truncation_side = checked_side("truncation_side", options.pop("truncation_side", self.truncation_side))
        names = options.pop("model_input_names", self.model_input_names)
        self.model_input_names = checked_names("model_input_names", names)
        self.clean_up_tokenization_spaces = options.pop("clean_up_tokenization_spaces", True)
        self.split_special_tokens = options.pop("split_special_tokens", False)
        self.verbose = bool(options.pop("verbose", True))
        self.errors = checked_text("errors", options.pop("errors", "replace"))
        self._init_special_tokens({**options, **special_tokens})
        self.engine = BytePairEncoder(
            data.vocab, data.merges, data.end_of_word, data.unk_token, data.fuse_unk, data.whole_words
        )
        # Warnings already given; programs set keys of v4.37 here to silence them.
        self.deprecation_warnings: dict[str, bool] = {}
        self._forget()

    def _forget(self) -> None:
        """Drop everything derived from the tokens; called when they change."""
        self._quick = QuickEncoder(self._chunk_ids, self._text_ids, self._is_simple)
        self._probes = self.added.probes()

    def _holds_no_added_token(self, text: str) -> bool:
        return self._probes is not None and not any(map(text.__contains__, self._probes))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_quick", "_by_id")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __deepcopy__(self, memo: dict) -> TextEncoder:
        twin = self.__class__.__new__(self.__class__)
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def __repr__(self) -> str:
        added = "\n\t".join(f"{i}: {token!r}," for i, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}), "
            f"added_tokens_decoder={{\n\t{added}\n}}"
        )

    def _warn_once(self, verbose: bool, key: str, message: str) -> None:
        if verbose and self.verbose and not self.deprecation_warnings.get(key):
            self.deprecation_warnings[key] = True
            logger.warning(message)

    # ---- what the two kinds do differently ----

    @abstractmethod
    def _text_ids(self, text: str) -> list[int]:
        """The ids of one text with its added tokens, without special tokens around."""

    @abstractmethod
    def _chunk_ids(self, chunk: str) -> list[int]:
        """The ids of text without white space or added tokens."""

    @abstractmethod
    def _is_simple(self, text: str) -> bool:
        """Whether the text's ids are those of its chunks between spaces."""

    @abstractmethod
    def _surely_kept(self, options: Options) -> int | None:
        """The number of tokens of a single text that truncation keeps; None: all."""

    @abstractmethod
    def _encode_one(self, text: Any, pair: Any, options: Options) -> BatchEncoding:
        """One text, pair, or list of words."""

    @abstractmethod
    def _encode_many(self, items: Sequence[Any], options: Options) -> BatchEncoding:
        """A batch of texts, pairs, or lists of words."""

    @abstractmethod
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a single text."""

    @abstractmethod
    def _unknown_keywords(self, names: Mapping[str, Any]) -> None:
        """Handle unknown keywords of a call."""

    def _later(self, texts: Sequence[str], options: Options) -> Callable | None:
        """A function that makes a batch's Encodings when first needed; None for the slow kind."""
        return None

    def _may_hurry(self) -> bool:
        """Whether many texts may be encoded chunk by chunk: no subclass overrides a step."""
        return True

    # ---- texts to batches ----

    def _batch(self, items: Sequence[Any], options: Options) -> BatchEncoding:
        if not items:
            raise InputError("text: wanted at least one text, found an empty list")
        if self._asks_for_more(options) or not all(map(str.__instancecheck__, items)):
            return self._encode_many(items, options)
        return self._encode_texts(items, options)

    def _single(self, text: Any, pair: Any, options: Options) -> BatchEncoding:
        if pair is not None or not isinstance(text, str) or self._asks_for_more(options):
            return self._encode_one(text, pair, options)
        if not options.add_special_tokens:
            return self._encode_one(text, pair, options)  # rows may be empty, which the slow kind doesn't pad
        batch = self._encode_texts([text], options)
        return batch if options.return_tensors is not None else batch.first_row()

    def _asks_for_more(self, options: Options) -> bool:
        """Whether a call needs more than `_encode_texts` returns."""
        return (
            not self._may_hurry()
            or options.return_overflowing_tokens
            or options.return_special_tokens_mask
            or options.return_length
            or options.return_offsets_mapping
            or options.is_split_into_words
            or options.split_special_tokens
            or (options.truncates and (options.stride > 0 or options.truncation == "only_second"))
            or self._wants(options, "token_type_ids")
        )

    def _wants(self, options: Options, name: str) -> bool:
        wanted = getattr(options, f"return_{name}")
        return name in self.model_input_names if wanted is None else bool(wanted)

    def _padder(self, options: Options) -> Padder:
        main = self.model_input_names[0]
        fillings = {
            main: self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        return Padder(main, fillings, options.padding_side, self._wants(options, "attention_mask"))

    def _encode_texts(self, texts: Sequence[str], options: Options) -> BatchEncoding:
        """`input_ids` and `attention_mask` of a list of strings."""
        rows = self._quick.rows(texts)
        keep = self._surely_kept(options)
        if keep is not None:
            rows = [cut(row, keep, self.truncation_side) for row in rows]
        if options.add_special_tokens:
            before, after = map(pack, self._around())
            rows = [before + row + after for row in rows]
        lengths = [len(row) // ID_SIZE for row in rows]
        self._warn_if_long(max(lengths), options)
        length = padding_length(lengths, options.padding, options.max_length, options.pad_to_multiple_of)
        data: dict[str, Any] = {}
        if options.return_tensors is not None and length is not None and max(lengths) <= length:
            data["input_ids"], mask = pad_packed(rows, length, self.pad_token_id, options.padding_side)
            if self._wants(options, "attention_mask"):
                data["attention_mask"] = mask
        else:
            data = self._padder(options).rows({"input_ids": unpack(rows)}, length)
        return BatchEncoding(data, self._later(texts, options), options.return_tensors)

    def _prepared(self, ids: list[int], pair: list[int] | None, options: Options, prepend: bool) -> BatchEncoding:
        row = self._row(ids, pair, options)
        if options.pads or self._wants(options, "attention_mask"):
            row = self._pad_rows(row, options)
        if options.return_length:
            row["length"] = len(row["input_ids"])
        return BatchEncoding(row, None, options.return_tensors, prepend_batch_axis=prepend)

    def _pad_rows(self, encoded: dict[str, Any], options: Options) -> dict[str, Any]:
        padder = self._padder(options)
        return padder.batch(encoded, options.padding, options.max_length, options.pad_to_multiple_of)

    def _row(self, ids: list[int], pair: list[int] | None, options: Options) -> dict[str, Any]:
        """One text or pair, truncated, with its special tokens, before padding."""
        check_overflow(pair, options)
        special = options.add_special_tokens
        around = self.num_special_tokens_to_add(pair is not None) if special else 0
        total = len(ids) + len(pair or ()) + around
        overflow: list[int] = []
        excess = total - options.max_length if options.truncates and options.max_length else 0
        if excess > 0:
            ids, pair, overflow = self.truncate_sequences(ids, pair, excess, options.truncation, options.stride)
        row: dict[str, Any] = {}
        if options.return_overflowing_tokens:
            row["overflowing_tokens"] = overflow
            row["num_truncated_tokens"] = total - options.max_length  # type: ignore[operator]
        row["input_ids"] = self.build_inputs_with_special_tokens(ids, pair) if special else [*ids, *(pair or ())]
        length = len(row["input_ids"])
        if self._wants(options, "token_type_ids"):
            row["token_type_ids"] = [0] * length
        if options.return_special_tokens_mask:
            row["special_tokens_mask"] = self.get_special_tokens_mask(ids, pair) if special else [0] * length
        self._warn_if_long(length, options)
        return row

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Cut `num_tokens_to_remove` tokens off one text or a pair.

        Args:
            truncation_strategy: "longest_first", "only_first", "only_second".
            stride: the number of kept tokens that the overflow repeats.

        Returns:
            (ids, pair_ids, overflowing tokens; none for a pair truncated by "longest_first"). A text with too few
            tokens stays whole, and an error is logged.
        """
        return truncate(ids, pair_ids, num_tokens_to_remove, truncation_strategy, stride, self.truncation_side)

    def _warn_if_long(self, length: int, options: Options) -> None:
        if options.max_length is None and length > self.model_max_length:
            self._warn_once(
                options.verbose,
                "sequence-length-is-longer-than-the-specified-maximum",
                f"Token indices sequence length is longer than the specified maximum sequence length for this model "
                f"({length} > {self.model_max_length}): the model will reject it; truncate with truncation=True.",
            )

    # ---- limits and cleaning ----

    @property
    def max_len_single_sentence(self) -> int:
        """The most tokens of a single text, special tokens excluded."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """The most tokens of a pair, special tokens excluded."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _cleaned(self, text: str, clean: bool | None) -> str:
        wanted = self.clean_up_tokenization_spaces if clean is None else clean
        return self.clean_up_tokenization(text) if wanted else text

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Remove the spaces that decoding leaves before English punctuation and contractions."""
        for mark in (".", "?", "!", ","):
            out_string = out_string.replace(f" {mark}", mark)
        out_string = out_string.replace(" ' ", "'")
        for ending in ("n't", "'m", "'s", "'ve", "'re"):
            out_string = out_string.replace(f" {ending}", ending)
        return out_string
