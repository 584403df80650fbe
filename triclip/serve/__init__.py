"""`triclip serve`: a page and a JSON API that search a folder of pictures (extra `serve`: Starlette on uvicorn).

`library` holds the pictures: an index, the folder they lie in (`inside`: nothing leads out of it), opaque ids,
thumbnails. `limits` says how much anyone may ask for, `queries` reads requests, `site` answers them, `page` is how that
looks. `web` alone knows the web framework: routes, headers, deadlines. `command` runs it until a signal.
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
