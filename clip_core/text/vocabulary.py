"""A vocabulary: tokens by name and by id, added ones included, and which of them are special."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from clip_core.errors import InputError
from clip_core.text.added_tokens import AddedToken, AddedTokens, as_added_token
from clip_core.text.files import TokenizerData
from clip_core.text.persist import SINGLE_TOKENS, SPECIAL_TOKENS
from clip_core.text.rows import InputTypeError, to_list


class _TokenName:
    """`tokenizer.eos_token`: its text, or None; settable to a string, an AddedToken or None."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.private = name, f"_{name}"

    def __get__(self, tokenizer: Any, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer.__dict__.get(self.private)
        return None if token is None else str(token)

    def __set__(self, tokenizer: Any, value: Any) -> None:
        if value is not None and not isinstance(value, str):
            try:
                value = as_added_token(value)
            except TypeError as error:
                # ValueError, which code written for transformers catches here.
                raise ValueError(f"{self.name}: {error}") from error
        tokenizer.__dict__[self.private] = value


class _TokenId:
    """`tokenizer.eos_token_id`: the token's id, or None; settable to an id of the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token_name = name.removesuffix("_id")

    def __get__(self, tokenizer: Any, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = getattr(tokenizer, self.token_name)
        return None if token is None else tokenizer.convert_tokens_to_ids(token)

    def __set__(self, tokenizer: Any, value: int | None) -> None:
        setattr(tokenizer, self.token_name, None if value is None else tokenizer.convert_ids_to_tokens(value))


class _NoListError(InputTypeError, AssertionError):
    """Also an AssertionError, because v4.37 asserts that further special tokens are in a list."""


class Vocabulary(ABC):
    """A tokenizer's tokens. Special ones are in `_bos_token`, …, as str, AddedToken or None."""

    SPECIAL_TOKENS_ATTRIBUTES = list(SPECIAL_TOKENS)

    data: TokenizerData
    added: AddedTokens

    bos_token = _TokenName()
    eos_token = _TokenName()
    unk_token = _TokenName()
    sep_token = _TokenName()
    pad_token = _TokenName()
    cls_token = _TokenName()
    mask_token = _TokenName()
    bos_token_id = _TokenId()
    eos_token_id = _TokenId()
    unk_token_id = _TokenId()
    sep_token_id = _TokenId()
    pad_token_id = _TokenId()
    cls_token_id = _TokenId()
    mask_token_id = _TokenId()
    pad_token_type_id = 0

    @abstractmethod
    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        """Add tokens by the kind's rules; returns the number of new ones."""

    def _init_special_tokens(self, given: Mapping[str, Any]) -> None:
        self.__dict__.update({f"_{name}": None for name in SINGLE_TOKENS})
        self._additional_special_tokens: list[str | AddedToken] | None = []
        for name in SPECIAL_TOKENS:
            value = given.get(name)
            if value is None:
                continue
            if name == "additional_special_tokens":
                self.additional_special_tokens = value
            elif isinstance(value, str):
                setattr(self, name, value)
            else:
                try:
                    setattr(self, name, as_added_token(value))
                except TypeError as error:
                    raise TypeError(f"{name}: {error}") from error

    # ---- ids and tokens ----

    @property
    def vocab_size(self) -> int:
        """The size of the learned vocabulary, without added tokens."""
        return len(self.data.vocab)

    def __len__(self) -> int:
        return len(self.data.vocab) + sum(content not in self.data.vocab for content in self.added.ids)

    def get_vocab(self) -> dict[str, int]:
        """token -> id, added tokens included."""
        return {**self.data.vocab, **self.added.ids}

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab()`."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
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
        """A token's id, or a list's; the unknown token's id for tokens outside the vocabulary; None for None."""
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

    # ---- special tokens ----

    @property
    def additional_special_tokens(self) -> list[str] | None:
        """Further special tokens; None if set to None."""
        found = self._additional_special_tokens
        return None if found is None else [str(token) for token in found]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Any) -> None:
        if value is not None and not isinstance(value, (list, tuple)):
            raise InputTypeError(f"additional_special_tokens: wanted a list of tokens, found {type(value).__name__}")
        tokens = None if value is None else [t if isinstance(t, str) else as_added_token(t) for t in value]
        self._additional_special_tokens = tokens

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.additional_special_tokens or [])

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, values: list[int]) -> None:
        self._additional_special_tokens = [self.convert_ids_to_tokens(value) for value in values]

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Attribute name -> text, for those that are set."""
        values = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        return {name: value for name, value in values.items() if value}

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """`special_tokens_map`, with AddedTokens for those set as such."""
        values = {name: self.__dict__[f"_{name}"] for name in SPECIAL_TOKENS}
        return {name: value for name, value in values.items() if value}

    @property
    def all_special_tokens_extended(self) -> list[str | AddedToken]:
        """Every special token once, in the order of the attributes."""
        seen: dict[str, str | AddedToken] = {}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                seen.setdefault(str(token), token)
        return list(seen.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token's text once."""
        return [str(token) for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add a token or a list of them; text is never split inside them.

        Args:
            new_tokens: strings or AddedTokens. Those the vocabulary has keep their id, others get the next free one.
            special_tokens: mark them special, so that `decode(skip_special_tokens=True)` skips them.

        Returns:
            How many were added. Resize the model's token embedding to `len(tokenizer)` afterwards.

        Raises:
            TypeError: an item is neither a string nor an AddedToken.
        """
        if not new_tokens:
            return 0
        items = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        return self._add_tokens(items, special_tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Set special-token attributes and add their tokens.

        Args:
            special_tokens_dict: attribute (`pad_token`, …, `additional_special_tokens`) -> token or list of tokens.
            replace_additional_special_tokens: replace that list rather than extend it.

        Returns:
            How many tokens were new.

        Raises:
            ValueError: a key that is no special-token attribute. TypeError: a value of another type.
        """
        added: list[AddedToken] = []
        for name, value in (special_tokens_dict or {}).items():
            if name not in SPECIAL_TOKENS:
                raise ValueError(f"{name}: no special-token attribute; wanted one of {', '.join(SPECIAL_TOKENS)}")
            if name == "additional_special_tokens":
                added += self._add_additional(value, replace_additional_special_tokens)
                continue
            try:
                token = as_added_token(value, special=True if isinstance(value, str) else None)
            except TypeError as error:
                raise ValueError(f"{name}: {error}") from error
            setattr(self, name, token)
            if token not in added:
                added.append(token)
        return self.add_tokens(added, special_tokens=True)

    def _add_additional(self, value: Any, replace: bool) -> list[AddedToken]:
        if not isinstance(value, (list, tuple)):
            raise _NoListError(f"additional_special_tokens: wanted a list of tokens, found {type(value).__name__}")
        tokens = [as_added_token(token, special=True if isinstance(token, str) else None) for token in value]
        if replace and tokens:
            self.additional_special_tokens = tokens
            return tokens
        known = self.additional_special_tokens or []
        new = [token for token in tokens if replace or str(token) not in known]
        self._additional_special_tokens = [*(self._additional_special_tokens or ()), *new]
        return new

    def sanitize_special_tokens(self) -> int:
        """Add every special token that the vocabulary lacks. Returns how many there were."""
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)

    # ---- special tokens around texts ----

    def _ends(self) -> tuple[int, int]:
        """The ids of bos and eos; InputError when there is none."""
        for name in ("bos_token", "eos_token"):
            if getattr(self, f"{name}_id") is None:
                raise InputError(f"{name}: not set, or not in the vocabulary: {getattr(self, name)!r}")
        return self.bos_token_id, self.eos_token_id

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """bos A eos, or bos A eos eos B eos for a pair."""
        bos, eos = self._ends()
        first = [bos, *token_ids_0, eos]
        return first if token_ids_1 is None else [*first, eos, *token_ids_1, eos]

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
