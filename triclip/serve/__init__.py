"""`triclip serve`: a page and a JSON API that search a folder of pictures (extra `serve`: Starlette on uvicorn).

`library` has the pictures: an index, their folder (`inside` confines access to it), opaque ids, thumbnails. `limits`
bounds requests, `queries` reads them, `site` answers them, `page` renders HTML. Only `web` uses the web framework:
routes, headers, deadlines.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "Client": "client",
    "Library": "library",
    "Limits": "limits",
    "ServeError": "client",
    "create_app": "web",
    "open_library": "opening",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .client import Client, ServeError
    from .library import Library
    from .limits import Limits
    from .opening import open_library
    from .web import create_app

__getattr__, __dir__ = lazy_names(__name__, _HOME)
