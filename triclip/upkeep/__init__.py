"""An index of pictures that stays up to date: what is new or has changed is embedded, what is gone leaves.

    changes = update("photos.index", ["photos/"])

`store` is an index that is being changed, `updating` compares it with the folders, `watching` does so while it runs.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {"Changes": "updating", "update": "updating", "watch": "watching"}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .updating import Changes, update
    from .watching import watch

__getattr__, __dir__ = lazy_names(__name__, _HOME)
