"""Markup, safe by construction: whatever is no `Html` is text, and is escaped where it is put in.

Names of films are made by strangers. Their control characters and marks of direction are shown as
escapes, a long one is cut in its middle, and a page forbids its browser every request and every
script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from typing import Any, NamedTuple

from scheduler.show import output

#: Characters of a name that are shown; the whole is in its title.
LONGEST_NAME = 56

#: Elements that have no end.
_VOID = frozenset({"img", "input", "link", "meta", "br", "path", "line", "rect", "circle"})

#: Characters of a cell from which on it is a sentence, that is not squeezed into a narrow column.
SENTENCE = 24

#: What is said on every page.
WARNING = "Research software, not a medical device. Do not use its output for clinical decisions."


class Html(str):
    """Markup, as opposed to text."""

    __slots__ = ()


Content = str | int | float | None | Iterable[Any]


def safe(content: Content) -> Html:
    """Text as markup; `Html` as it is; what a list holds one after the other; nothing of None."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(html.escape(output.printable(content)))
    if isinstance(content, Iterable):
        return Html("".join(safe(part) for part in content))
    return Html(html.escape(output.text(content)))


def el(tag: str, *content: Content, **attributes: Any) -> Html:
    """An element; `aria_label` is `aria-label`, and None and False are left out."""
    parts = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(name if value is True else f'{name}="{safe(str(value))}"')
    start = f"<{' '.join(parts)}>"
    if tag in _VOID and not content:
        return Html(start if tag in ("img", "input", "link", "meta", "br") else start[:-1] + "/>")
    return Html(f"{start}{safe(content)}</{tag}>")


def prose(text: str) -> Html:
    """A sentence in which what stands in backticks is to be typed."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts = [text]
    said = "".join(el("code", p) if n % 2 else safe(p) for n, p in enumerate(parts))
    return Html(said.replace(" %", "&nbsp;%"))


def name(text: str, most: int = LONGEST_NAME) -> Html:
    """A name that a stranger gave, in its own direction of writing."""
    text = output.printable(text)
    shown = text
    if len(text) > most:
        half = (most - 1) // 2
        shown = f"{text[:half]}…{text[-half:]}"
    return el("bdi", shown, class_="name", dir="auto", title=text if shown != text else None)


def picture(data: bytes, kind: str) -> str:
    """A `data:` URL of an encoded picture; `kind` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Content]], *, shown: bool = True
) -> Html:
    """A table that can be scrolled where it is too wide; its caption is read aloud, or `shown`."""
    body = []
    numeric = [True] * len(columns)
    for row in rows:
        cells = []
        for n, value in enumerate(row):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            numeric[n] = numeric[n] and (is_number or value is None)
            text = f"{value:,}" if isinstance(value, int) and is_number else value
            kind = "th" if n == 0 else "td"
            class_ = "n" if is_number else "long" if n and _is_sentence(value) else None
            cells.append(el(kind, text, scope="row" if n == 0 else None, class_=class_))
        body.append(el("tr", cells))
    head = [
        el("th", column, scope="col", class_="n" if body and numeric[n] else None)
        for n, column in enumerate(columns)
    ]
    return el(
        "div",
        el(
            "table",
            el("caption", caption, class_=None if shown else "aside"),
            el("thead", el("tr", head)),
            el("tbody", body or el("tr", el("td", "none", colspan=len(columns)))),
        ),
        class_="scroll",
        role="region",
        tabindex="0",
        aria_label=caption,
    )


def _is_sentence(value: Content) -> bool:
    return isinstance(value, str) and len(re.sub("<[^>]*>", "", value)) > SENTENCE


class Section(NamedTuple):
    """A part of a page, which the list at its beginning leads to."""

    key: str
    title: str
    content: Content

    def markup(self) -> Html:
        """The part under its heading."""
        heading = f"{self.key}-title"
        return el("section", el("h2", self.title, id=heading), self.content, id=self.key,
                  aria_labelledby=heading)  # fmt: skip


def note(*content: Content, kind: str = "note") -> Html:
    """A paragraph that stands out; `kind` is note or warn."""
    return el("p", [prose(c) if type(c) is str else c for c in content], class_=kind)


def tiles(values: Sequence[tuple[str, Content, str]]) -> Html:
    """Large numbers: what it is of, the number, and what it means."""
    return el(
        "dl",
        [
            el("div", el("dt", label), el("dd", el("b", value), el("span", meaning)))
            for label, value, meaning in values
        ],
        class_="tiles",
    )


def facts(values: Sequence[tuple[str, Content]]) -> Html:
    """Names and values; those without a value are left out."""
    return el(
        "dl",
        [
            el("div", el("dt", label), el("dd", value))
            for label, value in values
            if value is not None and value != ""
        ],
        class_="facts",
    )


def as_data(value: Any) -> Html:
    """JSON for a page's own script, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    # Line separators, and halves of characters that no file in UTF-8 can hold.
    text = re.sub("[\u2028\u2029\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)
    return Html(text)


def page(
    title: str,
    lead: Content,
    sections: Sequence[Section],
    *,
    made: str,
    data: Any = None,
    script: str = "",
    controls: Content = None,
) -> str:
    """A whole page; `made` says when and by what. `script` is a file beside this one."""
    files = resources.files("scheduler.pages")
    style = files.joinpath("look.css").read_text(encoding="utf-8")
    code = files.joinpath(script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if code else "'none'"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src {allowed}"
    )
    links = [el("li", el("a", part.title, href=f"#{part.key}")) for part in sections]
    body = [
        el("a", "To the content", class_="skip", href="#content"),
        controls,
        el("header", el("h1", title), el("div", lead, class_="lead"), note(WARNING, kind="warn")),
        el("nav", el("ul", links), aria_label="Parts of this page") if len(links) > 1 else None,
        el("main", [part.markup() for part in sections], id="content"),
        el("footer", el("p", prose(made)), el("p", WARNING)),
    ]
    if data is not None:
        body.append(Html(f'<script type="application/json" id="data">{as_data(data)}</script>'))
    if code:
        body.append(Html(f"<script>{code}</script>"))
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        Html(f"<style>{style}</style>"),
    ]
    document = el("html", el("head", head), el("body", body), lang="en")
    return f"<!doctype html>\n{document}\n"


def version() -> str:
    """`PneumoQ 0.3.0`."""
    return f"PneumoQ {metadata.version('pneumoq')}"
