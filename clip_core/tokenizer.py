"""CLIPTokenizer and CLIPTokenizerFast: transformers 4.37.2's slow and fast ids, to the id, in pure Python.

Both are one byte-level BPE (`clip_core.text.bpe`); they differ in how text is cleaned before it is cut into pieces
(`clip_core.text.normalize`) and in how added tokens are found in it (`clip_core.text.added_tokens`). `openai_tokenize`
gives the ids of OpenAI's and open_clip's own tokenizers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError
from clip_core.text.added_tokens import AddedToken
from clip_core.text.base import InputTypeError
from clip_core.text.bpe import BytePairEncoder
from clip_core.text.fast import CLIPTokenizerFast
from clip_core.text.files import BOS, EOS, bundled_data
from clip_core.text.normalize import find_ftfy, openai_clean, slow_pattern
from clip_core.text.quick import pack, pad_packed
from clip_core.text.slow import BUNDLED_LENGTH, CLIPTokenizer

__all__ = ["AddedToken", "CLIPTokenizer", "CLIPTokenizerFast", "openai_tokenize"]


def openai_tokenize(
    texts: str | Sequence[str], context_length: int = BUNDLED_LENGTH, truncate: bool = False
) -> np.ndarray:
    """The ids of OpenAI's `clip.tokenize` and, with `truncate=True`, of open_clip's tokenizer: padded with 0.

    The text is mended by ftfy (when installed), HTML entities are resolved twice, white space collapsed, letters made
    small. No text but these two tokens is special.

    Args:
        texts: a string or a list of them.
        context_length: length of every row, start and end token included.
        truncate: cut longer texts, keeping the end token, instead of raising.

    Returns:
        int64 [texts, context_length].

    Raises:
        InputError: a text that is too long (and `truncate` is False), no text, or an impossible length.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise InputTypeError("texts: wanted a string or a list of strings")
    if not texts or context_length < 2:
        raise InputError(f"wanted texts and a context_length of 2 or more, found {len(texts)} and {context_length}")
    engine, pattern = _openai_engine()
    fix_text = find_ftfy()
    rows: list[bytes] = []
    for text in texts:
        body = engine.encode_all(pattern.findall(openai_clean(text, fix_text)))
        if len(body) > context_length - 2 and not truncate:
            raise InputError(f"texts: {len(body) + 2} tokens for context_length {context_length}: {text[:120]!r}")
        rows.append(pack([engine.vocab[BOS], *body[: context_length - 2], engine.vocab[EOS]]))
    return pad_packed(rows, context_length, 0, "right")[0]


@functools.lru_cache(maxsize=1)
def _openai_engine() -> tuple[BytePairEncoder, Any]:
    data = bundled_data()
    engine = BytePairEncoder(data.vocab, data.merges, whole_words=data.whole_words)
    engine.keep_whole({token: data.vocab[token] for token in (BOS, EOS)})
    return engine, slow_pattern()
