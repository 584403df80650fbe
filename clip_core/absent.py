"""Names of v4.37's classes that have no meaning here: name -> what to use instead.

One table for all classes. `AttributeError` speaks from it (`hasattr` stays False), and docs/howto/migrate.md lists it.
"""

from __future__ import annotations

_AUTO_CLASS = "this package has no auto classes: name the class, or register it with transformers' own auto class"
_CHAT = "CLIP is no chat model; fill a template of your own and pass the text"

# Class of v4.37 (without TF and Flax prefixes; * means every class) -> name -> what to use instead.
ABSENT: dict[str, dict[str, str]] = {
    "*": {
        "register_for_auto_class": _AUTO_CLASS,
    },
    "tokenizer": {
        "apply_chat_template": _CHAT,
        "chat_template": _CHAT,
        "default_chat_template": _CHAT,
        "tokens_trie": "added tokens are in `added_tokens_decoder`, and `tokenize` cuts text around them",
    },
}


def absent_attribute(owner: object, name: str, *kinds: str) -> AttributeError:
    """The AttributeError for a name that an object lacks: with what to use instead, where the table knows it.

    Args:
        owner: the object, or the name of its class.
        name: the attribute that was asked for.
        kinds: rows of `ABSENT` that count for the object's class, besides "*".
    """
    cls_name = owner if isinstance(owner, str) else type(owner).__name__
    for kind in (*kinds, "*"):
        instead = ABSENT.get(kind, {}).get(name)
        if instead is not None:
            return AttributeError(f"{cls_name} has no {name!r}: {instead}")
    return AttributeError(f"{cls_name!r} object has no attribute {name!r}")
