"""The models' outputs: every field declared once, in v4.37's order.

An output is a dict without its absent (None) fields, with attribute access (`out.text_embeds`; an absent field is
None), index access over the present fields (`out[0]`), and `to_tuple()`. The backends register the classes as pytrees
with their framework through `OUTPUT_CLASSES`, `flatten` and `unflatten`; nothing here imports one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

# Callbacks of the backends for every output class, subclasses made later included.
_registering: list[Callable[[Any], None]] = []
# Callbacks delayed to a class's first output, for frameworks in which others may register the class first.
_registering_late: list[Callable[[Any], None]] = []
_seen: set[type] = set()


class ModelOutput(OrderedDict):
    """Base class of all outputs. Subclasses are dataclasses whose fields default to None.

    The first argument may also be a mapping or an iterable of pairs, by which libraries that map over containers
    rebuild dict-like ones. Deleting is refused (as in v4.37), because positions would silently change.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for register in _registering:  # with the frameworks that are in use
            register(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Of this class itself: any fields. Raises TypeError in a subclass that is not a dataclass."""
        if type(self) is not ModelOutput and not is_dataclass(self):
            raise TypeError(f"{type(self).__name__}: wanted a dataclass, as every class of outputs is: add @dataclass")
        super().__init__(*args, **kwargs)

    def __post_init__(self) -> None:
        if type(self) not in _seen:
            _register_late(type(self))
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        first = getattr(self, names[0])
        if _is_pairs(first) and all(getattr(self, name) is None for name in names[1:]):
            given = dict(first)
            object.__setattr__(self, names[0], None)
            for name, value in given.items():
                if name not in names:
                    raise KeyError(f"{type(self).__name__} has no field {name!r}: its fields are {', '.join(names)}")
                object.__setattr__(self, name, value)
        for name in names:
            value = getattr(self, name)
            if value is not None:
                super().__setitem__(name, value)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self and value is not None:
            super().__setitem__(name, value)
        object.__setattr__(self, name, value)

    def __delitem__(self, key: Any) -> None:
        raise TypeError(f"{type(self).__name__} is a fixed record: fields can't be deleted")

    def pop(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is a fixed record: fields can't be popped")

    def popitem(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is a fixed record: fields can't be popped")

    def clear(self) -> None:
        raise TypeError(f"{type(self).__name__} is a fixed record: fields can't be deleted")

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is a fixed record: use attribute assignment")

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{type(self).__name__} is a fixed record: use attribute assignment")

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """The present fields, in order."""
        return tuple(super(ModelOutput, self).__getitem__(key) for key in self.keys())

    def replace(self, **changes: Any) -> ModelOutput:
        """A copy with some fields changed (Flax outputs have this method in v4.37)."""
        return type(self)(**{**dict(self), **changes})


def _is_pairs(value: Any) -> bool:
    """Whether it is a mapping or an iterable of (name, value) pairs; tensors, iterable too, are excluded by `shape`."""
    if isinstance(value, Mapping):
        return True
    if hasattr(value, "shape") or not isinstance(value, Iterable) or isinstance(value, str | bytes):
        return False
    if isinstance(value, list | tuple):
        pairs = [isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str) for v in value]
        if any(pairs[:1]) and not all(pairs):
            raise ValueError(f"output: wanted (name, value) pairs throughout, found {value[pairs.index(False)]!r}")
        return bool(pairs) and all(pairs)
    return hasattr(value, "__next__")


@dataclass(eq=False, repr=False)
class BaseModelOutput(ModelOutput):
    """An encoder's output: last_hidden_state [B, S, D]; hidden_states, attentions on request."""

    last_hidden_state: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class BaseModelOutputWithPooling(ModelOutput):
    """A tower's output.

    last_hidden_state [B, S, D]; pooler_output [B, D]; hidden_states: embeddings and every layer, each [B, S, D];
    attentions: one per layer, [B, heads, S, S], after softmax. The last two on request.
    """

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: Any = None
    attentions: Any = None


def tower_output(encoded: BaseModelOutput, last_hidden_state: Any, pooled: Any, return_dict: bool) -> Any:
    """A tower's output, from its encoder's, as a class or a tuple."""
    out = BaseModelOutputWithPooling(last_hidden_state, pooled, encoded.hidden_states, encoded.attentions)
    return out if return_dict else out.to_tuple()


@dataclass(eq=False, repr=False)
class CLIPTextModelOutput(ModelOutput):
    """text_embeds [B, P], not normalised; last_hidden_state [B, S, D]; hidden_states, attentions on request."""

    text_embeds: Any = None
    last_hidden_state: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class CLIPVisionModelOutput(ModelOutput):
    """image_embeds [B, P], not normalised; last_hidden_state [B, S, D]; hidden_states, attentions on request."""

    image_embeds: Any = None
    last_hidden_state: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class ImageClassifierOutput(ModelOutput):
    """loss () with labels; logits [B, labels]; hidden_states, attentions on request."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class CLIPOutput(ModelOutput):
    """The full model's output.

    loss () when `return_loss`; logits_per_image [images, texts]; logits_per_text [texts, images]; text_embeds and
    image_embeds [B, P] of unit length; the two towers' outputs.
    """

    loss: Any = None
    logits_per_image: Any = None
    logits_per_text: Any = None
    text_embeds: Any = None
    image_embeds: Any = None
    text_model_output: Any = None
    vision_model_output: Any = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The present fields in order, with the towers' outputs as tuples."""
        values = ModelOutput.to_tuple(self)
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in values)


@dataclass(eq=False, repr=False)
class FlaxCLIPOutput(ModelOutput):
    """CLIPOutput as Flax returns it: v4.37 gives it no `loss` field."""

    logits_per_image: Any = None
    logits_per_text: Any = None
    text_embeds: Any = None
    image_embeds: Any = None
    text_model_output: Any = None
    vision_model_output: Any = None

    to_tuple = CLIPOutput.to_tuple


OUTPUT_CLASSES: tuple[type[ModelOutput], ...] = (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    ImageClassifierOutput,
    CLIPOutput,
    FlaxCLIPOutput,
)


def for_each_class(register: Callable[[Any], None]) -> Callable[[Any], None]:
    """Call `register` with every output class, including subclasses that are defined later."""
    for cls in (ModelOutput, *_classes(ModelOutput)):
        register(cls)
    _registering.append(register)
    return register


def for_each_class_in_use(register: Callable[[Any], None]) -> Callable[[Any], None]:
    """As `for_each_class`, but for a subclass at its first output, because `flax.struct.dataclass` on a subclass would
    register it too."""
    for cls in (*OUTPUT_CLASSES, *(_seen - set(OUTPUT_CLASSES))):
        register(cls)
    _registering_late.append(register)
    return register


def _register_late(cls: type) -> None:
    _seen.add(cls)
    for register in _registering_late:
        if cls not in OUTPUT_CLASSES:
            register(cls)


def _classes(cls: Any) -> list[Any]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_classes(sub))]


def flatten(output: ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
    """An output as (values, names), for the frameworks' pytree registries."""
    return [output[name] for name in output], tuple(output)


def unflatten(cls: type[ModelOutput], names: Iterable[str], values: Iterable[Any]) -> ModelOutput:
    """The inverse of `flatten`. Values may be placeholders of any type, so the pairs form is not used."""
    output = cls()
    for name, value in zip(names, values, strict=True):
        output[name] = value
    return output
