"""A page as a parser reads it: elements, tables and embedded pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

VOID = frozenset({"img", "input", "link", "meta", "br"})


@dataclass
class Element:
    """One element with what is in it."""

    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def all(self, tag: str, class_: str = "") -> list[Element]:
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                named = class_ in part.attributes.get("class", "").split() if class_ else True
                if (tag in ("", part.tag)) and named:
                    found.append(part)
                found += part.all(tag, class_)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].parts.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].parts.append(Element(tag, {n: v or "" for n, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> ends <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)


def page(path: Path) -> Element:
    """The elements of a page, each of which is closed where it was opened."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader._open == [reader.root]
    return reader.root


def table(root: Element, caption: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    (found,) = [t for t in root.all("table") if t.all("caption")[0].text == caption]
    return [
        [cell.text for cell in row.parts if isinstance(cell, Element)] for row in found.all("tr")
    ]


def picture(element: Element) -> np.ndarray:
    """The pixels of an embedded picture."""
    head, data = element.attributes["src"].split(",", 1)
    assert head in ("data:image/jpeg;base64", "data:image/png;base64"), head
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert head.endswith(f"/{(image.format or '').lower()};base64")
        return np.asarray(image)
