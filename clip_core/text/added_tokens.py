"""Tokens beside the learned vocabulary: special tokens, and those users add. Text is never split inside them.

The slow and the fast tokenizer find them by different rules, hence two classes with one interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from clip_core.errors import InputError
from clip_core.text.normalize import SPACE_RUN, SPACES, fast_normalize

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class AddedToken:
    """A token that text is never split inside.

    Args:
        content: its text.
        single_word: match only between word boundaries.
        lstrip: include the white space on its left.
        rstrip: include the white space on its right.
        special: a control token, skipped by `decode(skip_special_tokens=True)`.
        normalized: match it in the normalised text instead of the raw text (fast tokenizer only). None: True unless the
            token is, or becomes, special.
    """

    def __init__(
        self,
        content: str,
        single_word: bool = False,
        lstrip: bool = False,
        rstrip: bool = False,
        special: bool = False,
        normalized: bool | None = None,
    ) -> None:
        if not isinstance(content, str):
            raise TypeError(f"AddedToken content: wanted a string, found {type(content).__name__}")
        self.content = content
        self.single_word = bool(single_word)
        self.lstrip = bool(lstrip)
        self.rstrip = bool(rstrip)
        self.special = bool(special)
        self._normalized = normalized if normalized is None else bool(normalized)

    @property
    def normalized(self) -> bool:
        """Whether it is matched in the normalised text."""
        return not self.special if self._normalized is None else self._normalized

    def with_special(self, special: bool) -> AddedToken:
        """A copy with that flag; `normalized` follows it if it was not given."""
        return AddedToken(self.content, self.single_word, self.lstrip, self.rstrip, special, self._normalized)

    def renamed(self, content: str) -> AddedToken:
        """A copy with another text."""
        return AddedToken(content, self.single_word, self.lstrip, self.rstrip, self.special, self._normalized)

    def to_dict(self) -> dict[str, Any]:
        """Content and flags, by name."""
        return {"content": self.content, **{flag: getattr(self, flag) for flag in _FLAGS}}

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, AddedToken) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.content)

    def __str__(self) -> str:
        return self.content

    def __repr__(self) -> str:
        flags = ", ".join(f"{flag}={getattr(self, flag)}" for flag in _FLAGS)
        return f"AddedToken({self.content!r}, {flags})"


def as_added_token(token: Any, special: bool | None = None) -> AddedToken:
    """A string, an AddedToken, another library's AddedToken or its dict form as an AddedToken of ours.

    `special` overrides the flag (and, for a plain string, decides `normalized`). Raises TypeError for anything else.
    """
    if isinstance(token, str):
        return AddedToken(token, special=bool(special))
    if isinstance(token, AddedToken):
        return token if special is None else token.with_special(special)
    if isinstance(token, Mapping) and isinstance(token.get("content"), str):
        fields = {flag: bool(token[flag]) for flag in _FLAGS if token.get(flag) is not None}
        found = AddedToken(token["content"], **fields)
    elif isinstance(getattr(token, "content", None), str):
        found = AddedToken(token.content, **{flag: getattr(token, flag) for flag in _FLAGS if hasattr(token, flag)})
    else:
        raise TypeError(f"token: wanted a string or an AddedToken, found {type(token).__name__} ({token!r})")
    return found if special is None else found.with_special(special)


def convert_added_tokens(obj: Any, save: bool, add_type_field: bool) -> Any:
    """See `TokenizerBase.convert_added_tokens`."""
    if isinstance(obj, dict) and obj.get("__type") == "AddedToken":
        return as_added_token(obj)
    if isinstance(obj, AddedToken) and save:
        fields = obj.to_dict()
        if add_type_field:
            return {**fields, "__type": "AddedToken"}
        return {name: value for name, value in fields.items() if name != "special"}
    if isinstance(obj, (list, tuple)):
        return [convert_added_tokens(item, save, add_type_field) for item in obj]
    if isinstance(obj, dict):
        return {name: convert_added_tokens(item, save, add_type_field) for name, item in obj.items()}
    return obj


def _longest_first(contents: Iterable[str]) -> re.Pattern | None:
    """A pattern for the leftmost and, at that place, the longest of `contents`."""
    ordered = sorted(filter(None, contents), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _probe(content: str) -> str | None:
    """A punctuation character that text must contain, normalised or not, for `content` to match.

    None if there is none. Semicolon and grave accent don't qualify: NFC makes them from other characters.
    """
    found = re.search(r"[!-/:<-@\[-_{-~]+", content)
    return found.group() if found else None


class AddedTokens:
    """Common to both kinds: the tokens by id and by content, and a quick test for texts without any of them."""

    def __init__(self) -> None:
        self.by_id: dict[int, AddedToken] = {}
        self.ids: dict[str, int] = {}
        self._highest = -1
        self._pattern: Any = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pattern": None}

    def sorted_ids(self) -> dict[str, int]:
        """content -> id, in the order of the ids."""
        return {token.content: i for i, token in sorted(self.by_id.items())}

    def put(self, token: AddedToken, token_id: int) -> None:
        """Set the token of an id."""
        self.by_id[token_id] = token
        self.ids[token.content] = token_id
        self._highest = max(self._highest, token_id)
        self._pattern = None

    def probes(self) -> list[str] | None:
        """Strings of which a text with an added token contains at least one; None if there is no such set."""
        found: set[str] = set()
        for token in self.by_id.values():
            probe = _probe(token.content)
            if probe is None:
                return None
            found.add(probe)
        return [p for p in found if not any(q != p and q in p for q in found)]  # a substring covers both


class SlowAddedTokens(AddedTokens):
    """The slow tokenizer's rules: one pass over the raw text, then white space is trimmed from the neighbours."""

    def split(self, text: str) -> list[tuple[str, bool]]:
        """The parts of `text` as (part, whether it is an added token)."""
        if not any(content in text for content in self.ids):
            return [(text, False)] if text else []
        parts = self._cut(text)
        for i, part in enumerate(parts):
            token = self.by_id.get(self.ids[part]) if part in self.ids else None
            if token is None:
                continue
            left = parts[i - 1] if i else ""
            right = parts[i + 1] if i + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[i + 1] = right.lstrip()
            if token.lstrip and left:
                parts[i - 1] = left.rstrip()
            if token.single_word and left and left[-1] != " ":
                parts[i - 1] += part
                parts[i] = ""
            elif token.single_word and right and right[0] != " ":
                parts[i + 1] = part + parts[i + 1]
                parts[i] = ""
        return [(part, part in self.ids) for part in parts if part]

    def _cut(self, text: str) -> list[str]:
        """`text` cut around every added token: the leftmost and, at that place, the longest."""
        if self._pattern is None:
            self._pattern = _trie(self.ids)
        parts: list[str] = []
        running: dict[int, dict] = {}  # possible start of a token -> the trie's node reached from there
        done = 0
        for i, char in enumerate(text):
            if i < done:
                continue
            failed: list[int] = []
            for start, node in running.items():
                if "" in node:
                    begin, end = _longest(text, i, start, running)
                    parts += [text[done:begin], text[begin:end]]
                    done, running = end, {}
                    break
                if char in node:
                    running[start] = node[char]
                else:
                    failed.append(start)
            else:
                for start in failed:
                    del running[start]
            if i >= done and char in self._pattern:
                running[i] = self._pattern[char]
        begin = next((start for start, node in running.items() if "" in node), len(text))
        return [part for part in (*parts, text[done:begin], text[begin:]) if part]


def _trie(contents: Iterable[str]) -> dict:
    """A trie as nested dicts by character; the key "" marks the end of a token."""
    root: dict = {}
    for content in contents:
        node = root
        for char in content:
            node = node.setdefault(char, {})
        node[""] = True
    return root


def _longest(text: str, position: int, start: int, running: Mapping[int, dict]) -> tuple[int, int]:
    """(begin, end) of the match when the token begun at `start` is complete before `position`.

    A token that began earlier and can still be completed takes precedence. transformers also tries one that has just
    failed at `position`, as if it had not; ids depend on that, so it is the same here.
    """
    for begin, node in running.items():
        i = position + (begin < start)
        end = i if "" in node else None
        while i < len(text) and text[i] in node:
            node = node[text[i]]
            i += 1
            end = i if "" in node else end
        if end is not None:
            return begin, end
    raise AssertionError("unreachable: the token at `start` is complete")


class FastAddedTokens(AddedTokens):
    """The fast tokenizer's rules: `normalized` tokens are found in the normalised text, others in the raw text.

    If a content was added twice, the first special and every other form are found, with the flags of the last.
    """

    def __init__(self, normalize: Callable[[str], str] = fast_normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self._specials: dict[str, AddedToken] = {}
        self._others: list[AddedToken] = []

    def is_special(self, content: str) -> bool:
        """Whether `decode(skip_special_tokens=True)` skips it."""
        return content in self._specials

    def add(self, tokens: Iterable[AddedToken], vocab: Mapping[str, int]) -> int:
        """Add tokens; known ones keep their id. Returns the number of new or changed ones."""
        tokens = [token for token in tokens if token.content]
        for token in tokens:
            if token.special:
                self._specials.setdefault(token.content, token)
        count = 0
        for token in tokens:
            token_id = self.ids.get(token.content, vocab.get(token.content))
            if token_id is None:
                token_id = max(len(vocab), self._highest + 1)
            if self.by_id.get(token_id) == token:
                continue
            self.put(token, token_id)
            if token.content not in self._specials:
                self._others.append(token)
            count += 1
        return count

    def matches(self, text: str, normalized: bool) -> list[tuple[int | None, int, int]]:
        """The parts of `text` as (id of the added token or None, start, end), without gaps."""
        if self._pattern is None:
            self._pattern = (self._compile(False), self._compile(True))
        pattern, ids = self._pattern[normalized]
        found: list[tuple[int | None, int, int]] = []
        done = 0
        for match in pattern.finditer(text) if pattern else ():
            start, end = match.span()
            token_id = ids[match.group()]
            token = self.by_id[token_id]
            if token.single_word and not _stands_alone(text, start, end):
                continue
            if token.lstrip:
                start = max(len(text[:start].rstrip(SPACES)), done)
            if token.rstrip:
                spaces = SPACE_RUN.match(text, end)
                end = spaces.end() if spaces else end
            if done < start:
                found.append((None, done, start))
            found.append((token_id, start, end))
            done = end
        if done < len(text):
            found.append((None, done, len(text)))
        return found

    def _compile(self, normalized: bool) -> tuple[re.Pattern | None, dict[str, int]]:
        ids: dict[str, int] = {}
        for token in [*self._specials.values(), *self._others]:
            if token.normalized == normalized:
                ids.setdefault(self.normalize(token.content) if normalized else token.content, self.ids[token.content])
        return _longest_first(ids), ids


def _stands_alone(text: str, start: int, end: int) -> bool:
    import regex

    return not (start and regex.match(r"\w", text[start - 1])) and not (
        end < len(text) and regex.match(r"\w", text[end])
    )


def parse_added_tokens(items: Any, where: str) -> dict[int, AddedToken]:
    """tokenizer.json's list or tokenizer_config.json's mapping of added tokens, by id, sorted.

    Raises InputError with `where` for anything else.
    """
    if isinstance(items, list):
        pairs = [(item.get("id"), item) if isinstance(item, Mapping) else (None, item) for item in items]
    elif isinstance(items, Mapping):
        pairs = list(items.items())
    else:
        raise InputError(f"{where}: wanted a list or a mapping of tokens, found {type(items).__name__}")
    found: dict[int, AddedToken] = {}
    for key, item in pairs:
        try:
            found[int(key)] = as_added_token(item)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: wanted an id and a token, found {key!r}: {item!r}") from error
    return found
