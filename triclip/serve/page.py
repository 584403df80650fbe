"""The page, in plain HTML: forms and lists that work without scripts. Everything that varies is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

if TYPE_CHECKING:
    from .library import Found
    from .queries import Query


class About(NamedTuple):
    """What the page says of the server: pictures, letters and bytes it takes, columns of the index for filters."""

    pictures: int
    query_letters: int
    upload_bytes: int
    columns: Sequence[str]


def style_sheet() -> bytes:
    """style.css."""
    return files(__package__).joinpath("style.css").read_bytes()


def landing(about: About, shown: Sequence[Found]) -> str:
    """Before a search: some of the pictures."""
    few = "" if len(shown) == about.pictures else "Some of them:"
    return _page(about, "", f'<p class="status">{few}</p>{_grid(shown)}')


def results(
    about: About, query: Query, found: Sequence[Found], similar: Sequence[Found], picture: str | None = None
) -> str:
    """What was found. `similar`: the pictures of the folder that the query names; `picture`: an uploaded one, small, as
    base64 of a JPEG."""
    count = f"{len(found)} picture{'' if len(found) == 1 else 's'}"
    title = query.words or ("Similar pictures" if query.like or picture else "Search")
    asked = [f"+ “{escape(query.words)}”"] if query.words else []
    asked += [_asked(one, "+" if one.id in query.like else "−") for one in similar]
    if picture is not None:
        asked.append(f'+ <img class="asked" src="data:image/jpeg;base64,{picture}" alt="your picture">')
    if query.without:
        asked.append(f"− “{escape(query.without)}”")
    if query.filters:
        asked.append(f"where {escape(', '.join(query.filters))}")
    asked[0] = asked[0].removeprefix("+ ")
    head = f'<p class="status" role="status">{count}, best first, for: {" ".join(asked)}</p>'
    return _page(about, title, head + _grid(found, ranked=True), query)


def error(about: About, message: str) -> str:
    """A request that was refused."""
    return _page(about, "Error", f'<p class="error" role="alert">{escape(message)}</p>')


def _asked(one: Found, how: str) -> str:
    return f'{how} <img class="asked" src="/thumbnail/{one.id}" alt="{escape(_title(one.name))}">'


def _page(about: About, title: str, main: str, query: Query | None = None) -> str:
    counted = f"{about.pictures} picture{'' if about.pictures == 1 else 's'}"
    head = f"{escape(title)} – triclip" if title else f"{counted} – triclip"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{head}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header>
<h1><a href="/">{counted}</a></h1>
{_words_form(about, query)}
{_picture_form(about)}
</header>
<main>
{main}
</main>
</body>
</html>
"""


def _words_form(about: About, query: Query | None) -> str:
    """Words; and, kept from the query, the pictures of the folder that it names."""
    words, without = (escape(query.words), escape(query.without)) if query else ("", "")
    kept = [("like", one) for one in query.like] + [("unlike", one) for one in query.unlike] if query else []
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(one)}">' for name, one in kept)
    filters = ""
    if about.columns:
        value = escape(query.filters[0]) if query and query.filters else ""
        hint = escape(f"such as {about.columns[0]}=…; columns: {', '.join(about.columns)}")
        filters = f'<label>Only where <input name="filter" value="{value}" placeholder="{hint}"></label>'
    opened = " open" if without or (query and query.filters) else ""
    return f"""<form class="words" action="/" method="get" role="search">
<label for="q">What is in the picture?</label>
<div class="row">
<input id="q" name="q" type="search" value="{words}" maxlength="{about.query_letters}" autocomplete="off"
 placeholder="a sunset over the sea">
<button>Search</button>
</div>
{hidden}
<details{opened}>
<summary>More</summary>
<label>But not <input name="without" value="{without}" maxlength="{about.query_letters}"></label>
{filters}
</details>
</form>"""


def _picture_form(about: About) -> str:
    most = f"{about.upload_bytes / (1 << 20):.3g} MB"
    return f"""<form class="picture" action="/" method="post" enctype="multipart/form-data">
<details>
<summary>Search with a picture of yours</summary>
<label>Picture (at most {most}) <input type="file" name="picture" accept="image/*" required></label>
<label>And words, if you like <input name="q" maxlength="{about.query_letters}" autocomplete="off"></label>
<button>Search</button>
</details>
</form>"""


def _grid(shown: Sequence[Found], ranked: bool = False) -> str:
    tag = "ol" if ranked else "ul"
    return f'<{tag} class="grid">{"".join(map(_card, shown))}</{tag}>'


def _card(one: Found) -> str:
    name, title = escape(one.name), escape(_title(one.name))
    score = "" if one.similarity is None else f'<span class="score" title="similarity">{one.similarity:.3f}</span>'
    known = "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in one.metadata.items())
    return f"""
<li>
<a class="shown" href="/picture/{one.id}"><img src="/thumbnail/{one.id}" alt="{title}" loading="lazy"></a>
<div class="name" title="{name}">{title}</div>
{f"<dl>{known}</dl>" if known else ""}
<div class="foot">{score}<a href="/?{urlencode({"like": one.id})}" aria-label="Pictures like {title}">similar</a></div>
</li>"""


def _title(name: str) -> str:
    """A file's name without its folders and suffix."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last
