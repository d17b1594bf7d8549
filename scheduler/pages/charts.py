"""Charts in SVG by a few lines of our own, each with what it shows in a sentence and as a table.

A chart is drawn for a column of a page: at its size on a phone its letters can still be read. Its
colours are those of look.css, so that they follow light, dark and print; what differs by colour
differs by form too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.pages import html
from scheduler.pages.html import Content, Html, el

#: Size of a drawing in its own units, and what is left free around it.
WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 32, 44

#: Places on an axis that are named.
TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line, or bars, of one thing."""

    name: str
    #: x and y; None in y is a gap.
    points: Sequence[tuple[float, float | None]]
    #: a to d: a colour and a form of look.css.
    style: str = "a"
    #: Whether its points are marked.
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A line across a chart at x, or a point, with a word on what it is."""

    x: float
    text: str
    #: A point where it is given, else a line from bottom to top.
    y: float | None = None
    #: Low and high of the point, in x and in y, where they are known.
    across: tuple[float, float] | None = None
    upright: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From where to where, and in which words."""

    label: str
    low: float
    high: float
    #: How a value on the axis is written.
    form: str = "{:g}"
    #: Values that are named; chosen where there are none.
    ticks: Sequence[float] = ()
    #: Their words, where they are no numbers.
    words: Sequence[str] = ()

    def places(self) -> list[tuple[float, str]]:
        """The values that are named, and how."""
        values = self.ticks or nice(self.low, self.high)
        words = self.words or [self.form.format(value) for value in values]
        return list(zip(values, words, strict=True))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with where it may lie, for `intervals`."""

    label: str
    value: float
    low: float | None
    high: float | None
    #: As in Series.
    style: str = "a"


def nice(low: float, high: float, about: int = TICKS) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def figure(
    title: str, sentence: str, svg: Content, columns: Sequence[str], rows: Sequence[Sequence[Any]],
    legend: Content = None,
) -> Html:  # fmt: skip
    """A chart under its title, over the table that it was drawn from."""
    return el(
        "figure",
        el("figcaption", el("h3", title), el("p", sentence)),
        legend,
        svg,
        el(
            "details",
            el("summary", "Numbers", el("span", f" of: {title}", class_="aside")),
            html.table(title, columns, rows, shown=False),
        ),
        class_="chart",
    )


def lines(
    title: str, sentence: str, series: Sequence[Series], x: Axis, y: Axis, *,
    columns: Sequence[str], rows: Sequence[Sequence[Any]], marks: Sequence[Mark] = (),
    diagonal: bool = False,
) -> Html:  # fmt: skip
    """Lines over a common axis; with a `diagonal` what chance would draw."""
    plot = _Plot(x, y)
    parts: list[Html] = [plot.axes()]
    if diagonal:
        parts.append(plot.line(x.low, y.low, x.high, y.high, "chance"))
    for one in series:
        parts.append(plot.path(one))
    parts += [plot.mark(mark) for mark in marks]
    return figure(
        title, sentence, plot.svg(title, sentence, parts), columns, rows, _legend(series, "line")
    )


def bars(
    title: str, sentence: str, edges: Sequence[float], stacked: Sequence[Series], x: Axis, y: Axis,
    *, columns: Sequence[str], rows: Sequence[Sequence[Any]], marks: Sequence[Mark] = (),
    over: Series | None = None,
) -> Html:  # fmt: skip
    """Bars between `edges`, one kind on the other, under a line `over` them in steps."""
    plot = _Plot(x, y)
    parts: list[Html] = [plot.axes()]
    floor = [0.0] * (len(edges) - 1)
    for one in stacked:
        for n, (_, value) in enumerate(one.points):
            if value:
                parts.append(
                    plot.bar(edges[n], edges[n + 1], floor[n], floor[n] + value, one.style)
                )
                floor[n] += value
    if over is not None:
        steps: list[tuple[float, float | None]] = []
        for n, (_, value) in enumerate(over.points):
            steps += [(edges[n], value), (edges[n + 1], value)]
        parts.append(plot.path(Series(name=over.name, points=steps, style=over.style)))
    parts += [plot.mark(mark) for mark in marks]
    legend = _legend(stacked, "bar", over)
    return figure(title, sentence, plot.svg(title, sentence, parts), columns, rows, legend)


def intervals(
    title: str, sentence: str, values: Sequence[Interval], x: Axis, *, columns: Sequence[str],
    rows: Sequence[Sequence[Any]], marks: Sequence[Mark] = (), names: dict[str, str] | None = None,
) -> Html:  # fmt: skip
    """Values with their intervals, a line each; `names` says what a style means."""
    step, left, top = 24, 150, TOP if marks else 6
    height = top + step * max(1, len(values)) + BOTTOM
    y = Axis(label="", low=0, high=max(1, len(values)))
    plot = _Plot(x, y, height=height, left=left, top=top)
    parts: list[Html] = [plot.axes(upright=False)]
    parts += [plot.mark(mark) for mark in marks]
    for n, one in enumerate(values):
        place = len(values) - n - 0.5
        shown = one.label if len(one.label) <= 24 else f"{one.label[:22]}…"
        parts.append(
            el("text", shown, x=left - 8, y=_n(plot.y(place) + 4), text_anchor="end", class_="tick")
        )
        low, high = (
            one.value if end is None else min(max(end, x.low), x.high)
            for end in (one.low, one.high)
        )
        parts.append(plot.line(low, place, high, place, f"stroke-{one.style} bar"))
        parts.append(plot.dot(one.value, place, one.style))
    legend = _legend(
        [Series(name=text, points=(), style=style) for style, text in (names or {}).items()], "dot"
    )
    return figure(title, sentence, plot.svg(title, sentence, parts), columns, rows, legend)


class _Plot:
    """Where values lie in a drawing."""

    def __init__(
        self, x: Axis, y: Axis, height: int = HEIGHT, left: int = LEFT, top: int = TOP
    ) -> None:
        self._x, self._y, self._height, self._left, self._top = x, y, height, left, top

    def x(self, value: float) -> float:
        """From the left, in units of the drawing."""
        width = WIDTH - self._left - RIGHT
        span = (self._x.high - self._x.low) or 1
        return self._left + (value - self._x.low) / span * width

    def y(self, value: float) -> float:
        """From the top."""
        height = self._height - self._top - BOTTOM
        span = (self._y.high - self._y.low) or 1
        return self._height - BOTTOM - (value - self._y.low) / span * height

    def svg(self, title: str, sentence: str, parts: Sequence[Html]) -> Html:
        """The whole drawing, which is one picture to a screen reader."""
        return el(
            "svg", parts, viewBox=f"0 0 {WIDTH} {self._height}", role="img",
            aria_label=f"{title}. {sentence}",
        )  # fmt: skip

    def axes(self, *, upright: bool = True) -> Html:
        """Grid, ticks and labels."""
        bottom = self._height - BOTTOM
        parts = []
        for value, word in self._x.places():
            at = self.x(value)
            parts.append(el("line", x1=_n(at), x2=_n(at), y1=self._top, y2=bottom, class_="grid"))
            parts.append(
                el("text", word, x=_n(at), y=bottom + 17, text_anchor="middle", class_="tick")
            )
        if upright:
            for value, word in self._y.places():
                at = self.y(value)
                parts.append(
                    el("line", x1=self._left, x2=WIDTH - RIGHT, y1=_n(at), y2=_n(at), class_="grid")
                )
                parts.append(
                    el("text", word, x=self._left - 7, y=_n(at + 4), text_anchor="end",
                       class_="tick")
                )  # fmt: skip
            parts.append(el("text", self._y.label, x=2, y=12, class_="label"))
        parts.append(
            el("line", x1=self._left, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")
        )
        parts.append(
            el("text", self._x.label, x=_n((self._left + WIDTH - RIGHT) / 2),
               y=self._height - 8, text_anchor="middle", class_="label")
        )  # fmt: skip
        return el("g", parts)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> Html:
        """A straight line between two places."""
        return el(
            "line", x1=_n(self.x(x1)), y1=_n(self.y(y1)), x2=_n(self.x(x2)), y2=_n(self.y(y2)),
            class_=style,
        )  # fmt: skip

    def bar(self, left: float, right: float, low: float, high: float, style: str) -> Html:
        """A bar, a little narrower than its room."""
        x1, x2 = self.x(left) + 0.75, self.x(right) - 0.75
        y1, y2 = self.y(high), self.y(low)
        return el(
            "rect", x=_n(x1), y=_n(y1), width=_n(max(0.5, x2 - x1)), height=_n(max(0.5, y2 - y1)),
            class_=f"fill-{style}",
        )  # fmt: skip

    def dot(self, x: float, y: float, style: str) -> Html:
        """A point; squares and circles differ without colour."""
        at, down = self.x(x), self.y(y)
        if style in ("b", "d"):
            return el(
                "rect", x=_n(at - 4), y=_n(down - 4), width=8, height=8, class_=f"fill-{style}"
            )
        return el("circle", cx=_n(at), cy=_n(down), r=4.5, class_=f"fill-{style}")

    def path(self, series: Series) -> Html:
        """A line through points, broken where one is missing."""
        commands, begun = [], False
        for x, y in series.points:
            if y is None or not math.isfinite(y):
                begun = False
                continue
            commands.append(f"{'L' if begun else 'M'}{_n(self.x(x))} {_n(self.y(y))}")
            begun = True
        parts = [el("path", d=" ".join(commands), class_=f"stroke-{series.style}")]
        if series.marked:
            parts += [self.dot(x, y, series.style) for x, y in series.points if y is not None]
        return el("g", parts)

    def mark(self, mark: Mark) -> Html:
        """A line from bottom to top, or a point, and its word beside it."""
        at = self.x(mark.x)
        ends_right = at > WIDTH - RIGHT - 5.6 * len(mark.text)
        aside = {"x": _n(at - 6 if ends_right else at + 6), "class_": "mark-text",
                 "text_anchor": "end" if ends_right else "start"}  # fmt: skip
        if mark.y is None:
            bottom = self._height - BOTTOM
            return el(
                "g",
                el("line", x1=_n(at), x2=_n(at), y1=self._top - 10, y2=bottom, class_="mark"),
                el("text", mark.text, y=self._top - 2, **aside),
            )
        parts = []
        if mark.across is not None:
            parts.append(self.line(mark.across[0], mark.y, mark.across[1], mark.y, "whisker"))
        if mark.upright is not None:
            parts.append(self.line(mark.x, mark.upright[0], mark.x, mark.upright[1], "whisker"))
        down = self.y(mark.y)
        below = down < self._top + 24
        parts.append(el("circle", cx=_n(at), cy=_n(down), r=5, class_="point"))
        parts.append(el("text", mark.text, y=_n(down + 18 if below else down - 10), **aside))
        return el("g", parts)


def _legend(series: Sequence[Series], form: str, over: Series | None = None) -> Html | None:
    """What the colours mean, where there is more than one thing."""
    entries = [(one, form) for one in series] + ([(over, "line")] if over is not None else [])
    if len(entries) < 2:
        return None
    items = []
    for one, kind in entries:
        sample = {
            "line": el("line", x1=1, x2=27, y1=7, y2=7, class_=f"stroke-{one.style}"),
            "bar": el("rect", x=6, y=1, width=14, height=12, class_=f"fill-{one.style}"),
            "dot": el("rect", x=9, y=3, width=8, height=8, class_=f"fill-{one.style}")
            if one.style in ("b", "d")
            else el("circle", cx=13, cy=7, r=4.5, class_=f"fill-{one.style}"),
        }[kind]
        items.append(el("li", el("svg", sample, viewBox="0 0 28 14", aria_hidden="true"), one.name))
    return el("ul", items, class_="legend")


def _n(value: float) -> str:
    """A number of the drawing, to a tenth of its unit."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
