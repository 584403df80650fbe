"""An optional bridge to transformers: a model of this package as an instance of transformers' class of the same name.

transformers is imported only when `as_transformers` is called.
"""

from __future__ import annotations

import copyreg
import functools
from typing import Any

from torch.nn import Module

from clip_core.errors import MissingDependencyError
from clip_core.outputs import ModelOutput

from . import modeling
from .bridge import PreTrainedModel

# transformers' class -> ours
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
    modules, weights and config: training, moving or loading one affects both. Computation, saving and naming are ours,
    calls return transformers' class of outputs, and transformers' methods are used only if ours lacks them. It works in
    transformers' pipelines, VisionTextDualEncoderModel and other classes that contain a CLIP. Pickles and copies of it
    need both packages; files of `save_pretrained` need either.

    Args:
        model: a CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel or
            CLIPVisionModelWithProjection of `clip_torch`, or of a subclass. An adapted one is returned unchanged.
            Tokenizers, image processors and processors: see `clip_core.adapter.as_transformers`.

    Raises MissingDependencyError without transformers, TypeError for any other model.
    """
    if isinstance(model, _Adapted):
        return model
    if not isinstance(model, Module):
        from clip_core import adapter as processors  # slow to import

        if isinstance(model, tuple(processors.CLASSES)):
            return processors.as_transformers(model)
    if not isinstance(model, tuple(CLASSES.values())):
        found = f"{type(model).__module__}.{type(model).__name__}"
        raise TypeError(f"as_transformers: model: wanted one of clip_torch's {', '.join(CLASSES)}, found {found}")
    adapted = object.__new__(_adapted_class(type(model)))
    adapted._share(model)
    return adapted


class _Adapted:
    """Construction of adapted classes, for which transformers' constructor is skipped."""

    _ours: type[PreTrainedModel]

    def __init__(self, config: Any) -> None:
        own = self._ours.config_class
        self._share(self._ours(config if isinstance(config, own) else own(**config.to_dict())))

    def _share(self, model: PreTrainedModel) -> None:
        # Attributes that transformers' constructor sets and its methods need.
        theirs = {"all_tied_weights_keys": {}, "warnings_issued": {}, "_plain": model}
        self.__dict__ = {**model.__dict__, **theirs}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As `from_pretrained` of `clip_torch`'s class; the result is adapted."""
        loaded = cls._ours.from_pretrained(*args, **kwargs)
        return (as_transformers(loaded[0]), *loaded[1:]) if isinstance(loaded, tuple) else as_transformers(loaded)

    def _initialize_weights(self, module: Any, *others: Any) -> None:
        # What transformers' class around this one calls for every module in it: those of ours have their weights.
        pass

    def tie_embeddings_and_encoder_decoder(self) -> None:
        # Called by transformers' outer classes for every inner model; their own method requires their config.
        self.tie_weights()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return as_transformers, (self._plain,)


class _AdaptedType(type):
    """The type of adapted classes: pickled by what they were made of, since other programs know another class under
    their name (a traced model's pickle, for one, holds its class)."""

    _ours: type[PreTrainedModel]


copyreg.pickle(_AdaptedType, lambda cls: (_adapted_class, (cls._ours,)))  # type: ignore[arg-type]


@functools.cache
def _adapted_class(ours: type[PreTrainedModel]) -> type:
    """A subclass of both packages' classes, with the name and module of transformers', which other programs check."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("as_transformers needs transformers: pip install transformers") from error
    name = next(name for name, cls in CLASSES.items() if issubclass(ours, cls))
    theirs = getattr(transformers, name)

    @functools.wraps(ours.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _as_theirs(ours.forward(self, *args, **kwargs))

    body = {"__module__": theirs.__module__, "__qualname__": name, "__doc__": ours.__doc__, "_ours": ours}
    body["forward"] = forward
    # Also `config_class`, which `__init_subclass__` of transformers looks up in the class itself.
    return _AdaptedType(name, (_Adapted, ours, theirs), {**body, "config_class": ours.config_class})


def _as_theirs(value: Any) -> Any:
    """An output as transformers' class of the same name, which their programs check; other values unchanged."""
    if not isinstance(value, ModelOutput):
        return value
    from transformers import modeling_outputs
    from transformers.models.clip import modeling_clip

    name = type(value).__name__
    cls = getattr(modeling_outputs, name, None) or getattr(modeling_clip, name, None)
    return value if cls is None else cls(**{field: _as_theirs(item) for field, item in value.items()})
