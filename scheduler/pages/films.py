"""Films of a job as pictures for a page: small, gray, with the evidence as a picture over them.

Films are read again from where they lie. One that is gone or was changed has a reason instead of
a picture, and the page is made all the same. No more than one film is held at its own size.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image

from db.base import database
from db.queue import jobs, overview
from db.queue.picks import Pick
from db.registry import models
from scheduler import session
from scheduler.pages import html
from scheduler.pages.html import Html, el
from scheduler.show import output, picture
from trainer.errors import FilmError
from trainer.film import rules
from worker.errors import ArchiveError
from worker.machine import privacy
from worker.scoring import reread

#: Longer side of a film's picture in a report and in a review, in pixels. The first takes about
#: 12 kB, so that a hundred are far below 5 MB.
REPORT, REVIEW = 320, 640

#: Quality of the JPEG.
QUALITY = 80

#: Pixels that a map's cell is drawn with: enough that a browser enlarges it without corners.
CELL = 8


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a page shows of one film."""

    pick: Pick
    #: The film, a gray JPEG; empty where it cannot be shown.
    jpeg: bytes = b""
    #: Its size, which is in the film's own ratio.
    width: int = 1
    height: int = 1
    #: The evidence for the positive class, a PNG that is see-through where there is none.
    cam: bytes = b""
    #: Where it lies on the film: left, top, width and height, each 0 to 1.
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    #: Where in the picture the evidence is strongest, in words.
    where: str = ""
    #: Why there is no picture.
    reason: str = ""


def read(engine: sa.Engine, job_id: int, picks: Iterable[Pick], side: int) -> dict[int, Picture]:
    """The pictures of these films of a job, by item; `side` is their longer one, in pixels."""
    wanted = {pick.item_no: pick for pick in picks}
    job = jobs.get(engine, job_id)
    model = models.get(engine, job["model_id"])
    accept = tuple(job["spec"].get("accept") or ())
    site = privacy.load(session.settings())
    with database.reading(engine) as connection:
        maps = overview.maps(connection, job_id, list(wanted))
    made: dict[int, Picture] = {}
    by_source: dict[str, list[Pick]] = {}
    for pick in wanted.values():
        by_source.setdefault(pick.source, []).append(pick)
    for of_source in by_source.values():
        items = [(pick.shard_no, pick.item_no) for pick in of_source]
        try:
            for film in reread.read(engine, job_id, items, site):
                made[film.item_no] = _picture(
                    wanted[film.item_no], film, maps.get(film.item_no), model, side, accept
                )
        except ArchiveError as error:
            for pick in of_source:
                made.setdefault(pick.item_no, Picture(pick=pick, reason=str(error)))
    return made


def logits(row: sa.Row[Any]) -> NDArray[np.float32]:
    """A kept map, `float32 [h, w]`, as far as its bytes say it."""
    levels = np.frombuffer(bytes(row.data), np.uint8).reshape(row.height, row.width)
    values: NDArray[np.float32] = row.low + levels.astype(np.float32) / 255 * (row.high - row.low)
    return values.astype(np.float32)


def _picture(
    pick: Pick,
    film: reread.Reread,
    map_row: sa.Row[Any] | None,
    model: sa.RowMapping,
    side: int,
    accept: Sequence[str],
) -> Picture:
    if film.reason:
        return Picture(pick=pick, reason=film.reason)
    try:
        gray = rules.gray(film.data, accept)
    except FilmError as error:
        return Picture(pick=pick, reason=str(error))
    width, height = gray.size
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if model["film_rule"] in rules.RULES:
        left, top, right, bottom = rules.field(model["film_rule"], width, height, model["size"])
    elif map_row is not None:
        map_row = None  # where it lies is not known: another release made it
    gray.thumbnail((side, side), Image.Resampling.LANCZOS)
    cam, where = b"", ""
    if map_row is not None:
        values = logits(map_row)
        cam, where = overlay(values), place(values)
    return Picture(
        pick=pick,
        jpeg=_encoded(gray, "JPEG", quality=QUALITY, optimize=True),
        width=gray.width,
        height=gray.height,
        cam=cam,
        box=(left / width, top / height, (right - left) / width, (bottom - top) / height),
        where=where,
    )


def overlay(cam: NDArray[np.float32]) -> bytes:
    """A map as a PNG to be laid over its film; empty where nothing speaks for the class."""
    alpha = picture.evidence(cam)
    if alpha is None:
        return b""
    alpha = alpha.resize((alpha.width * CELL, alpha.height * CELL), Image.Resampling.BICUBIC)
    drawn = Image.new("RGBA", alpha.size, (*picture.RED, 0))
    drawn.putalpha(alpha)
    return _encoded(drawn, "PNG", optimize=True)


def place(cam: NDArray[np.float32]) -> str:
    """Where the strongest evidence lies, in thirds of the picture: `upper left`, `middle`.

    Left and right are the picture's, not the patient's. Empty where nothing speaks for the class.
    """
    if cam.max(initial=0) <= 0:
        return ""
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    down = ("upper", "middle", "lower")[int(3 * (row + 0.5) / cam.shape[0])]
    across = ("left", "middle", "right")[int(3 * (column + 0.5) / cam.shape[1])]
    if down == across:
        return "middle"
    return f"{down} {across}" if across != "middle" else f"{down} middle"


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def why(found: Picture, positive: str) -> str:
    """Why a film is shown, in a sentence."""
    pick = found.pick
    apart = 100 * (pick.probability - pick.threshold)
    points = f"{abs(apart):.1f} points {'above' if apart >= 0 else 'below'} the operating point"
    sentence = f"called {pick.label}, {points} of {100 * pick.threshold:.1f} %"
    if found.where:
        sentence += f"; most evidence for {positive} in the {found.where} of the picture"
    if pick.unusual and pick.ood is not None:
        sentence += f"; unlike the training films (distance {pick.ood:.2f}): do not trust the label"
    return f"{sentence}."


def frame(found: Picture) -> Html:
    """A film with the evidence over it, or why there is none."""
    if not found.jpeg:
        return el("div", el("p", f"Cannot be shown: {found.reason}"), class_="frame empty")
    percent = [f"{100 * share:.2f}%" for share in found.box]
    places = dict(zip(("left", "top", "width", "height"), percent, strict=True))
    said = f"Film {output.printable(found.pick.name)[:80]}"
    if found.where:
        said += f", evidence in the {found.where}"
    return el(
        "div",
        el("img", src=html.picture(found.jpeg, "jpeg"), alt=said),
        el("img", src=html.picture(found.cam, "png"), alt="", class_="cam",
           style=";".join(f"{name}:{value}" for name, value in places.items()))
        if found.cam
        else None,
        class_="frame",
        style=f"aspect-ratio:{found.width}/{found.height};"
        f"width:{min(100.0, 100 * found.width / found.height):.2f}%",
    )  # fmt: skip


def grid(found: Sequence[Picture], positive: str) -> Html:
    """Films beside each other, each with its score and why it is there."""
    return el(
        "ol",
        [
            el(
                "li",
                el(
                    "figure",
                    el("div", frame(one), class_="square"),
                    el(
                        "figcaption",
                        el("span", f"{100 * one.pick.probability:.1f} %", class_="p"),
                        " ",
                        html.name(one.pick.name),
                        el(
                            "p",
                            html.prose(f"Item {one.pick.item_no}: {why(one, positive)}"),
                            class_="why",
                        ),
                    ),
                    class_="film",
                ),
            )
            for one in found
        ],
        class_="films",
    )
