"""CLIPTokenizer and CLIPTokenizerFast: exactly transformers 4.37.2's slow and fast ids, in pure Python.

Both use one byte-level BPE (`clip_core.text.bpe`); they differ in the normalisation before text is split into pieces
(`clip_core.text.normalize`) and in the search for added tokens (`clip_core.text.added_tokens`). `openai_tokenize`
gives the ids of OpenAI's and open_clip's own tokenizers.

Deliberate differences from transformers 4.37.2:
- An empty list of texts is an InputError that says so (there: ValueError or IndexError), and so is an id outside the
  vocabulary given to the slow `decode` (there: TypeError). Arguments are never changed.
- The slow tokenizer also loads from tokenizer.json alone. The fast one refuses a tokenizer.json whose steps are not
  CLIP's, instead of running other patterns; its `backend_tokenizer` (extra `tokenizers`) is derived from it, so that
  changes of the backend don't change it. `vocab_file=` and `merges_file=` win over a folder's tokenizer.json.
- Merges that don't belong to the vocabulary (a file cut short, another model's) are a CheckpointError.
- Keywords that `prepare_for_model` doesn't know are logged (there: ignored). Chat templates are not offered.
- Merges are assumed to be in training order (a part is made before it is used), as in every trained vocabulary.
- Characters: the fast ids are those of tokenizers 0.15.2 on any Python, up to Unicode 18; an added token's
  `single_word` uses the word characters of the installed `regex`. The slow ids follow the installed Python, `regex` and
  ftfy, as in transformers.
- `tokens()`, `word_ids()` and the like don't survive pickling a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError, MissingDependencyError
from clip_core.text.added_tokens import AddedToken
from clip_core.text.bpe import BytePairEncoder, pack, pad_packed
from clip_core.text.fast import CLIPTokenizerFast
from clip_core.text.files import BOS, EOS, bundled_data
from clip_core.text.normalize import find_ftfy, openai_clean, slow_pattern
from clip_core.text.rows import InputTypeError
from clip_core.text.slow import BUNDLED_LENGTH, CLIPTokenizer

__all__ = ["AddedToken", "CLIPTokenizer", "CLIPTokenizerFast", "openai_tokenize"]


# The strings inside a text that each tokenizer reads as start and end tokens.
_SPECIAL_STRINGS = {"openai": (BOS, EOS), "open_clip": ("<start_of_text>", "<end_of_text>")}


def openai_tokenize(
    texts: str | Sequence[str],
    context_length: int = BUNDLED_LENGTH,
    truncate: bool | None = None,
    profile: str = "openai",
) -> np.ndarray:
    """The ids of OpenAI's `clip.tokenize` and of open_clip's tokenizer: padded with 0.

    The text is repaired by ftfy, HTML entities are resolved twice, white space is collapsed, letters become lower case.

    Args:
        texts: a string or a list of them.
        context_length: length of every row, start and end token included.
        truncate: truncate longer texts, keeping the end token (True), or raise (False); default as in the profile's
            library: OpenAI's raises, open_clip's truncates.
        profile: "openai" or "open_clip".

    Returns:
        int64 [texts, context_length].

    Raises:
        InputError: a text that is too long without truncation, no text, an impossible length, an unknown profile.
        MissingDependencyError: ftfy is not installed, which those tokenizers need too.
    """
    if profile not in _SPECIAL_STRINGS:
        raise InputError(f"profile: wanted one of {', '.join(_SPECIAL_STRINGS)}, found {profile!r}")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise InputTypeError("texts: wanted a string or a list of strings")
    if not texts or context_length < 2:
        raise InputError(f"wanted texts and a context_length of 2 or more, found {len(texts)} and {context_length}")
    cuts = profile == "open_clip" if truncate is None else truncate
    engine, pattern = _openai_engine(profile)
    fix_text = find_ftfy()
    if fix_text is None:
        raise MissingDependencyError(
            "openai_tokenize needs ftfy, as OpenAI's own tokenizer does: pip install 'triclip[text]'"
        )
    rows: list[bytes] = []
    for text in texts:
        body = engine.encode_all(pattern.findall(openai_clean(text, fix_text)))
        if len(body) > context_length - 2 and not cuts:
            raise InputError(f"texts: {len(body) + 2} tokens for context_length {context_length}: {text[:120]!r}")
        rows.append(pack([engine.vocab[BOS], *body[: context_length - 2], engine.vocab[EOS]]))
    return pad_packed(rows, context_length, 0, "right")[0]


@functools.lru_cache(maxsize=2)
def _openai_engine(profile: str) -> tuple[BytePairEncoder, Any]:
    data = bundled_data()
    engine = BytePairEncoder(data.vocab, data.merges, whole_words=data.whole_words)
    start, end = _SPECIAL_STRINGS[profile]
    engine.keep_whole({start: data.vocab[BOS], end: data.vocab[EOS]})
    return engine, slow_pattern((start, end))
