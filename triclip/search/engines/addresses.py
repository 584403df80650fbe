"""Addresses of indexes that engines hold, and opening them."""

from __future__ import annotations

from typing import Any

from clip_core.errors import InputError

from .base import Engine, Searchable

ENGINES = ("qdrant", "lancedb")


def is_address(path: Any) -> bool:
    """Whether something names an engine, and not a file or folder."""
    return isinstance(path, str) and path.partition(":")[0] in ENGINES and ":" in path


def open_engine(address: str) -> Engine:
    """The engine of an address, whether or not rows are there. Raises InputError, MissingDependencyError."""
    name, _, rest = address.partition(":")
    place, _, title = rest.rpartition("/")
    if name not in ENGINES or not place or not title:
        wanted = "qdrant:http://host:6333/COLLECTION, qdrant:FOLDER/COLLECTION or lancedb:FOLDER/TABLE"
        raise InputError(f"{address}: wanted {wanted}")
    if name == "qdrant":
        from .qdrant import Qdrant

        return Qdrant(place, title)
    from .lance import Lance

    return Lance(place, title)


def open_address(address: str) -> Searchable:
    """An index that an engine holds. Raises FileNotFoundError when none is there, InputError when it isn't whole."""
    engine = open_engine(address)
    if engine.about is None:
        raise FileNotFoundError(f"{address}: no index is there")
    if engine.stored() != engine.about.rows:
        raise InputError(
            f"{address}: wanted {engine.about.rows} rows, found {engine.stored()}: run the same `triclip index` again"
        )
    return engine
