"""An optional bridge to transformers: a model of this package as an instance of transformers' class of the same name.

transformers is imported only when `as_transformers` is called.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch.nn import Module

from clip_core.errors import MissingDependencyError
from clip_core.pretrained import Pretrained

from . import modeling
from .bridge import PreTrainedModel

# transformers' class whose place ours can take -> ours
CLASSES = {
    name: getattr(modeling, name)
    for name in (
        "CLIPModel",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPVisionModel",
        "CLIPVisionModelWithProjection",
    )
}


def as_transformers(model: PreTrainedModel) -> Any:
    """The same model, for programs that insist on `transformers.PreTrainedModel`.

    The result is an instance of both classes, ours and transformers' of the same name. It shares the given model's
    modules, weights and config: training, moving or loading one does so to both. What it computes, saves and is
    called is ours; from transformers it only has the methods that ours lacks (`add_adapter`, `push_to_hub`, ...), and
    what those lead to: after `add_adapter`, `save_pretrained` writes the adapter alone.
    Pickles and copies of it need both packages; what `save_pretrained` writes needs either.

    Args:
        model: a CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel or
            CLIPVisionModelWithProjection of `clip_torch`, or of a subclass. One that is adapted already is returned.
            Tokenizers, image processors and processors: see `clip_core.adapter.as_transformers`.

    Raises MissingDependencyError without transformers, TypeError for any other model.
    """
    if isinstance(model, _Adapted):
        return model
    if not isinstance(model, Module):
        from clip_core import adapter as processors  # tokenizers and pictures: not needed to import a backend

        if isinstance(model, tuple(processors.CLASSES)):
            return processors.as_transformers(model)
    if not isinstance(model, tuple(CLASSES.values())):
        found = f"{type(model).__module__}.{type(model).__name__}"
        raise TypeError(f"as_transformers: model: wanted one of clip_torch's {', '.join(CLASSES)}, found {found}")
    adapted = object.__new__(_adapted_class(type(model)))
    adapted._share(model)
    return adapted


class _Adapted:
    """What the adapted classes have beside ours and transformers': ways to be made, since transformers' is skipped."""

    _ours: type[PreTrainedModel]

    def __init__(self, config: Any) -> None:
        own = self._ours.config_class
        self._share(self._ours(config if isinstance(config, own) else own(**config.to_dict())))

    def _share(self, model: PreTrainedModel) -> None:
        # What transformers' constructor leaves, as far as its methods look for it.
        theirs = {"all_tied_weights_keys": {}, "warnings_issued": {}, "_plain": model}
        self.__dict__ = {**model.__dict__, **theirs}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As the class of `clip_torch` does it; the result is adapted."""
        loaded = cls._ours.from_pretrained(*args, **kwargs)
        return (as_transformers(loaded[0]), *loaded[1:]) if isinstance(loaded, tuple) else as_transformers(loaded)

    @functools.wraps(Pretrained.save_pretrained)
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        # With a peft adapter added, transformers' method writes the adapter alone, which peft's users expect.
        theirs = getattr(self, "_hf_peft_config_loaded", False)
        super(Pretrained if theirs else _Adapted, self).save_pretrained(*args, **kwargs)

    def load_adapter(
        self,
        peft_model_id: Any = None,
        adapter_name: str | None = None,
        peft_config: Any = None,
        adapter_state_dict: Mapping[str, Any] | None = None,
        is_trainable: bool = False,
        low_cpu_mem_usage: bool = False,
        hotswap: bool | str = False,
        **where: Any,
    ) -> None:
        """Add a peft adapter (LoRA, ...) from a folder or hub name, or from a config and weights.

        In the place of transformers' method, which from 5.6 on looks for names without the tower's prefix. The
        published names are taken (`text_model.encoder...`), and such without the prefix for a model of one tower.

        Args:
            peft_model_id: folder or hub name, read by peft; `where` says more (`revision`, `subfolder`, `token`, ...).
            adapter_name: default "default".
            peft_config, adapter_state_dict: instead of what lies there.
            is_trainable: False freezes the adapter and puts the model into evaluation mode.

        Raises ValueError when the name is taken, or weights are missing or belong nowhere.
        """
        from peft import PeftConfig, inject_adapter_in_model, load_peft_weights, set_peft_model_state_dict

        name = adapter_name or "default"
        if hotswap is True:
            raise ValueError("hotswap: wanted False: adapters are not exchanged in place here")
        if peft_model_id is None and (peft_config is None or adapter_state_dict is None):
            raise ValueError("load_adapter: wanted peft_model_id, or both peft_config and adapter_state_dict")
        if self._hf_peft_config_loaded and name in self.peft_config:
            raise ValueError(f"adapter_name: {name!r} is taken by an adapter of this model")
        if peft_config is None:
            peft_config = PeftConfig.from_pretrained(peft_model_id, **where)
        if adapter_state_dict is None:
            adapter_state_dict = load_peft_weights(peft_model_id, device=str(self.device), **where)
        peft_config.inference_mode = not is_trainable
        inject_adapter_in_model(peft_config, self, name, low_cpu_mem_usage=low_cpu_mem_usage)
        self._hf_peft_config_loaded = True
        found = set_peft_model_state_dict(
            self, _published(self, adapter_state_dict), name, low_cpu_mem_usage=low_cpu_mem_usage
        )
        missing = [key for key in found.missing_keys if name in key.split(".")[-2:]]  # not the model's own
        if missing or found.unexpected_keys:
            self.delete_adapter(name)
            listed = [f"- {key}" for key in missing] + [f"+ {key}" for key in found.unexpected_keys]
            raise ValueError(
                f"adapter {name!r}: wanted the weights of its config (- missing, + unexpected):\n" + "\n".join(listed)
            )
        if not is_trainable:
            self.eval()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return as_transformers, (self._plain,)


def _published(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's weights under this model's names: without peft's prefix, with that of the only tower."""
    state = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    towers = model._towers()
    if len(towers) > 1:
        return state
    inside = tuple(f"{part}." for part, _ in getattr(model, towers[0]).named_children())
    return {f"{towers[0]}.{key}" if key.startswith(inside) else key: value for key, value in state.items()}


@functools.cache
def _adapted_class(ours: type[PreTrainedModel]) -> type:
    """A class of both packages; it has the name and module of transformers', under which other programs file it."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("as_transformers needs transformers: pip install transformers") from error
    name = next(name for name, cls in CLASSES.items() if issubclass(ours, cls))
    theirs = getattr(transformers, name)
    body = {"__module__": theirs.__module__, "__qualname__": name, "__doc__": ours.__doc__, "_ours": ours}
    # Beside them `config_class` is ours; `__init_subclass__` of transformers looks for it in the class itself.
    return type(name, (_Adapted, ours, theirs), {**body, "config_class": ours.config_class})
