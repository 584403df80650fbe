"""Models for bulk runs: a picklable `EncoderSpec` names one, and its `load` is called in the workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np

from ..backends import default_backend, open_backend
from ..fingerprint import fingerprint


class Encoder(Protocol):
    """A loaded model. `read` is called from several threads, `images` and `texts` from one.

    An optional method `threads(most)` returns None, or (a pool of at most so many threads that read pictures and call
    `images` themselves, their number).
    """

    def read(self, picture: bytes | str, name: str) -> np.ndarray:
        """An encoded picture, or the path of one, as pixel values [C, H, W]. Raises ImageError."""

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Pixel values [B, C, H, W] -> unit rows float32 [B, P]."""

    def texts(self, texts: list[str]) -> np.ndarray:
        """N texts -> unit rows float32 [N, P]."""


class EncoderSpec(Protocol):
    """Names a model. `name` is stored with the vectors: `triclip search` loads it to embed a query."""

    name: str

    def identity(self) -> dict[str, Any]:
        """JSON values that differ for models with different vectors."""

    def load(self, batch_size: int) -> Encoder: ...


class ClipSpec:
    """A model that `Clip.from_pretrained` loads, with its arguments."""

    def __init__(
        self,
        name: Any = "emoji",
        backend: str | None = None,
        dtype: str | None = None,
        device: Any = None,
        background: str | None = "white",
        told: Callable[[str], None] | None = None,
    ) -> None:
        from clip_core.hub import BUNDLED

        name = os.fspath(name)
        # Other processes may have other working directories.
        self.name = os.path.abspath(name) if name not in BUNDLED and os.path.exists(name) else name
        self.backend = backend or default_backend()
        self.dtype, self.device, self.background, self.told = dtype, device, background, told

    def identity(self) -> dict[str, Any]:
        """The name, backend, dtype, background, and a digest of the weights, configuration and tokenizer."""
        return {
            "name": self.name,
            "backend": self.backend,
            "dtype": self.dtype or "float32",
            "background": self.background,
            "digest": fingerprint(self.name),
        }

    def load_clip(self) -> Any:
        """The model as a `Clip`; `told` hears on which device, where that was named."""
        from ..pipeline import Clip

        device = self.device
        if isinstance(device, str):
            device, called = open_backend(self.backend).find_device(device)
            if self.told is not None:
                self.told(called)
        return Clip.from_pretrained(self.name, self.backend, self.dtype, device, self.background)

    def load(self, batch_size: int) -> Encoder:
        return ClipEncoder(self.load_clip(), batch_size)


class ClipEncoder:
    """A `Clip` as an `Encoder`."""

    def __init__(self, clip: Any, batch_size: int) -> None:
        from ..data.pictures import PictureReader

        self.clip, self.batch_size = clip, batch_size
        self._reader = PictureReader(clip.processor.image_processor, background=clip.background, upright=True)

    def threads(self, most: int) -> tuple[Executor, int] | None:
        """A thread for each core, if the backend can keep a batch on one core (PyTorch on CPUs)."""
        cores = self.clip.runner.separate_cores(self.clip.model)
        return (self.clip.runner.one_core_workers(cores), cores) if 1 < cores <= most else None

    def read(self, picture: bytes | str, name: str) -> np.ndarray:
        out = np.empty(self._reader.shape, np.float32)
        self._reader.read(picture, name, out, None)
        return out

    def images(self, pixels: np.ndarray) -> np.ndarray:
        return self.clip.encode_pixels(pixels)

    def texts(self, texts: list[str]) -> np.ndarray:
        return self.clip.encode_text(texts, batch_size=self.batch_size, progress=False)
