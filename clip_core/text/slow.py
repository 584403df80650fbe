"""The slow tokenizer: the steps of transformers 4.37.2's CLIPTokenizer, in order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from clip_core.batch import BatchEncoding
from clip_core.errors import InputError
from clip_core.text.added_tokens import AddedToken, SlowAddedTokens, as_added_token
from clip_core.text.base import TokenizerBase
from clip_core.text.bpe import BYTE_TO_CHAR, CHAR_TO_BYTE, ascii_pieces
from clip_core.text.files import BOS, EOS
from clip_core.text.normalize import find_ftfy, ftfy_keeps, slow_clean, slow_pattern
from clip_core.text.persist import load_data
from clip_core.text.rows import InputTypeError, Options, logger, split_pairs, to_list

BUNDLED_LENGTH = 77  # the context length of the models that the bundled vocabulary belongs to


class CLIPTokenizer(TokenizerBase):
    """The slow tokenizer's ids: ftfy when it is installed, else a plain cleaner; then lower case, pieces, BPE.

    Args:
        vocab_file, merges_file: vocab.json and merges.txt. Without any file: OpenAI's vocabulary, bundled.
        errors: how decoding handles invalid UTF-8, as in `bytes.decode`.
        unk_token, bos_token, eos_token, pad_token: special tokens.
        tokenizer_file: tokenizer.json instead of the two files.
        **kwargs: `model_max_length` (no limit by default, 77 for the bundled vocabulary), `padding_side`,
            `truncation_side`, `additional_special_tokens`, `added_tokens_decoder`, `clean_up_tokenization_spaces`,
            `model_input_names`, `split_special_tokens`, `name_or_path`; others are kept and saved without effect.

    Raises:
        CheckpointError: a damaged file, or one of another kind of tokenizer.
    """

    added: SlowAddedTokens

    # If a subclass overrides one of these steps, every text goes through them.
    _STEPS = ("tokenize", "_tokenize", "bpe", "prepare_for_tokenization", "convert_tokens_to_ids")

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        merges_file: str | os.PathLike | None = None,
        errors: str = "replace",
        unk_token: Any = EOS,
        bos_token: Any = BOS,
        eos_token: Any = EOS,
        pad_token: Any = EOS,
        *,
        tokenizer_file: str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> None:
        self.fix_text = find_ftfy()
        if self.fix_text is None:
            _say_without_ftfy()
        self._pattern = None
        # Results of `bpe`: a word of the byte alphabet -> its tokens, separated by spaces.
        self.cache: dict[str, str] = {BOS: BOS, EOS: EOS}
        self.added = SlowAddedTokens()
        data = load_data(vocab_file, merges_file, tokenizer_file)
        if data.whole_words:
            kwargs.setdefault("model_max_length", BUNDLED_LENGTH)
        for token_id, token in kwargs.pop("added_tokens_decoder", {}).items():
            self.added.put(as_added_token(token), int(token_id))
        bos_token, eos_token, unk_token = map(_plain_token, (bos_token, eos_token, unk_token))
        data.unk_token = None if unk_token is None else str(unk_token)
        special = {"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        super().__init__(data, special, {"errors": errors, **kwargs})
        files = {"vocab_file": vocab_file, "merges_file": merges_file, "tokenizer_file": tokenizer_file}
        self.init_kwargs |= files
        self._add_tokens(
            [t for t in self.all_special_tokens_extended if isinstance(t, AddedToken) or t not in self.added.ids], True
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pattern": None, "fix_text": self.fix_text is not None, "cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.fix_text = find_ftfy() if state["fix_text"] else None

    def _forget(self) -> None:
        super()._forget()
        self.engine.keep_whole({name: self.convert_tokens_to_ids(name) for name in (BOS, EOS)})

    # ---- text to ids ----

    @property
    def pat(self) -> Any:
        """The pattern for pieces."""
        if self._pattern is None:
            self._pattern = slow_pattern()
        return self._pattern

    def _pieces(self, text: str) -> list[str]:
        return self.pat.findall(slow_clean(text, self.fix_text))

    def _may_hurry(self) -> bool:
        own, plain = vars(self), CLIPTokenizer
        return type(self) is plain or not any(
            name in own or getattr(type(self), name) is not getattr(plain, name) for name in self._STEPS
        )

    def _text_ids(self, text: str, options: Options | None = None) -> list[int]:
        split = options is not None and options.split_special_tokens
        if not self._may_hurry():
            return self.convert_tokens_to_ids(self.tokenize(text, split_special_tokens=split))
        ids: list[int] = []
        for part, is_added in [(text, False)] if split else self.added.split(text):
            ids += [self.added.ids[part]] if is_added else self.engine.encode_all(self._pieces(part))
        return ids

    def _chunk_ids(self, chunk: str) -> list[int]:
        return self.engine.encode_all(ascii_pieces(chunk.lower()))

    def _is_simple(self, text: str) -> bool:
        return ftfy_keeps(text) and self._holds_no_added_token(text)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The tokens of a text, added tokens whole (with `split_special_tokens=True` split like any text)."""
        if not isinstance(text, str):
            raise InputTypeError(f"text: wanted a string, found {type(text).__name__}")
        split = kwargs.pop("split_special_tokens", self.split_special_tokens)
        text, kwargs = self.prepare_for_tokenization(text, **kwargs)
        if kwargs:
            self._unknown_keywords(kwargs)
        tokens: list[str] = []
        for part, is_added in [(text, False)] if split else self.added.split(text):
            tokens += [part] if is_added else self._tokenize(part)
        return tokens

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **kwargs: Any
    ) -> tuple[str, dict[str, Any]]:
        """(text, remaining keywords): a hook for subclasses to change a text first."""
        return text, kwargs

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of text without added tokens."""
        tokens: list[str] = []
        for piece in self._pieces(text):
            word = "".join(BYTE_TO_CHAR[byte] for byte in piece.encode("utf-8"))
            tokens += self.bpe(piece if piece in self.engine.whole else word).split(" ")
        return tokens

    def bpe(self, token: str) -> str:
        """The tokens of a word of the byte alphabet, separated by spaces."""
        found = self.cache.get(token)
        if found is None:
            found = self.cache[token] = " ".join(self.engine.symbols(token))
        return found

    def _unknown_keywords(self, names: Mapping[str, Any]) -> None:
        logger.warning(f"Keyword arguments {dict(names)} not recognized.")

    def _ids_of(self, item: Any, options: Options) -> list[int]:
        """The ids of one text, a list of words, a list of tokens, or a list of ids (unchanged)."""
        if isinstance(item, str):
            return self._text_ids(item, options)
        kinds = {type(member) for member in item} if isinstance(item, (list, tuple)) else set()
        if kinds and all(issubclass(kind, str) for kind in kinds):
            if options.is_split_into_words:
                return [token_id for word in item for token_id in self._text_ids(word, options)]
            return self.convert_tokens_to_ids(list(item))
        if kinds and all(hasattr(kind, "__index__") for kind in kinds):
            return [member.__index__() for member in item]
        raise InputTypeError(f"text: wanted a string, a list of strings or a list of ids, found {item!r:.80}")

    # ---- batches ----

    def _encode_one(self, text: Any, pair: Any, options: Options) -> BatchEncoding:
        self._refuse_offsets(options)
        second = None if pair is None else self._ids_of(pair, options)
        return self._prepared(self._ids_of(text, options), second, options, prepend=True)

    def _encode_many(self, items: Sequence[Any], options: Options) -> BatchEncoding:
        self._refuse_offsets(options)
        words = options.is_split_into_words
        rows: list[dict[str, Any]] = []
        for item in items:
            single = words and not (isinstance(item, (list, tuple)) and item and isinstance(item[0], (list, tuple)))
            first, second = (item, None) if single else split_pairs([item])[0]
            second_ids = None if second is None else self._ids_of(second, options)
            row = self._row(self._ids_of(first, options), second_ids, options)
            if options.return_length:
                row["length"] = len(row["input_ids"])  # before padding, unlike with a single text
            rows.append(row)
        padded = self._pad_rows({name: [row[name] for row in rows] for name in rows[0]}, options)
        return BatchEncoding(padded, None, options.return_tensors)

    def _refuse_offsets(self, options: Options) -> None:
        if options.return_offsets_mapping:
            raise NotImplementedError("return_offsets_mapping needs a fast tokenizer (CLIPTokenizerFast)")

    def _surely_kept(self, options: Options) -> int | None:
        if not options.truncates or not options.max_length or options.truncation == "only_second":
            return None
        keep = options.max_length - (self.num_special_tokens_to_add() if options.add_special_tokens else 0)
        return keep if keep > 0 else None  # no token would be left: the text stays whole

    def _around(self) -> tuple[list[int], list[int]]:
        bos, eos = self._ends()
        return [bos], [eos]

    # ---- tokens ----

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        known = set(self.get_vocab())
        special_names = set(self.all_special_tokens)
        start = len(known)
        count = 0
        for item in new_tokens:
            if isinstance(item, str):
                if item in self.added.ids or not item:
                    continue
                token = as_added_token(item, special=special_tokens or item in special_names)
            else:
                token = as_added_token(item)
                if special_tokens:
                    # `special` is set afterwards, because `normalized` was decided without it.
                    token = as_added_token({**token.to_dict(), "special": True})
            if not token.content:
                continue
            token_id = self.added.ids.get(token.content, self.data.vocab.get(token.content))
            if token_id is None:
                token_id = start + count
                count += 1
            if token.special and token.content not in special_names:
                self._additional_special_tokens = [*(self._additional_special_tokens or ()), token]
                special_names.add(token.content)
            self.added.put(token, token_id)
        self._forget()
        return count

    @property
    def encoder(self) -> dict[str, int]:
        """The learned vocabulary, token -> id."""
        return self.data.vocab

    @property
    def decoder(self) -> dict[int, str]:
        """The learned vocabulary, id -> token."""
        return self._tokens_by_id

    @property
    def byte_encoder(self) -> dict[int, str]:
        """byte -> its character in the vocabulary."""
        return BYTE_TO_CHAR

    @property
    def byte_decoder(self) -> dict[str, int]:
        """A vocabulary's character -> byte."""
        return CHAR_TO_BYTE

    @property
    def bpe_ranks(self) -> dict[tuple[str, ...], int]:
        """merge -> rank."""
        return {tuple(merge.split()): rank for merge, rank in self.engine.ranks.items()}

    # ---- ids to text ----

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
        **kwargs: Any,
    ) -> str:
        """Ids to text.

        Args:
            token_ids: an id, or a list, array or tensor of them.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: undo spaces before English punctuation; default the attribute of that name.
            spaces_between_special_tokens: a space around each token that was added to the vocabulary.

        Raises:
            InputError: an id outside the vocabulary.
        """
        ids, _ = to_list(token_ids)
        if not isinstance(ids, list):
            ids, skip_special_tokens = [ids], False  # a single id is never skipped
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens)
        if None in tokens:
            wrong = next(i for i in ids if self._id_to_token(i) is None)
            raise InputError(f"token_ids: wanted ids of the vocabulary, 0 to {len(self) - 1}, found {wrong}")
        apart = set(self.added.ids) - set(self.all_special_tokens)
        apart |= {t for t in self.additional_special_tokens or () if self.convert_tokens_to_ids(t) >= self.vocab_size}
        parts: list[str] = []
        run: list[str] = []
        for token in [*tokens, None]:
            if token is not None and token not in apart:
                run.append(token)
                continue
            text = self.convert_tokens_to_string(run)
            if text or (token is None and run):
                parts.append(text)
            parts += [] if token is None else [token]
            run = []
        text = (" " if spaces_between_special_tokens else "").join(parts)
        return self._cleaned(text, clean_up_tokenization_spaces)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens to text: bytes back to characters, end-of-word marks to spaces."""
        data = b"".join(
            bytes([CHAR_TO_BYTE[char]]) if char in CHAR_TO_BYTE else char.encode("utf-8") for char in "".join(tokens)
        )
        return data.decode("utf-8", errors=self.errors).replace(self.data.end_of_word, " ").strip()


_said: set[str] = set()


def _say_without_ftfy() -> None:
    """Warn once in a process that ids of decorated or broken text differ without ftfy."""
    if not _said:
        _said.add("ftfy")
        logger.warning(
            "CLIPTokenizer: ftfy is not installed: curly quotes, ligatures, full-width letters and broken text get "
            "other ids than from OpenAI's tokenizer (as in transformers without ftfy): pip install 'triclip[text]'"
        )


def _plain_token(token: Any) -> Any:
    """A special token given as a string, in the slow tokenizer's form."""
    return AddedToken(token, normalized=True) if isinstance(token, str) else token
