"""Search on engines that hold more than one machine does: Qdrant and LanceDB, by their own clients (extras `qdrant`,
`lancedb`). `search` and `serve` take an address in place of an index:

    qdrant:http://host:6333/photos     a collection of a server; qdrant:folder/photos one of the client's local mode
    lancedb:folder/photos              a table of a database in a folder, or at an address such as s3://bucket/database

`Searchable` is all that they ask of an index, whoever holds it. Rows are numbered as in the index that was uploaded.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "ENGINES": "addresses",
    "About": "base",
    "Engine": "base",
    "Searchable": "base",
    "is_address": "addresses",
    "open_address": "addresses",
    "open_engine": "addresses",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .addresses import ENGINES, is_address, open_address, open_engine
    from .base import About, Engine, Searchable

__getattr__, __dir__ = lazy_names(__name__, _HOME)
