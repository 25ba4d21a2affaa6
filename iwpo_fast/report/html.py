"""Markup in which whatever comes from data is text: what is not `Html` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from iwpo_fast.terminal import escaped_lines


class Html(str):
    """Markup that this package made."""


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """An element; `class_` stands for `class`, and `aria_label` for `aria-label`.

    Args:
        inside: markup, which is taken as it is, or text, which is escaped.
    """
    given = "".join(f' {_attribute(key)}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{joined(inside)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """One after the other, text escaped."""
    return Html("".join(part if isinstance(part, Html) else shown(part) for part in parts))


def shown(text: str) -> Html:
    """Text with every character that no page shows, or that turns the text around it, by its number."""
    lines = text.replace("\r\n", "\n").expandtabs(4)
    return Html(html.escape(escaped_lines(lines)))


def paragraph(*inside: str) -> Html:
    return tag("p", *inside)


def note(*inside: str) -> Html:
    """What is not there, and how to get it."""
    return tag("p", *inside, class_="note")


def terms(meanings: Mapping[str, str]) -> Html:
    """Words of the field, each with a line on what it means."""
    return tag("dl", *(tag("div", tag("dt", word), tag("dd", meaning)) for word, meaning in meanings.items()))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> Html:
    """A table whose first column is text, the others numbers or, by its kind, text; a narrow screen scrolls it."""
    head = tag("tr", *(tag("th", name, scope="col") for name in header))
    body = (tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows)
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"table of {header[0]}")


def beside(*parts: Html) -> Html:
    """Side by side where there is room."""
    return tag("div", *parts, class_="beside")


def folded(summary: str, *inside: str, unfolded: bool = False) -> Html:
    """What is shown on a click, or from the start, and on paper always."""
    return tag("details", tag("summary", summary), *inside, **({"open": ""} if unfolded else {}))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
