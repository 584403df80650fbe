"""The fast tokenizer through the `tokenizers` library: its own object, and training. Needs the extra `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clip_core.errors import MissingDependencyError
from clip_core.text.added_tokens import AddedToken


def library() -> Any:
    """The `tokenizers` library; MissingDependencyError without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError(
            "backend_tokenizer, decoder and train_new_from_iterator need the tokenizers library: "
            "pip install 'triclip[tokenizers]'"
        ) from error
    return tokenizers


def train(
    definition: Mapping[str, Any],
    texts: Iterable[Any],
    vocab_size: int,
    length: int | None,
    special_tokens: Sequence[AddedToken],
    renamed: Mapping[str, str],
    options: dict[str, Any],
) -> Any:
    """A tokenizer of the same steps with a vocabulary of its own, as transformers 4.37.2 trains it.

    Args:
        definition: what tokenizer.json holds.
        texts: strings, or lists of them.
        vocab_size: of the new vocabulary, special tokens included.
        length: how many texts there are, for the progress bar.
        special_tokens: in the order of their new ids, which are the first.
        renamed: old special token -> new one.
        options: further ones of the library's BpeTrainer.

    Returns the library's Tokenizer.
    """
    tokenizers = library()
    model = {**definition["model"], "vocab": {}, "merges": []}
    model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    empty = {**definition, "added_tokens": [], "post_processor": None, "model": model}
    trained = tokenizers.Tokenizer.from_str(json.dumps(empty))
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            options.setdefault(name, model[name])
    specials = [tokenizers.AddedToken(t.content, **_flags(t)) for t in special_tokens]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, **options)
    trained.train_from_iterator(texts, length=length, trainer=trainer)
    found = json.loads(trained.to_str())
    found["post_processor"] = _post_processor(definition["post_processor"], trained, renamed)
    return tokenizers.Tokenizer.from_str(json.dumps(found))


def _flags(token: AddedToken) -> dict[str, bool]:
    return {name: value for name, value in token.to_dict().items() if name not in ("content", "special")}


def _post_processor(processor: Any, trained: Any, renamed: Mapping[str, str]) -> Any:
    """The same places for special tokens, with the new tokens and ids."""

    def new(token: str) -> tuple[str, int]:
        name = renamed.get(token, token)
        return name, trained.token_to_id(name)

    if processor is None:
        return None
    if processor["type"] == "RobertaProcessing":
        return {**processor, **{end: list(new(processor[end][0])) for end in ("sep", "cls")}}
    specials = {}
    for token in processor["special_tokens"]:
        name, token_id = new(token)
        specials[name] = {"id": name, "ids": [token_id], "tokens": [name]}
    places = {
        kind: [
            {part: {**place, "id": renamed.get(place["id"], place["id"])} for part, place in item.items()}
            for item in processor[kind]
        ]
        for kind in ("single", "pair")
    }
    return {**processor, **places, "special_tokens": specials}
