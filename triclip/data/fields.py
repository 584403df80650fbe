"""The usual names of columns, features and JSON fields, and the conversion of their values to samples."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import tokenize
from collections.abc import Iterable, Sequence
from typing import Any

from clip_core.errors import DataError

IMAGES = ("image", "images", "filepath", "file_name", "filename", "image_path", "path", "img", "jpg", "png", "webp",
          "image/encoded", "image_bytes")  # fmt: skip
CAPTIONS = ("caption", "captions", "text", "texts", "txt", "title", "sentence", "sentences", "image/caption",
            "image/captions")  # fmt: skip
LABELS = ("label", "labels", "class", "cls", "target", "image/class/label")


def first_present(names: Sequence[str], found: Iterable[str]) -> list[str]:
    """The first of the usual names found, ignoring case; [] if there is none."""
    by_lower: dict[str, str] = {}
    for key in found:
        by_lower.setdefault(key.lower(), key)
    return next(([by_lower[name]] for name in names if name in by_lower), [])


def split_keys(key: str | None, found: Iterable[str]) -> list[str]:
    """The columns that `key` names: one, or several separated by commas. [] unless all exist."""
    if key is None:
        return []
    there = set(found)
    if key in there:
        return [key]
    several = [part.strip() for part in key.split(",")]
    return several if all(part in there for part in several) else []


def choose(kind: str, key: str | None, usual: Sequence[str], found: Sequence[str], where: Any) -> list[str]:
    """The columns to read. Raises DataError, which lists the existing columns."""
    keys = split_keys(key, found) if key else first_present(usual, found)
    if keys:
        return keys
    wanted = repr(key) if key else f"one of {', '.join(usual)} (or {kind}_key)"
    raise DataError(f"{where}: wanted a column for the {kind}: {wanted}; found {', '.join(map(repr, found)) or 'none'}")


def as_captions(values: Sequence[Any], name: str) -> list[str]:
    """Strings, or lists of strings, as captions; stripped, empty ones removed."""
    captions: list[str] = []
    for value in values:
        if isinstance(value, str):
            value = _listed(value, name)
        if isinstance(value, list) and all(type(caption) is str for caption in value):  # fast path
            captions += filter(None, map(str.strip, value))
            continue
        for caption in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(caption, dict):  # COCO's sentences: {"raw": "…", "tokens": […]}
                caption = next((caption[key] for key in ("raw", "caption", "text") if key in caption), caption)
            if caption is None:
                continue
            if isinstance(caption, bytes):
                caption = decode_text(caption, name)
            if not isinstance(caption, str):
                raise DataError(f"{name}: wanted captions as strings, found {type(caption).__name__}")
            if stripped := caption.strip():
                captions.append(stripped)
    if not captions:
        raise DataError(f"{name}: wanted a caption, found only empty ones")
    return captions


def captions_if_any(values: Sequence[Any], name: str) -> list[str]:
    """As `as_captions`, for optional captions: [] if there are none, or none that can be read."""
    try:
        return as_captions(values, name)
    except DataError:
        return []


def _listed(text: str, name: str) -> Any:
    """A list of strings inside a text column, in JSON or as pandas writes Python lists and NumPy arrays.

    The text itself if it is not a list: a caption may be in brackets. Raises DataError for a list that NumPy has
    abbreviated.
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "()", "{}"):
        return text
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        value = _python_list(stripped, name)
    return value if isinstance(value, list) and all(isinstance(one, str | dict | None) for one in value) else text


def _python_list(text: str, name: str) -> list[Any] | None:
    """['a', "b's"], ('a', 'b'), {'a', 'b'}, [{'raw': 'a'}]; and an array's ['a' 'b'], which Python would read as one
    string. None for anything else."""
    if not re.match(r"\[\s*[\"'Nn.]", text):
        return _literal(text)
    found: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                found.append(ast.literal_eval(token.string))
            elif token.string == "...":
                raise DataError(
                    f"{name}: wanted a whole list, found one that was shortened when it was written: {text}"
                )
            elif token.string not in ("[", "]", ",", "None", "nan", "") and not token.string.isspace():
                return None
    except (tokenize.TokenError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        return None
    return found if found and all(isinstance(one, str) for one in found) else None


def _literal(text: str) -> list[Any] | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(value, set):
        value = sorted(value, key=str)
    return list(value) if isinstance(value, list | tuple) and value else None


def as_label(value: Any, name: str) -> int | str:
    """A class number or name; digits are a number."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = decode_text(value, name)
    if isinstance(value, str) and value.strip():
        value = value.strip()
        return int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise DataError(f"{name}: wanted a class number or name, found {value!r}")


def as_images(values: Sequence[Any], folder: str, name: str) -> list[bytes | str]:
    """Bytes, paths relative to `folder`, data: URLs, Hugging Face's {bytes, path}, or lists of these, as pictures."""
    images: list[bytes | str] = []
    for value in values:
        if isinstance(value, str):
            value = _listed(value, name)
        for image in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(image, dict):
                image = image["bytes"] if image.get("bytes") else image.get("path")
            if isinstance(image, str) and image[:5].lower() == "data:":
                images.append(data_url(image, name))
            elif isinstance(image, str) and image:
                images.append(local_path(image, folder, name))
            elif isinstance(image, bytes) and image:
                images.append(image)
            elif image not in (None, "", b""):
                raise DataError(f"{name}: wanted a picture's path or bytes, found {type(image).__name__}")
    if not images:
        raise DataError(f"{name}: wanted a picture, found none")
    return images


def data_url(text: str, name: str) -> bytes:
    """The bytes of a "data:image/png;base64,…" picture. Raises DataError for any other encoding, or a broken one."""
    head, comma, body = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise DataError(f"{name}: wanted a picture as data:…;base64,…, found {head[:80]!r}")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise DataError(f"{name}: wanted a picture in base64, found something else ({error})") from error


def local_path(text: str, folder: str, name: str) -> str:
    """A local path; relative ones are under `folder`. Raises DataError for URLs."""
    if "://" in text or "\0" in text:
        raise DataError(f"{name}: wanted the path of a file, found {text[:200]!r}; download pictures first")
    return text if os.path.isabs(text) else f"{folder}{os.sep}{text}"


def json_object(text: str, name: str) -> dict[str, Any]:
    """The keys and values of a JSON text. Raises DataError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: wanted a JSON object, found something else ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{name}: wanted a JSON object, found {type(found).__name__}")
    return found


def decode_text(data: bytes, name: str) -> str:
    """UTF-8 text. Raises DataError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: wanted text in UTF-8, found other bytes ({error})") from error
