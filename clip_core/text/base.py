"""What the slow and the fast tokenizer have in common: arguments, batches, decoding, attributes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from clip_core.errors import InputError
from clip_core.text.added_tokens import AddedTokens
from clip_core.text.batch import TextBatch
from clip_core.text.bpe import BytePairEncoder
from clip_core.text.files import TokenizerData
from clip_core.text.options import (
    InputTypeError,
    Options,
    checked_limit,
    checked_names,
    checked_side,
    checked_text,
    logger,
    resolve,
)
from clip_core.text.padding import as_lists, collate, pad_batch, to_list
from clip_core.text.persist import Persistent
from clip_core.text.quick import EncodesTexts
from clip_core.text.rows import PreparesRows
from clip_core.text.special_tokens import SpecialTokens


class TokenizerBase(EncodesTexts, PreparesRows, SpecialTokens, Persistent, ABC):
    """See `clip_core.tokenizer.CLIPTokenizer` and `CLIPTokenizerFast`."""

    is_fast = False
    added: AddedTokens

    def __init__(self, data: TokenizerData, special_tokens: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        options = dict(options)
        self.init_kwargs = {**special_tokens, **options}
        self.data = data
        self.name_or_path = str(options.pop("name_or_path", ""))
        limit = options.pop("model_max_length", options.pop("max_len", None))
        self.model_max_length = checked_limit("model_max_length", limit)
        self.padding_side = checked_side("padding_side", options.pop("padding_side", "right"))
        self.truncation_side = checked_side("truncation_side", options.pop("truncation_side", "right"))
        names = options.pop("model_input_names", ("input_ids", "attention_mask"))
        self.model_input_names = checked_names("model_input_names", names)
        self.clean_up_tokenization_spaces = options.pop("clean_up_tokenization_spaces", True)
        self.split_special_tokens = options.pop("split_special_tokens", False)
        self.errors = checked_text("errors", options.pop("errors", "replace"))
        self._init_special_tokens({**options, **special_tokens})
        self.engine = BytePairEncoder(
            data.vocab, data.merges, data.end_of_word, data.unk_token, data.fuse_unk, data.whole_words
        )
        self._warned: set[str] = set()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_chunks"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        added = "\n\t".join(f"{i}: {token!r}," for i, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}), "
            f"added_tokens_decoder={{\n\t{added}\n}}"
        )

    def _warn_once(self, verbose: bool, message: str, key: str | None = None) -> None:
        if verbose and (key or message) not in self._warned:
            self._warned.add(key or message)
            logger.warning(message)

    # ---- what the two kinds do differently ----

    @abstractmethod
    def _text_ids(self, text: str) -> list[int]:
        """The ids of one text, added tokens cut out, no special tokens around."""

    @abstractmethod
    def _chunk_ids(self, chunk: str) -> list[int]:
        """The ids of text without white space or added tokens."""

    @abstractmethod
    def _is_simple(self, text: str) -> bool:
        """Whether the text's ids are those of its chunks between spaces."""

    @abstractmethod
    def _surely_kept(self, options: Options) -> int | None:
        """How many tokens of a single text truncation leaves; None: all."""

    @abstractmethod
    def _encode_one(self, text: Any, pair: Any, options: Options) -> TextBatch:
        """One text, pair, or list of words."""

    @abstractmethod
    def _encode_many(self, items: Sequence[Any], options: Options) -> TextBatch:
        """A batch of texts, pairs, or lists of words."""

    @abstractmethod
    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int: ...

    @abstractmethod
    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str: ...

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
    ) -> TextBatch:
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
            **kwargs: `padding_side` for this call; others are ignored.

        Returns:
            A mapping: `input_ids` [rows, length] (or [length] for one text without `return_tensors`), …

        Raises:
            InputError (a ValueError): a value that can't be; also a TypeError where the type is wrong.
        """
        options = resolve(
            self,
            padding,
            truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=kwargs.get("padding_side"),
            add_special_tokens=add_special_tokens,
            is_split_into_words=is_split_into_words,
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

    def _call(self, name: str, text: Any, pair: Any, options: Options) -> TextBatch:
        _check_text(name, text)
        if pair is not None:
            _check_text(f"{name}_pair", pair)
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

    def encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> TextBatch:
        """One text or pair; arguments as in `__call__`."""
        return self._single(text, text_pair, resolve(self, **_known(kwargs)))

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **kwargs: Any) -> TextBatch:
        """A list of texts or pairs; arguments as in `__call__`."""
        if not isinstance(batch_text_or_text_pairs, (list, tuple)):
            found = type(batch_text_or_text_pairs).__name__
            raise InputTypeError(f"batch_text_or_text_pairs: wanted a list or a tuple, found {found}")
        return self._batch(batch_text_or_text_pairs, resolve(self, **_known(kwargs)))

    def encode(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        """The ids of one text or pair; arguments as in `__call__`."""
        return self.encode_plus(text, text_pair, **kwargs)["input_ids"]

    def _batch(self, items: Sequence[Any], options: Options) -> TextBatch:
        if not items:
            raise InputError("text: wanted at least one text, found an empty list")
        if self._asks_for_more(options) or not all(map(str.__instancecheck__, items)):
            return self._encode_many(items, options)
        return self._encode_texts(items, options)

    def _single(self, text: Any, pair: Any, options: Options) -> TextBatch:
        if pair is not None or not isinstance(text, str) or self._asks_for_more(options):
            return self._encode_one(text, pair, options)
        if not options.add_special_tokens:
            return self._encode_one(text, pair, options)  # may be empty, which the slow kind doesn't pad
        batch = self._encode_texts([text], options)
        return batch if options.return_tensors is not None else batch.first_row()

    def _asks_for_more(self, options: Options) -> bool:
        """Whether a call needs more than `_encode_texts` gives."""
        return (
            options.return_overflowing_tokens
            or options.return_special_tokens_mask
            or options.return_length
            or options.return_offsets_mapping
            or options.is_split_into_words
            or self.split_special_tokens
            or (options.truncates and (options.stride > 0 or options.truncation == "only_second"))
            or self._wants(options, "token_type_ids")
        )

    def _wants(self, options: Options, name: str) -> bool:
        wanted = getattr(options, f"return_{name}")
        return name in self.model_input_names if wanted is None else bool(wanted)

    # ---- what batches are made with ----

    @abstractmethod
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a single text."""

    def _fillings(self) -> dict[str, int]:
        return {
            "input_ids": self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }

    def _warn_if_long(self, length: int, options: Options) -> None:
        if options.max_length is None and length > self.model_max_length:
            self._warn_once(
                options.verbose,
                f"Token indices sequence length is longer than the specified maximum sequence length for this model "
                f"({length} > {self.model_max_length}): the model will reject it; truncate with truncation=True.",
                key="too long",
            )

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
    ) -> TextBatch:
        """Fill encodings up to one length.

        Args:
            encoded_inputs: an encoding, a mapping of lists, or a list of encodings; lists, arrays or tensors.
            padding, max_length, pad_to_multiple_of, return_attention_mask, return_tensors: as in `__call__`, padding
                to the longest by default. Tensors in give tensors of their kind out.

        Returns:
            A new mapping; the argument stays as it was.
        """
        encoded, kind = as_lists(collate(encoded_inputs))
        options = resolve(
            self,
            padding,
            False,
            max_length=max_length,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            verbose=verbose,
        )
        if not encoded["input_ids"]:
            return TextBatch({**encoded, "attention_mask": []} if return_attention_mask else encoded)  # nothing to pad
        padded = pad_batch(
            encoded,
            options.padding,
            options.max_length,
            pad_to_multiple_of,
            options.padding_side,
            self._fillings(),
            self._wants(options, "attention_mask"),
        )
        return TextBatch(padded, tensor_type=kind if return_tensors is None else return_tensors)

    # ---- ids and tokens ----

    @property
    def vocab_size(self) -> int:
        """Size of the learned vocabulary, added tokens not counted."""
        return len(self.data.vocab)

    def __len__(self) -> int:
        return len(self.data.vocab) + sum(content not in self.data.vocab for content in self.added.ids)

    def get_vocab(self) -> dict[str, int]:
        """token -> id, added tokens included."""
        return {**self.data.vocab, **self.added.ids}

    @property
    def vocab(self) -> dict[str, int]:
        """The same."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """id -> AddedToken, in the order of the ids."""
        return dict(sorted(self.added.by_id.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """content -> id of the added tokens, in the order of the ids."""
        return self.added.sorted_ids()

    def get_added_vocab(self) -> dict[str, int]:
        """content -> id of the added tokens."""
        return self.added.sorted_ids()

    @property
    def _tokens_by_id(self) -> dict[int, str]:
        found = self.__dict__.get("_by_id")
        if found is None:
            found = self.__dict__["_by_id"] = {i: token for token, i in self.data.vocab.items()}
        return found

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """A token's id, or a list's; the unknown token's id for what is not in the vocabulary; None for None."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            found = self.added.ids.get(tokens, self.data.vocab.get(tokens))
            if found is None and self.unk_token is not None and tokens != self.unk_token:
                return self.convert_tokens_to_ids(self.unk_token)
            return found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """An id's token, or a list's; None for an id outside the vocabulary."""
        ids, _ = to_list(ids)
        if not isinstance(ids, list):
            return self._id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._id_to_token(i) for i in ids if i not in skipped]

    def _id_to_token(self, token_id: Any) -> str | None:
        try:
            token_id = token_id.__index__()
        except AttributeError:
            raise InputTypeError(f"ids: wanted integers, found {type(token_id).__name__} ({token_id!r})") from None
        added = self.added.by_id.get(token_id)
        return added.content if added is not None else self._tokens_by_id.get(token_id)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens, **kwargs) for row in sequences]

    def _cleaned(self, text: str, clean: bool | None) -> str:
        wanted = self.clean_up_tokenization_spaces if clean is None else clean
        return self.clean_up_tokenization(text) if wanted else text

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Undo the spaces that tokenizing put before English punctuation and contractions."""
        for mark in (".", "?", "!", ","):
            out_string = out_string.replace(f" {mark}", mark)
        out_string = out_string.replace(" ' ", "'")
        for ending in ("n't", "'m", "'s", "'ve", "'re"):
            out_string = out_string.replace(f" {ending}", ending)
        return out_string

    # ---- special tokens around texts ----

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """bos A eos, or bos A eos eos B eos for a pair."""
        bos, eos = self._ends()
        first = [bos, *token_ids_0, eos]
        return first if token_ids_1 is None else [*first, eos, *token_ids_1, eos]

    def _ends(self) -> tuple[int, int]:
        """The ids of bos and eos; InputError when there is none."""
        for name in ("bos_token", "eos_token"):
            if getattr(self, f"{name}_id") is None:
                raise InputError(f"{name}: not set, or not in the vocabulary: {getattr(self, name)!r}")
        return self.bos_token_id, self.eos_token_id

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Zeros, as many as `build_inputs_with_special_tokens` gives ids: CLIP has no segments."""
        return [0] * (len(token_ids_0) + 2 + (0 if token_ids_1 is None else len(token_ids_1) + 2))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, else 0.

        Args:
            already_has_special_tokens: `token_ids_0` has them already: 1 for every special id in it.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise InputError("token_ids_1: ids that already have special tokens come in token_ids_0 alone")
            special = set(self.all_special_ids)
            return [int(i in special) for i in token_ids_0]
        first = [1, *[0] * len(token_ids_0), 1]
        return first if token_ids_1 is None else [*first, 1, *[0] * len(token_ids_1), 1]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens come with a text, or with a pair."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens that fit in a single text beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens that fit in a pair beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def __deepcopy__(self, memo: dict) -> TokenizerBase:
        twin = self.__class__.__new__(self.__class__)
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _check_text(name: str, value: Any) -> None:
    """Raise when `value` is no string, list of strings, or list of lists of strings."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    inner = first[0] if isinstance(first, (list, tuple)) and first else ""
    if not isinstance(value, (str, list, tuple)) or not isinstance(first, (str, list, tuple, type(None))):
        found = type(value).__name__ if not isinstance(value, (list, tuple)) else f"a list of {type(first).__name__}"
        raise InputTypeError(f"{name}: wanted a string or a list of strings, found {found}")
    if isinstance(value, (list, tuple)) and value and first is None:
        raise InputTypeError(f"{name}: wanted a string or a list of strings, found a list with None in it")
    if not isinstance(inner, str):
        raise InputTypeError(f"{name}: wanted lists of strings, found a list of {type(inner).__name__}")


def _known(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of keyword arguments, those that `resolve` knows."""
    names = {*Options.__dataclass_fields__}
    return {name: value for name, value in kwargs.items() if name in names}
