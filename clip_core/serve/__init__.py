"""`triclip serve`: a page and a JSON API that search a folder of pictures (extra `serve`: Starlette on uvicorn).

`library` holds the pictures: an index, the folder they lie in (`inside`: nothing leads out of it), opaque ids,
thumbnails. `limits` says how much anyone may ask for, `queries` reads requests, `site` answers them, `page` is how that
looks. `web` alone knows the web framework: routes, headers, deadlines. `command` runs it until a signal.
"""

from .library import Library, open_library
from .limits import Limits
from .web import create_app

__all__ = ["Library", "Limits", "create_app", "open_library"]
