"""An index of pictures that stays up to date: what is new or has changed is embedded, what is gone leaves.

    changes = update("photos.index", ["photos/"])

`store` is an index that is being changed, `update` compares it with the folders, `watch` does so while it runs.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {"Changes": "update", "update": "update", "watch": "watch"}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .update import Changes, update
    from .watch import watch

__getattr__, __dir__ = lazy_names(__name__, _HOME)
