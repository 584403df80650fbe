"""The fast tokenizer: the steps of transformers 4.37.2's CLIPTokenizerFast and the `tokenizers` library, in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clip_core.batch import BatchEncoding, Encoding
from clip_core.errors import InputError
from clip_core.text.added_tokens import AddedToken, FastAddedTokens, as_added_token
from clip_core.text.base import TokenizerBase
from clip_core.text.bpe import CHAR_TO_BYTE, ascii_pieces
from clip_core.text.files import (
    BOS,
    EOS,
    check_merges,
    read_tokenizer_object,
    roberta_processing,
    templates,
    tokenizer_json,
    tokenizers_library,
    train_vocabulary,
)
from clip_core.text.normalize import (
    GPT2_PIECES,
    INFORMATION_SEPARATORS,
    PIECES,
    SPECIALS,
    aligned_normalize,
    fast_normalize,
    fast_pattern,
    replace_surrogates,
    span,
)
from clip_core.text.persist import MERGES, TOKENIZER, VOCAB, load_data
from clip_core.text.rows import InputTypeError, Options, padding_length, to_list, truncate_pair
from clip_core.text.slow import BUNDLED_LENGTH, CLIPTokenizer


class CLIPTokenizerFast(TokenizerBase):
    """The fast tokenizer's ids: NFC, white space, lower case, pieces, BPE; with offsets and word ids.

    Args:
        vocab_file, merges_file: vocab.json and merges.txt. Without any file: OpenAI's vocabulary, bundled.
        tokenizer_file: tokenizer.json instead; merges as strings or pairs.
        unk_token, bos_token, eos_token, pad_token: special tokens.
        **kwargs: as for `CLIPTokenizer`; `tokenizer_object`, a Tokenizer of the `tokenizers` library, instead of files.

    Raises:
        CheckpointError: a damaged file, or one of another kind of tokenizer.
    """

    is_fast = True
    slow_tokenizer_class = CLIPTokenizer
    vocab_files_names = {"vocab_file": VOCAB, "merges_file": MERGES, "tokenizer_file": TOKENIZER}
    can_save_slow_tokenizer = True
    added: FastAddedTokens

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        merges_file: str | os.PathLike | None = None,
        tokenizer_file: str | os.PathLike | None = None,
        unk_token: Any = EOS,
        bos_token: Any = BOS,
        eos_token: Any = EOS,
        pad_token: Any = EOS,
        **kwargs: Any,
    ) -> None:
        self.added = FastAddedTokens()
        given_object = kwargs.pop("tokenizer_object", None)
        if given_object is not None:
            data = read_tokenizer_object(given_object)
        else:
            data = load_data(vocab_file, merges_file, tokenizer_file)
        special = {"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        if data.whole_words:
            kwargs.setdefault("model_max_length", BUNDLED_LENGTH)
        given = {int(i): as_added_token(token) for i, token in kwargs.pop("added_tokens_decoder", {}).items()}
        if data.added_tokens is None:
            if not data.whole_words:
                check_merges(data, str(merges_file))
            # Without tokenizer.json the library converts a slow tokenizer, whose special tokens are normalised.
            special |= {name: _normalized(special[name]) for name in ("unk_token", "bos_token", "eos_token")}
            data.unk_token = None if unk_token is None else str(unk_token)
        else:
            self.added.add(data.added_tokens.values(), data.vocab)
        super().__init__(data, special, kwargs)
        self._add_missing(given)
        if data.added_tokens is None:
            bos_id, eos_id = self._ends()
            data.post_processor = roberta_processing((self.bos_token, bos_id), (self.eos_token, eos_id))
        self._templates = templates(data.post_processor)

    def _add_missing(self, given: dict[int, AddedToken]) -> None:
        """Add the configuration's tokens that tokenizer.json lacks, neighbouring special ones in one call."""
        tokens: list[Any] = [token for _, token in sorted(given.items())]
        known = {*self.added.ids, *map(str, tokens)}
        for token in self.all_special_tokens_extended:
            if token not in tokens and (isinstance(token, AddedToken) or token not in known):
                tokens.append(token)
        special = set(self.all_special_tokens)
        for token in tokens:
            self._add_tokens([token], str(token) in special or getattr(token, "special", False))
        for name, token in self.special_tokens_map_extended.items():
            if isinstance(token, AddedToken):  # adding it made it special
                setattr(self, name, AddedToken(**{**token.to_dict(), "special": True}))

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        count = self.added.add([as_added_token(token, special=special_tokens) for token in new_tokens], self.data.vocab)
        self._forget()
        return count

    # ---- the `tokenizers` library ----

    @property
    def backend_tokenizer(self) -> Any:
        """This tokenizer as the `tokenizers` library's Tokenizer (extra `tokenizers`).

        It is rebuilt when tokens are added; changing it does not change this tokenizer.
        """
        if self._backend is None:
            self._backend = tokenizers_library().Tokenizer.from_str(json.dumps(self._definition()))
        return self._backend

    _backend: Any = None

    @property
    def decoder(self) -> Any:
        """The backend's decoder."""
        return self.backend_tokenizer.decoder

    def _definition(self) -> dict[str, Any]:
        return tokenizer_json(self.data, self.added_tokens_decoder)

    def _forget(self) -> None:
        super()._forget()
        self._backend = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_backend": None}

    def set_truncation_and_padding(
        self,
        padding_strategy: Any,
        truncation_strategy: Any,
        max_length: int,
        stride: int,
        pad_to_multiple_of: int | None,
    ) -> None:
        """Set the backend's own truncation and padding; calls of this tokenizer use their own arguments."""
        tokenizer = self.backend_tokenizer
        cuts, pads = (getattr(value, "value", value) for value in (truncation_strategy, padding_strategy))
        if cuts == "do_not_truncate":
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(max_length, stride=stride, strategy=cuts, direction=self.truncation_side)
        if pads == "do_not_pad":
            tokenizer.no_padding()
            return
        tokenizer.enable_padding(
            length=max_length if pads == "max_length" else None,
            direction=self.padding_side,
            pad_id=self.pad_token_id,
            pad_token=self.pad_token,
            pad_type_id=self.pad_token_type_id,
            pad_to_multiple_of=pad_to_multiple_of,
        )

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[Any] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> CLIPTokenizerFast:
        """A tokenizer with the same steps and a vocabulary trained on other texts (extra `tokenizers`).

        Args:
            text_iterator: strings, or lists of them.
            vocab_size: of the new vocabulary, special tokens included.
            length: how many texts there are, for the progress bar.
            new_special_tokens: further ones.
            special_tokens_map: old special token -> new one.
            **kwargs: to the library's BpeTrainer (`min_frequency`, `show_progress`, …).
        """
        renamed = dict(special_tokens_map or {})
        old = [token for token in self.added_tokens_decoder.values() if token.special]
        tokens = [t.renamed(renamed.get(t.content, t.content)) for t in old]
        tokens += [as_added_token(token) for token in new_special_tokens or ()]
        trained = train_vocabulary(self._definition(), text_iterator, vocab_size, length, tokens, renamed, kwargs)
        options = dict(self.init_kwargs)
        for name, token in self.special_tokens_map_extended.items():
            if name != "additional_special_tokens":
                new = renamed.get(str(token), str(token))
                options[name] = token.renamed(new).with_special(True) if isinstance(token, AddedToken) else new
        additional = [*(self.additional_special_tokens or ()), *(new_special_tokens or ())]
        if additional:
            options["additional_special_tokens"] = additional
        return type(self)(tokenizer_object=trained, **options)

    def _unknown_keywords(self, names: Mapping[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__}: a call got an unexpected keyword argument {next(iter(names))!r}")

    # ---- text to ids ----

    def _text_ids(self, text: str) -> list[int]:
        text = replace_surrogates(text)
        ids: list[int] = []
        for raw_id, start, end in self.added.matches(text, normalized=False):
            if raw_id is not None:
                ids.append(raw_id)
                continue
            part = fast_normalize(text[start:end])
            for token_id, first, last in self.added.matches(part, normalized=True):
                ids += [token_id] if token_id is not None else self._piece_ids(part[first:last])
        return ids

    def _piece_ids(self, normalized: str) -> list[int]:
        return self.engine.encode_all(normalized[start:end] for start, end in self._pieces(normalized))

    def _pieces(self, normalized: str) -> Iterator[tuple[int, int]]:
        """The places of the pieces in a normalised text."""
        for match in fast_pattern(self.data.pattern).finditer(normalized):
            if self.data.pattern == PIECES:  # GPT-2's pattern, the next step, would find the same pieces
                yield match.span()
            else:
                yield from (again.span() for again in fast_pattern(GPT2_PIECES).finditer(normalized, *match.span()))

    def _chunk_ids(self, chunk: str) -> list[int]:
        if chunk.isascii() and self.data.pattern in (PIECES, SPECIALS + PIECES):
            return self.engine.encode_all(ascii_pieces(chunk.lower()))
        return self._piece_ids(fast_normalize(replace_surrogates(chunk)))

    def _is_simple(self, text: str) -> bool:
        return self._holds_no_added_token(text) and (text.isprintable() or INFORMATION_SEPARATORS.search(text) is None)

    # ---- text to Encodings ----

    def _text_encoding(self, text: str, word: int | None = None) -> Encoding:
        """The Encoding of one text; `word`: its index in a list of words."""
        text = replace_surrogates(text)
        rows: list[tuple[int, str, int, tuple[int, int]]] = []
        count = 0
        for raw_id, start, end in self.added.matches(text, normalized=False):
            if raw_id is not None:
                rows.append((raw_id, text[start:end], count, (start, end)))
                count += 1
                continue
            part, origins = aligned_normalize(text[start:end], start)
            for token_id, first, last in self.added.matches(part, normalized=True):
                if token_id is not None:
                    rows.append((token_id, part[first:last], count, span(origins, first, last - 1)))
                    count += 1
                    continue
                for begin, stop in self._pieces(part[first:last]):
                    rows += self._piece_rows(part, first + begin, first + stop, origins, count)
                    count += 1
        ids, tokens, words, offsets = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
        return Encoding.of(ids, tokens, words if word is None else [word] * len(ids), offsets, 0)

    def _piece_rows(
        self, text: str, start: int, end: int, origins: list[int], word: int
    ) -> Iterator[tuple[int, str, int, tuple[int, int]]]:
        """(id, token, word, offsets) of the tokens of one piece."""
        of_byte = [i for i in range(start, end) for _ in text[i].encode("utf-8")]
        position = 0
        for token, token_id, length in self.engine.tokens(text[start:end]):
            yield token_id, token, word, span(origins, of_byte[position], of_byte[position + length - 1])
            position += length

    def _encoding(self, item: Any, pair: Any, options: Options) -> Encoding:
        """One text or pair with its special tokens, truncated, before padding."""
        first = self._sequence(item, options, 0)
        second = None if pair is None else self._sequence(pair, options, 1)
        single, paired, ids = self._templates
        template = single if second is None else paired
        if options.truncates:
            first, second = self._truncated(first, second, len(template), options)
            if second is not None:
                second = second.without_type(windows=options.add_special_tokens)
        whole = Encoding()
        for place in template:
            if place == "A":
                whole = whole + first
            elif place == "B":
                whole = whole + second  # type: ignore[operator]
            elif options.add_special_tokens:
                whole = whole + Encoding.special(place, ids[place])
        return whole

    def _sequence(self, item: Any, options: Options, index: int) -> Encoding:
        if options.is_split_into_words:
            if not isinstance(item, (list, tuple)) or not all(isinstance(word, str) for word in item):
                raise InputTypeError(f"text: wanted a list of words, found {item!r:.80}")
            encoding = Encoding()
            for i, word in enumerate(item):
                encoding = encoding + self._text_encoding(word, i)
        elif isinstance(item, str):
            encoding = self._text_encoding(item)
        else:
            raise InputTypeError(f"text: wanted a string, found {type(item).__name__}")
        encoding.sequence_ids = [index] * len(encoding)
        # The library sets type ids here and resets them later, except in windows without special tokens.
        encoding.type_ids = [index if options.truncates else 0] * len(encoding)
        return encoding

    def _truncated(
        self, first: Encoding, second: Encoding | None, places: int, options: Options
    ) -> tuple[Encoding, Encoding | None]:
        room = options.max_length - self.num_special_tokens_to_add()  # type: ignore[operator]
        if 0 <= room < options.stride:
            raise InputError(f"stride: wanted at most the {room} tokens beside special ones, found {options.stride}")
        around = places - (1 if second is None else 2) if options.add_special_tokens else 0
        length = options.max_length - around  # type: ignore[operator]
        if length < 0:
            return first, second  # not even the special tokens fit: nothing is truncated
        return truncate_pair(first, second, length, options.truncation, options.stride, self.truncation_side)

    # ---- batches ----

    def _encode_one(self, text: Any, pair: Any, options: Options) -> BatchEncoding:
        if isinstance(text, (list, tuple)) and not options.is_split_into_words and pair is None and len(text) == 2:
            text, pair = text
        batch = self._encode_items([(text, pair or None)], options)
        if options.return_tensors is None and not options.return_overflowing_tokens:
            rows = {n: v[0] if v and isinstance(v[0], list) else v for n, v in batch.items()}
            return BatchEncoding(rows, batch._make_encodings)
        return batch

    def _encode_many(self, items: Sequence[Any], options: Options) -> BatchEncoding:
        return self._encode_items([self._split(item, options.is_split_into_words) for item in items], options)

    def _split(self, item: Any, words: bool) -> tuple[Any, Any]:
        """An item of a batch as (text, pair or None)."""
        is_list = isinstance(item, (list, tuple))
        if words and is_list and all(isinstance(word, str) for word in item):
            return item, None
        if is_list and len(item) != 2:
            raise InputTypeError(f"text: wanted a text or a pair of texts, found {len(item)} items: {item!r:.80}")
        return (item[0], item[1]) if is_list else (item, None)

    def _encode_items(self, items: Sequence[tuple[Any, Any]], options: Options) -> BatchEncoding:
        encodings, samples = self._encodings_of(items, options)
        data: dict[str, list] = {"input_ids": [e.ids for e in encodings]}
        if self._wants(options, "token_type_ids"):
            data["token_type_ids"] = [e.type_ids for e in encodings]
        if self._wants(options, "attention_mask"):
            data["attention_mask"] = [e.attention_mask for e in encodings]
        if options.return_special_tokens_mask:
            data["special_tokens_mask"] = [e.special_tokens_mask for e in encodings]
        if options.return_offsets_mapping:
            data["offset_mapping"] = [e.offsets for e in encodings]
        if options.return_length:
            data["length"] = [len(e) for e in encodings]
        if options.return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        self._warn_if_long(max(map(len, encodings)), options)
        return BatchEncoding(data, lambda: encodings, options.return_tensors)

    def _encodings_of(self, items: Sequence[tuple[Any, Any]], options: Options) -> tuple[list[Encoding], list[int]]:
        """Padded Encodings, with windows if asked for, and the item each is from."""
        encodings = [self._encoding(text, pair, options) for text, pair in items]
        lengths = [len(encoding) for encoding in encodings]
        length = padding_length(lengths, options.padding, options.max_length, options.pad_to_multiple_of)
        if length is not None:
            pad = Encoding.padding(self.pad_token, self.pad_token_id)
            encodings = [encoding.padded(length, pad, options.padding_side) for encoding in encodings]
        if not options.return_overflowing_tokens:
            return encodings, list(range(len(encodings)))
        groups = [[encoding, *encoding.overflowing] for encoding in encodings]
        return [e for group in groups for e in group], [i for i, group in enumerate(groups) for _ in group]

    def _later(self, texts: Sequence[str], options: Options) -> Callable[[], list[Encoding]]:
        return lambda: self._encodings_of([(text, None) for text in texts], options)[0]

    def _surely_kept(self, options: Options) -> int | None:
        if not options.truncates:
            return None
        special = self.num_special_tokens_to_add() if options.add_special_tokens else 0
        keep: int = options.max_length - special  # type: ignore[operator]
        return keep if keep >= 0 else None

    def _around(self) -> tuple[list[int], list[int]]:
        single, _, ids = self._templates
        middle = single.index("A")
        return [ids[place] for place in single[:middle]], [ids[place] for place in single[middle + 1 :]]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """The number of special tokens around a text or pair."""
        single, paired, _ = self._templates
        return len(paired) - 2 if pair else len(single) - 1

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokens of a text, or of a pair, concatenated."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **kwargs).tokens()

    # ---- ids to text ----

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """Ids to text; ids outside the vocabulary are left out.

        Args:
            token_ids: an id, or a list, array or tensor of them.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: undo spaces before English punctuation; default the attribute of that name.

        Raises:
            InputError: a negative id; also a TypeError for a value that is not an integer.
        """
        ids, _ = to_list(token_ids)
        tokens: list[str] = []
        for token_id in ids if isinstance(ids, list) else [ids]:
            token = self._id_to_token(token_id)
            if token_id < 0:
                raise InputError(f"token_ids: wanted 0 or more, found {token_id}")
            if token is not None and not (skip_special_tokens and self.added.is_special(token)):
                tokens.append(token)
        text = self.convert_tokens_to_string(tokens).replace(self.data.end_of_word, " ").strip()
        return self._cleaned(text, clean_up_tokenization_spaces)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens to text: bytes back to characters; end-of-word marks stay."""
        data = bytearray()
        for token in tokens:
            known = all(char in CHAR_TO_BYTE for char in token)
            data += bytes(CHAR_TO_BYTE[char] for char in token) if known else token.encode("utf-8")
        return data.decode("utf-8", "replace")


def _normalized(token: Any) -> Any:
    return AddedToken(token, normalized=True) if isinstance(token, str) else token
