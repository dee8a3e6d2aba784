"""HTML that cannot be broken out of: whatever is not made here is escaped."""

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str) -> Html:
    """An element; children that are no `Html`, and all attributes, are escaped.

    >>> tag("p", "a < b", tag("br"), title='"')
    '<p title="&quot;">a &lt; b<br></p>'
    """
    opened = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    if name in ("br", "img", "meta"):
        return Html(f"<{name}{opened}>")
    return Html(f"<{name}{opened}>{joined(*children)}</{name}>")


def joined(*children: str) -> Html:
    """One after the other.

    >>> joined("<", tag("b", "x"))
    '&lt;<b>x</b>'
    """
    return Html("".join(one if isinstance(one, Html) else escape(one) for one in children))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table whose first column names the row."""
    body = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    titles = tag("tr", *(tag("th", one, scope="col") for one in head))
    return tag("div", tag("table", tag("thead", titles), tag("tbody", *body)), class_="wide")


def document(title: str, style: str, *body: str) -> str:
    """A whole page that fetches nothing and runs nothing: its policy forbids it."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"
