"""The special-token attributes of a tokenizer: bos, eos, unk, pad and the rest, by name and by id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from clip_core.text.added_tokens import AddedToken, as_added_token

logger = logging.getLogger("clip_core.tokenizer")

SINGLE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS = (*SINGLE_TOKENS, "additional_special_tokens")


class _TokenName:
    """`tokenizer.eos_token`: its text, or None; settable to a string, an AddedToken or None."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Any, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer.special_tokens[self.name]
        return None if token is None else str(token)

    def __set__(self, tokenizer: Any, value: Any) -> None:
        if value is not None and not isinstance(value, str):
            try:
                value = as_added_token(value)
            except TypeError as error:
                # ValueError, because that is what code written for transformers catches here.
                raise ValueError(f"{self.name}: {error}") from error
        tokenizer.special_tokens[self.name] = value


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


class SpecialTokens:
    """Mixin: holds the special tokens in `self.special_tokens`, name -> str | AddedToken | None.

    The class it is mixed into has `convert_tokens_to_ids`, `convert_ids_to_tokens` and `_add_tokens`.
    """

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

    def _init_special_tokens(self, given: Mapping[str, Any]) -> None:
        self.special_tokens: dict[str, Any] = dict.fromkeys(SINGLE_TOKENS)
        self._additional_special_tokens: list[str | AddedToken] = []
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

    @property
    def additional_special_tokens(self) -> list[str]:
        """Further tokens that count as special."""
        return [str(token) for token in self._additional_special_tokens]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Any) -> None:
        if value is not None and not isinstance(value, (list, tuple)):
            raise TypeError(f"additional_special_tokens: wanted a list of tokens, found {type(value).__name__}")
        self._additional_special_tokens = [t if isinstance(t, str) else as_added_token(t) for t in value or ()]

    @property
    def additional_special_tokens_ids(self: Any) -> list[int]:
        """Their ids."""
        return [self.convert_tokens_to_ids(token) for token in self.additional_special_tokens]

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self: Any, values: list[int]) -> None:
        self._additional_special_tokens = [self.convert_ids_to_tokens(value) for value in values]

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Attribute name -> text, for those that are set."""
        values = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        return {name: value for name, value in values.items() if value}

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """The same with the AddedTokens, where that is what was set."""
        values = {**self.special_tokens, "additional_special_tokens": self._additional_special_tokens}
        return {name: values[name] for name in SPECIAL_TOKENS if values[name]}

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
    def all_special_ids(self: Any) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_tokens(self: Any, new_tokens: Any, special_tokens: bool = False) -> int:
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
            raise TypeError(f"additional_special_tokens: wanted a list of tokens, found {type(value).__name__}")
        tokens = [as_added_token(token, special=True if isinstance(token, str) else None) for token in value]
        if replace and tokens:
            self.additional_special_tokens = tokens
            return tokens
        new = [token for token in tokens if replace or str(token) not in self.additional_special_tokens]
        self._additional_special_tokens += new
        return new

    def sanitize_special_tokens(self) -> int:
        """Add every special token that the vocabulary lacks. Returns how many there were."""
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)
