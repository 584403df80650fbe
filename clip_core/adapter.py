"""An optional bridge to transformers: tokenizers and processors as instances of transformers' classes too.

transformers is imported only when `as_transformers` is called.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from .absent import absent_names
from .errors import MissingDependencyError
from .image.processor import CLIPImageProcessor
from .processor import CLIPProcessor
from .text.tokenizer import CLIPTokenizer, CLIPTokenizerFast

# A class of this package -> transformers' classes whose place it can take: the first that the installed version has.
CLASSES: dict[type, tuple[str, ...]] = {
    CLIPTokenizerFast: ("CLIPTokenizerFast", "CLIPTokenizer"),
    CLIPTokenizer: ("CLIPTokenizer",),
    CLIPImageProcessor: ("CLIPImageProcessor",),
    CLIPProcessor: ("CLIPProcessor",),
}


def as_transformers(part: Any) -> Any:
    """The same tokenizer, image processor or processor, for programs that insist on transformers' classes.

    `VisionTextDualEncoderProcessor`, diffusers' type checks and the like take it. The result is an instance of both
    classes and shares its state with `part`: a token added to one is added to both. Behaviour, files and class name
    are this package's; transformers' methods are reached only for names that this package lacks.

    Args:
        part: a CLIPTokenizer, CLIPTokenizerFast, CLIPImageProcessor or CLIPProcessor of this package, or of a subclass.
            An adapted one is returned unchanged.

    Raises MissingDependencyError without transformers, TypeError for anything else.
    """
    if isinstance(part, _Adapted):
        return part
    if not isinstance(part, tuple(CLASSES)):
        names = ", ".join(cls.__name__ for cls in CLASSES)
        found = f"{type(part).__module__}.{type(part).__name__}"
        raise TypeError(f"as_transformers: wanted one of {names} of clip_core, found {found}")
    ours: Any = type(part)
    adapted: Any = object.__new__(_adapted_class(ours))
    if isinstance(part, CLIPProcessor):
        own = {name: as_transformers(getattr(part, name)) for name in part.attributes}
        adapted.__dict__ = {**part.__dict__, **own}
    else:
        adapted.__dict__ = part.__dict__
    return adapted


class _Adapted:
    """Pickling and copying of adapted classes: the plain object is pickled and adapted again."""

    _ours: type

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain: Any = object.__new__(self._ours)
        plain.__dict__ = self.__dict__
        return as_transformers, (plain,)

    def __deepcopy__(self, memo: dict) -> Any:
        function, (plain,) = self.__reduce_ex__(2)
        return function(copy.deepcopy(plain, memo))


@functools.cache
def _adapted_class(ours: type) -> type:
    """A subclass of both packages' classes, with the name and module of transformers', which other programs check."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("as_transformers needs transformers: pip install transformers") from error
    names = next(names for cls, names in CLASSES.items() if issubclass(ours, cls))
    name = next(name for name in names if getattr(transformers, name, None) is not None)
    theirs = getattr(transformers, name)
    # Names that this package's class refuses come from transformers' class.
    kept = {n: inspect.getattr_static(theirs, n) for n in absent_names("tokenizer", "processor") if hasattr(theirs, n)}
    body = {**kept, "__module__": theirs.__module__, "__qualname__": name, "__doc__": ours.__doc__, "_ours": ours}
    return type(name, (_Adapted, ours, theirs), body)
