"""The tools' interface to the backends: one Protocol, which the modules `torch_`, `tf_` and `flax_` implement."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from clip_core.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

# name -> the package that holds its networks
BACKENDS = {"torch": "clip_torch", "tf": "clip_tf", "flax": "clip_flax"}
_NEEDS = {"torch": ("torch",), "tf": ("tensorflow", "keras"), "flax": ("jax", "flax")}


class PairAttentions(NamedTuple):
    """The attention of one picture and one text, as float32 arrays: L layers, H heads, N patches + 1, S tokens.

    vision [L, H, N, N], text [L, H, S, S]: attention weights, a row for each query token.
    vision_gradients, text_gradients: of the logit, with respect to those weights; None unless asked for.
    logit: cosine * exp(logit_scale).
    """

    vision: np.ndarray
    text: np.ndarray
    vision_gradients: np.ndarray | None
    text_gradients: np.ndarray | None
    logit: float


class Backend(Protocol):
    """Functions of a backend's module. Embeddings are float32 [B, P], not normalised."""

    def load_full_model(self, name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        """A full CLIP model in evaluation mode, as its `from_pretrained` loads it."""

    def find_device(self, name: str) -> tuple[Any, str]:
        """The backend's own device for "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps", and what it is
        called. Raises InputError naming the devices there are."""

    def text_features(self, model: Any, input_ids: np.ndarray) -> np.ndarray:
        """Of ids, int64 [B, S], without a mask."""

    def row_features(self, model: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Of B texts' ids, each up to its end token: see `triclip.prefixes.until_end`."""

    def image_features(self, model: Any, pixel_values: np.ndarray) -> np.ndarray:
        """Of pixels, float32 [B, C, H, W]."""

    def logit_scale(self, model: Any) -> float:
        """The stored logarithm."""

    def separate_cores(self, model: Any) -> int:
        """How many cores may compute a batch each (`one_core_workers`); 1 if a batch can't be kept on one core."""

    def one_core_workers(self, count: int) -> Executor:
        """`count` threads whose products stay on one core each."""

    def pair_attentions(
        self, model: Any, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
    ) -> PairAttentions:
        """Of pixels float32 [1, C, H, W] and ids int64 [1, S]; the model is not changed."""


def open_backend(name: str) -> Backend:
    """The backend of that name. Raises InputError for another name, MissingDependencyError naming the extra."""
    if name not in BACKENDS:
        raise InputError(f"backend: wanted one of {', '.join(BACKENDS)}, found {name!r}")
    try:
        return cast(Backend, import_module(f"{__name__}.{name}_"))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("triclip", "clip_core", *BACKENDS.values()):
            raise
        there = ", ".join(installed()) or "no other"
        raise MissingDependencyError(
            f"backend {name!r} needs {error.name}, which is not installed: pip install 'triclip[{name}]' "
            f"(installed: {there})"
        ) from error


def installed() -> list[str]:
    """The names of the backends whose packages are there; nothing is imported."""
    return [name for name, packages in _NEEDS.items() if all(map(_is_there, packages))]


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it was taken out of sys.modules
        return False


def default_backend() -> str:
    """The first one that is installed. Raises MissingDependencyError when none is."""
    for name in installed():
        return name
    raise MissingDependencyError(
        "no backend is installed: pip install 'triclip[torch]' (or 'triclip[tf]', 'triclip[flax]')"
    )


def no_such_device(name: str, there: Sequence[str]) -> InputError:
    """The error of a device that isn't there."""
    return InputError(f"device {name!r}: wanted auto or one of {', '.join(there)}")
