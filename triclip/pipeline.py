"""`Clip`: images and sentences to vectors, similarities and classes, over any backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clip_core.errors import ImageError, InputError
from clip_core.hub import DEFAULT_MODEL, HUB_ARGUMENTS
from clip_core.image.input import flatten, load_image
from clip_core.machine import usable_cpus

from .backends import Backend, default_backend, open_backend
from .prefixes import until_end
from .progress import Progress
from .walk import check_some, find_pictures
from .zero_shot import DEFAULT_TEMPLATES, Classification, as_labels, as_templates, softmax, unit, zero_shot_head

HEAD_BATCH = 512  # sentences of a head's labels at a time


class ImageEmbeddings(NamedTuple):
    """The result of `Clip.embed`.

    vectors: float32 [N, P] unit rows; sources: their N pictures; skipped: (picture, reason) of the others.
    """

    vectors: np.ndarray
    sources: list[Any]
    skipped: list[tuple[Any, str]]


class _Values(NamedTuple):
    """A picture file's pixel values [C, H, W]."""

    source: Any
    pixels: np.ndarray


class Clip:
    """A CLIP model with its tokenizer and image processor. Vectors are NumPy float32 of unit length.

    Args:
        model: a full CLIP model of one of the backends.
        processor: a CLIPProcessor.
        backend: "torch", "tf" or "flax", the one the model belongs to.
        background: the colour behind transparent pictures, as `clip_core.image.input.flatten` takes it (default
            "white"); None leaves them to the processor, which drops the transparency as transformers does.
        text_encoder: makes the texts' vectors instead of the model's own text tower, as multilingual CLIPs have it: a
            function from a list of strings to vectors [N, projection_dim], of NumPy or any framework, or an object
            with such an `encode`, sentence-transformers' models for one. Its vectors must lie in the model's space.
            It is given what is written, cut and tokenized by nobody.

    Usually made by `Clip.from_pretrained()`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        backend: str = "torch",
        background: Any = "white",
        text_encoder: Any = None,
    ) -> None:
        open_backend(backend)  # a wrong name or a missing package is said here
        self.text_encoder = text_encoder
        if text_encoder is not None:
            _as_function(text_encoder)
        self.model, self.processor, self.backend, self.background = model, processor, backend, background
        self.config = model.config
        self.templates = tuple(getattr(self.config, "prompt_templates", None) or DEFAULT_TEMPLATES)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike = DEFAULT_MODEL,
        backend: str | None = None,
        dtype: Any = None,
        device: Any = None,
        background: Any = "white",
        text_encoder: Any = None,
        **kwargs: Any,
    ) -> Clip:
        """Load a model with its processor.

        Args:
            name_or_path: "emoji" (the embedded default, offline), a folder, a checkpoint file, or a hub name such as
                "openai/clip-vit-base-patch32" (extra `hub`).
            backend: "torch", "tf" or "flax"; default the first of them that is installed.
            dtype: "float32" (default), "float16", "bfloat16", "auto", or a dtype object of the backend; "int8", with
                the backend torch and the extra `onnx`, on CPUs: encoders of 8-bit weights (`clip_torch.int8`).
            device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", or a device of the backend; default
                its own default.
            background: see the class.
            **kwargs: as for `CLIPModel.from_pretrained`: mmap, revision, cache_dir, local_files_only, token, …

        Raises FileNotFoundError, CheckpointError, ConfigError as that does; MissingDependencyError without the backend.
        """
        backend = backend or default_backend()
        model = open_backend(backend).load_full_model(name_or_path, dtype=dtype, device=device, **kwargs)
        where = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        return cls(model, load_processor(name_or_path, model.config, **where), backend, background, text_encoder)

    @property
    def runner(self) -> Backend:
        """The backend's functions, looked up at each use so that a Clip can be copied and pickled with its model."""
        return open_backend(self.backend)

    @property
    def logit_scale(self) -> float:
        """The factor of cosines before the softmax: exp of the model's parameter."""
        return float(np.exp(self.runner.logit_scale(self.model)))

    def encode_text(
        self,
        texts: str | Iterable[str],
        batch_size: int = 64,
        normalize: bool = True,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Sentences -> float32 [N, P]. Sentences too long for the model are truncated, with the end token kept.

        A batch is computed without padding where the backend can, and what its sentences begin with in common once. A
        `text_encoder` is given each string once, about equal lengths together, and cuts them as it likes.
        `progress`: None shows a bar on a terminal when it takes a while. Raises InputError on an empty list and on
        anything that is no string.
        """
        texts, batch_size = _as_texts(texts), _as_count("batch_size", batch_size)
        if self.text_encoder is None:
            config = self.config.text_config
            limit = config.max_position_embeddings
            ids = self.processor.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
            rows: list[Any] = [tuple(until_end(row, config)) for row in ids]
            # About equal lengths together, for little padding, and in them what begins alike.
            distinct = sorted(set(rows), key=lambda row: (-(-len(row) // 4), row))
            encode: Callable[[list[Any]], np.ndarray] = partial(self.runner.row_features, self.model)
        else:
            rows, encode = texts, self._encode_strings
            distinct = sorted(set(rows), key=lambda text: (len(text), text))
        vectors = np.empty((len(distinct), self.config.projection_dim), np.float32)
        with Progress("texts", len(distinct), progress) as bar:
            for start in range(0, len(distinct), batch_size):
                chunk = distinct[start : start + batch_size]
                vectors[start : start + batch_size] = encode(chunk)
                bar.advance(len(chunk))
        number = {row: i for i, row in enumerate(distinct)}
        out = vectors[[number[row] for row in rows]]
        return unit(out) if normalize else out

    def _encode_strings(self, texts: list[str]) -> np.ndarray:
        """What the text encoder gives. Raises InputError for another shape than [texts, P], and for NaN."""
        vectors = _as_function(self.text_encoder)(texts)
        if hasattr(vectors, "detach"):  # PyTorch's
            vectors = vectors.detach().float().cpu()
        try:
            array = np.asarray(vectors)
        except ValueError as error:  # lists of several lengths
            raise InputError(f"text_encoder: found no vectors of one width: {error}") from None
        wanted = (len(texts), self.config.projection_dim)
        if array.dtype.name == "bfloat16":  # which NumPy takes for no number
            array = array.astype(np.float32)
        if array.shape != wanted or array.dtype.kind not in "fiu":
            raise InputError(
                f"text_encoder: wanted vectors {list(wanted)} for {len(texts)} texts, as wide as the model's "
                f"projection_dim, found {array.dtype} {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise InputError("text_encoder: found NaN or infinity among its vectors")
        return array.astype(np.float32)

    def encode_image(
        self, images: Any, batch_size: int = 32, normalize: bool = True, progress: bool | None = None
    ) -> np.ndarray:
        """Pictures -> float32 [N, P].

        `images`: a path, a folder, a glob pattern, a Pillow image, an array (HWC or CHW), or an iterable of such;
        folders and patterns are read in name order; pictures are turned upright as their EXIF says. `batch_size`: at
        most so many at a time, over all cores. Raises ImageError naming the first picture that can't be read; use
        `embed` to skip such ones.
        """
        return self.embed(images, batch_size, normalize, progress, skip_unreadable=False).vectors

    def embed(
        self,
        images: Any,
        batch_size: int = 32,
        normalize: bool = True,
        progress: bool | None = None,
        skip_unreadable: bool = True,
    ) -> ImageEmbeddings:
        """As `encode_image`, but reports unreadable pictures instead of raising."""
        sources, batch_size = expand_images(images), _as_count("batch_size", batch_size)
        cores = self.runner.separate_cores(self.model)
        if 1 < cores <= len(sources) // 2 and all(isinstance(source, (str, os.PathLike)) for source in sources):
            parts = self._core_by_core(sources, -(-batch_size // cores), skip_unreadable, cores)
        else:
            parts = self._decoding_ahead(sources, batch_size, skip_unreadable)
        found = []
        with Progress("images", len(sources), progress) as bar:
            for part in parts:
                found.append(part)
                bar.advance(len(part.sources) + len(part.skipped))
        joined = np.concatenate([part.vectors for part in found], dtype=np.float32)
        return ImageEmbeddings(
            unit(joined) if normalize else joined,
            [source for part in found for source in part.sources],
            [entry for part in found for entry in part.skipped],
        )

    def _decoding_ahead(self, sources: list[Any], batch_size: int, skip: bool) -> Iterator[ImageEmbeddings]:
        """Decode the next batch while the model computes this one; Pillow works without the GIL."""
        batches = [sources[i : i + batch_size] for i in range(0, len(sources), batch_size)]
        with (
            ThreadPoolExecutor(min(usable_cpus(), len(batches[0]))) as pool,
            ThreadPoolExecutor(1) as ahead,
        ):
            pending = ahead.submit(self._pixels, batches[0], skip, pool.map)
            for batch in batches[1:]:
                read = pending.result()
                pending = ahead.submit(self._pixels, batch, skip, pool.map)
                yield self._features(*read)
            yield self._features(*pending.result())

    def _core_by_core(self, sources: list[Any], batch_size: int, skip: bool, cores: int) -> Iterator[ImageEmbeddings]:
        """Each core decodes and computes whole batches, so that no core waits for others within a layer."""
        rounds = -(-len(sources) // (batch_size * cores))
        size = -(-len(sources) // (rounds * cores))  # so that all cores finish at about the same time
        batches = [sources[i : i + size] for i in range(0, len(sources), size)]
        with self.runner.one_core_workers(cores) as workers:
            yield from workers.map(lambda batch: self._features(*self._pixels(batch, skip, map)), batches)

    def _features(self, pixels: np.ndarray | None, good: list, bad: list) -> ImageEmbeddings:
        if pixels is None:
            return ImageEmbeddings(np.empty((0, self.config.projection_dim), np.float32), good, bad)
        return ImageEmbeddings(self.runner.image_features(self.model, pixels), good, bad)

    def _pixels(self, sources: Sequence[Any], skip: bool, each: Callable) -> tuple[np.ndarray | None, list, list]:
        """(pixel values or None, their sources, (source, reason) of the others). `each`: `map` or a parallel one."""
        loaded = list(each(self._load_or_reason, sources))
        pairs = list(zip(sources, loaded, strict=True))
        bad = [(source, result) for source, result in pairs if isinstance(result, Exception)]
        if bad and not skip:
            raise bad[0][1]
        good = [source for source, result in pairs if not isinstance(result, Exception)]
        pictures = [result for result in loaded if not isinstance(result, Exception)]
        skipped = [(source, str(error)) for source, error in bad]
        if not pictures:
            return None, good, skipped
        values = [picture for picture in pictures if isinstance(picture, _Values)]
        if len(values) == len(pictures) and len({value.pixels.shape for value in values}) == 1:
            return np.stack([value.pixels for value in values]), good, skipped
        # One call, because the channel order is inferred from the first array; it refuses different shapes.
        pictures = [self._opened(picture.source) if isinstance(picture, _Values) else picture for picture in pictures]
        made = self.processor.image_processor(pictures, return_tensors="np", apply_exif_orientation=True)
        return made["pixel_values"], good, skipped

    def encode_pixels(self, pixel_values: np.ndarray, normalize: bool = True) -> np.ndarray:
        """Pixel values from the image processor, float32 [B, C, H, W], in one batch -> float32 [B, P]."""
        out = self.runner.image_features(self.model, pixel_values)
        return unit(out) if normalize else out

    def _opened(self, source: Any) -> Any:
        """A picture decoded and composed over the background; arrays unchanged."""
        picture = load_image(source)
        return picture if isinstance(picture, np.ndarray) else flatten(picture, self.background)

    def _load_or_reason(self, source: Any) -> Any:
        """A file's pixel values, any other picture decoded, or the error.

        A file is processed in the thread that decodes it, while its pixels are in that core's cache.
        """
        try:
            if not isinstance(source, (str, os.PathLike)):
                return self._opened(source)
            with load_image(source, unread_jpeg=True) as picture:  # type: ignore[union-attr]  # of a path: an image
                flat = flatten(picture, self.background)
                upright = self.processor.image_processor(flat, apply_exif_orientation=True)
                return _Values(source, upright["pixel_values"][0])
        except (ImageError, OSError) as error:
            return error

    def similarity(self, images: Any, texts: Any) -> np.ndarray:
        """Cosines float32 [images, texts]. Either side may also be vectors [N, P] from the encoders."""
        return self._vectors(images, self.encode_image) @ self._vectors(texts, self.encode_text).T

    def _vectors(self, given: Any, encode: Any) -> np.ndarray:
        return unit(given) if self._are_vectors(given) else encode(given)

    def _are_vectors(self, given: Any) -> bool:
        width = self.config.projection_dim
        return isinstance(given, np.ndarray) and given.ndim == 2 and given.shape[1] == width and given.dtype.kind == "f"

    def zero_shot_head(self, labels: Iterable[str], templates: str | Iterable[str] | None = None) -> np.ndarray:
        """Unit columns [P, C], one per label; `vectors @ head * logit_scale` are the logits."""
        chosen = as_templates(self.templates if templates is None else templates)
        # What templates share is computed once: few tokens are left of a text, and only many texts fill products.
        encode = partial(self.encode_text, batch_size=HEAD_BATCH)
        return zero_shot_head(encode, as_labels(labels, distinct=False), chosen)

    def classify(
        self,
        images: Any,
        labels: Iterable[str],
        templates: str | Iterable[str] | None = None,
        skip_unreadable: bool = False,
    ) -> Classification:
        """The labels of each picture: probabilities [images, labels], and ranked pairs by indexing.

        Args:
            images: as for `encode_image`, or vectors [N, P].
            labels: distinct strings.
            templates: sentences with `{}` for the label; default the model's own (`clip.templates`).
            skip_unreadable: leave out unreadable pictures and name them in `skipped`, instead of raising ImageError.
                `sources` has the picture of each row.
        """
        labels = as_labels(labels)
        head = self.zero_shot_head(labels, templates)
        if self._are_vectors(images):
            return Classification(tuple(labels), softmax(unit(images) @ head * self.logit_scale))
        found = self.embed(images, skip_unreadable=skip_unreadable)
        probabilities = softmax(found.vectors @ head * self.logit_scale)
        return Classification(tuple(labels), probabilities, tuple(found.sources), tuple(found.skipped))


def load_processor(name_or_path: Any, config: Any, **where: Any) -> Any:
    """The model's CLIPProcessor. Missing parts of a checkpoint are completed: OpenAI's vocabulary if it fits the model,
    and OpenAI's preprocessing at the model's picture size."""
    from clip_core.hub import resolve_folder
    from clip_core.image.processor import CLIPImageProcessor
    from clip_core.processor import CLIPProcessor
    from clip_core.text.tokenizer import CLIPTokenizerFast

    folder = resolve_folder(name_or_path, **where)
    has = (lambda name: (folder / name).is_file()) if folder.is_dir() else (lambda name: False)
    if has("tokenizer.json") or has("vocab.json"):
        tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = CLIPTokenizerFast()
        if len(tokenizer) != config.text_config.vocab_size:
            raise FileNotFoundError(
                f"{folder}: no tokenizer.json or vocab.json, and OpenAI's vocabulary of {len(tokenizer)} tokens does "
                f"not fit the model's vocab_size {config.text_config.vocab_size}"
            )
    if has("preprocessor_config.json") or has("processor_config.json"):
        image_processor = CLIPImageProcessor.from_pretrained(folder)
    else:
        side = config.vision_config.image_size
        image_processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return CLIPProcessor(image_processor, tokenizer)


def expand_images(images: Any) -> list[Any]:
    """Folders and glob patterns as the pictures they hold (see `walk`), in name order; all else as it is, in a list.

    Raises InputError if nothing is left, FileNotFoundError for a path or pattern without a match.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    elif _is_one(images):
        images = [images]
    out: list[Any] = []
    for image in images:
        out += _expand(image) if isinstance(image, str | os.PathLike) else [image]
    if not out:
        raise InputError("images: wanted at least one picture, found none")
    return out


def _is_one(images: Any) -> bool:
    """Whether the value is a single picture: a path, a Pillow image, or an array of NumPy or a framework."""
    return (
        isinstance(images, str | os.PathLike | Image.Image)
        or not isinstance(images, Iterable)
        or hasattr(images, "__array__")
    )


def _expand(path: str | os.PathLike) -> list[Path]:
    walk = find_pictures([path])
    check_some(walk)
    return [Path(found) for found in walk.files]


def _as_function(text_encoder: Any) -> Callable[[list[str]], Any]:
    """`text_encoder` of the class as a function. sentence-transformers' models are callable too, for another thing."""
    encode = getattr(text_encoder, "encode", text_encoder)
    if isinstance(text_encoder, str) or not callable(encode):  # a string has an encode, too
        raise InputError(
            "text_encoder: wanted a function from a list of strings to vectors, or an object with such an encode, "
            f"found {type(text_encoder).__name__}"
        )
    return encode


def _as_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: wanted a whole number from 1, found {value!r}")
    return int(value)


def _as_texts(texts: Any) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise InputError("texts: wanted at least one string, found none")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"texts: wanted strings, found {text!r}")
    return texts
