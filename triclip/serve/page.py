"""The page, in plain HTML: values for its jinja2 template, which escapes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from .queries import Query

if TYPE_CHECKING:
    from .library import Found


class About(NamedTuple):
    """The server's facts on the page: number of pictures, limits of letters and bytes, columns for filters."""

    pictures: int
    query_letters: int
    upload_bytes: int
    columns: Sequence[str]


class Part(NamedTuple):
    """A part of a query: words, a picture of the folder, or an uploaded one as the base64 of a small JPEG."""

    sign: str
    words: str | None = None
    similar: Found | None = None
    upload: str | None = None


def style_sheet() -> bytes:
    """style.css."""
    return files(__package__).joinpath("style.css").read_bytes()


def landing(about: About, shown: Sequence[Found]) -> str:
    """The page before a search, with some of the pictures."""
    return _page(about, shown=shown)


def results(
    about: About, query: Query, found: Sequence[Found], similar: Sequence[Found], picture: str | None = None,
    more: str = "",
) -> str:  # fmt: skip
    """What was found. `similar`: the pictures of the folder that the query names; `picture`: an uploaded one, small, as
    base64 of a JPEG; `more`: parameters of a search for more of them."""
    title = query.words or ("Similar pictures" if query.like or picture else "Search")
    parts = list(_parts(query, similar, picture))
    return _page(about, title=title, query=query, shown=found, parts=parts, ranked=True, more=more)


def picture(about: About, one: Found, facts: Mapping[str, str], near: Sequence[Found]) -> str:
    """A picture's own page: what is known of it (`facts`: of its file), and the pictures nearest to it."""
    return _page(about, title=_stem(one.name), one=one, facts=facts, shown=near)


def error(about: About, message: str) -> str:
    """The page of a refused request."""
    return _page(about, title="Error", message=message)


def _parts(query: Query, similar: Sequence[Found], picture: str | None) -> Iterator[Part]:
    if query.words:
        yield Part("+", words=query.words)
    for one in similar:
        yield Part("+" if one.id in query.like else "−", similar=one)
    if picture is not None:
        yield Part("+", upload=picture)
    if query.without:
        yield Part("−", words=query.without)


_NO_QUERY = Query()


def _page(about: About, query: Query = _NO_QUERY, **values: Any) -> str:
    known = {
        "title": "",
        "message": "",
        "shown": (),
        "parts": (),
        "ranked": False,
        "one": None,
        "facts": {},
        "more": "",
    }
    return _template().render(about=about, query=query, **{**known, **values})


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["stem"] = _stem
    return environment.get_template("page.html")


def _stem(name: str) -> str:
    """A file's name without its folders and suffix."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last
