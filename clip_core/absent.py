"""Names of v4.37's classes that have no meaning here: name -> what to use instead.

One table for all classes. `AttributeError` speaks from it (`hasattr` stays False), and docs/howto/migrate.md lists it.
"""

from __future__ import annotations

from typing import Any

_AUTO_CLASS = "this package has no auto classes: name the class, or register it with transformers' own auto class"
_NO_TEXT = "CLIP scores texts and pictures, it generates none"
_MEMORY = "use torch.profiler or torch.cuda.memory_stats"
_CHAT = "CLIP is no chat model; fill a template of your own and pass the text"

# Kind of class ("*": all) -> name -> what to use instead.
ABSENT: dict[str, dict[str, str]] = {
    "*": {
        "register_for_auto_class": _AUTO_CLASS,
    },
    "tf_model": {
        **dict.fromkeys(("generate", "beam_search", "greedy_search", "sample", "contrastive_search"), _NO_TEXT),
        **dict.fromkeys(("compute_transition_scores", "prepare_inputs_for_generation", "seed_generator"), _NO_TEXT),
        "supports_xla_generation": _NO_TEXT,
        "load_repo_checkpoint": "save and load with `save_pretrained`, or with Keras' `save` (optimizer included)",
        "prune_heads": "v4.37's TF models have none; heads that a config's `pruned_heads` names are left out",
    },
    "flax_model": {
        "generate": _NO_TEXT,
        "prepare_inputs_for_generation": _NO_TEXT,
    },
    "tokenizer": {
        "apply_chat_template": _CHAT,
        "chat_template": _CHAT,
        "default_chat_template": _CHAT,
        "tokens_trie": "added tokens are in `added_tokens_decoder`, and `tokenize` cuts text around them",
    },
    "torch_model": {
        **dict.fromkeys(("generate", "greedy_search", "sample", "beam_search", "beam_sample"), _NO_TEXT),
        **dict.fromkeys(("group_beam_search", "constrained_beam_search", "contrastive_search"), _NO_TEXT),
        **dict.fromkeys(("assisted_decoding", "compute_transition_scores", "prepare_inputs_for_generation"), _NO_TEXT),
        **dict.fromkeys(("add_memory_hooks", "reset_memory_hooks_state"), _MEMORY),
        "to_bettertransformer": 'attention is fused already (attn_implementation="sdpa")',
        "reverse_bettertransformer": "nothing has been transformed: save_pretrained writes the published layout",
        "register_for_auto_class": "share the file of your class; no Auto class finds it here",
    },
}


def absent_attribute(owner: object, name: str, *kinds: str) -> AttributeError:
    """The AttributeError for a missing attribute, with the table's hint if there is one.

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


class _Absent:
    """Descriptor that raises the table's error. An instance may still set an attribute of that name."""

    def __init__(self, name: str, kinds: tuple[str, ...]) -> None:
        self.name, self.kinds = name, kinds

    def __get__(self, instance: Any, owner: type) -> Any:
        raise absent_attribute(owner.__name__, self.name, *self.kinds)


def absent_names(*kinds: str) -> set[str]:
    """The names that objects of these kinds lack."""
    return {name for kind in (*kinds, "*") for name in ABSENT.get(kind, {})}


def refuse(cls: type, *kinds: str) -> None:
    """Put a descriptor for every missing name on a class, because a `__getattr__` would slow down every attribute."""
    for name in absent_names(*kinds):
        setattr(cls, name, _Absent(name, kinds))
