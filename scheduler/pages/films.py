"""Films of a job as pictures for a page: small, gray, with the evidence as a picture over them.

Films are read again from where they lie. One that is gone or was changed has a reason instead of
a picture, and the page is made all the same. No more than one film is held at its own size. Maps
that the job did not keep are computed for the page, where this machine can run the model.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
from trainer import regular
from trainer.errors import FilmError, TrainerError
from trainer.film import rules
from worker.errors import ArchiveError, WorkerError
from worker.machine import privacy
from worker.scoring import reread

log = logging.getLogger(__name__)

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
    #: Whether there is a map of it, also where nothing in it speaks for the positive class.
    mapped: bool = False
    #: The evidence for the positive class, a PNG that is see-through where there is none.
    cam: bytes = b""
    #: Where it lies on the film: left, top, width and height, each 0 to 1.
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    #: Where in the picture the evidence is strongest, in words.
    where: str = ""
    #: SHA-256 of the film's bytes; empty where they could not be read.
    sha256: str = ""
    #: The true class, where the page is about that.
    truth: str = ""
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
    lacking: dict[int, NDArray[np.uint8]] = {}
    by_source: dict[str, list[Pick]] = {}
    for pick in wanted.values():
        by_source.setdefault(pick.source, []).append(pick)
    for of_source in by_source.values():
        items = [(pick.shard_no, pick.item_no) for pick in of_source]
        try:
            for film in reread.read(engine, job_id, items, site):
                row = maps.get(film.item_no)
                found = _picture(wanted[film.item_no], film, model, side, accept)
                made[film.item_no] = found if row is None else with_map(found, logits(row), model)
                if row is None and found.jpeg and model["film_rule"] in rules.RULES:
                    lacking[film.item_no] = rules.decode(
                        film.data, model["size"], model["film_rule"], accept=accept
                    )
        except ArchiveError as error:
            for pick in of_source:
                made.setdefault(pick.item_no, Picture(pick=pick, reason=str(error)))
    for item_no, cam in computed(engine, model, job["precision"] or "fp32", lacking).items():
        made[item_no] = with_map(made[item_no], cam, model)
    return made


def computed(
    engine: sa.Engine, model: sa.RowMapping, precision: str, pixels: Mapping[int, NDArray[np.uint8]]
) -> dict[int, NDArray[np.float32]]:
    """The maps of films, `uint8 [S, S]` by item, computed here and now.

    None where this machine cannot run the model, or where it gives no map.
    """
    if not pixels:
        return {}
    from worker.scoring import serving

    found: dict[int, NDArray[np.float32]] = {}
    items = list(pixels)
    try:
        with serving.opened(session.settings(), engine, model["id"], precision) as network:
            batch = np.zeros((network.batch, 1, model["size"], model["size"]), np.uint8)
            for start in range(0, len(items), network.batch):
                part = items[start : start + network.batch]
                for n, item_no in enumerate(part):
                    batch[n, 0] = pixels[item_no]
                outputs = network.submit(batch, len(part)).result()
                if outputs.cam is None:
                    return {}
                found |= {
                    item_no: outputs.cam[n] for n, item_no in enumerate(part) if outputs.finite[n]
                }
    except (WorkerError, TrainerError) as error:
        log.info("no map is computed: %s", error)
        return {}
    return found


def of_files(
    engine: sa.Engine, model: sa.RowMapping, precision: str, files: Sequence[tuple[int, str, float]]
) -> list[Picture]:
    """The pictures of labelled films that are files of their own: number, path and P(positive)."""
    made: dict[int, Picture] = {}
    pixels: dict[int, NDArray[np.uint8]] = {}
    for number, path, probability in files:
        made[number], data = _of_file(path, probability, model, number)
        if data is not None and made[number].jpeg:
            pixels[number] = rules.decode(data, model["size"], model["film_rule"])
    for number, cam in computed(engine, model, precision, pixels).items():
        made[number] = with_map(made[number], cam, model)
    return list(made.values())


def _of_file(
    path: str, probability: float, model: sa.RowMapping, number: int
) -> tuple[Picture, bytes | None]:
    """The picture of a film that is a file of its own, and its bytes where it can be read."""
    positive = probability >= model["threshold"]
    others = [str(name) for name in model["card"].get("labels", ()) if name != model["positive"]]
    pick = Pick(
        item_no=number, shard_no=0, name=path, source="", probability=probability,
        label=str(model["positive"]) if positive else (others or ["otherwise"])[0],
        threshold=float(model["threshold"]), ood=None, unusual=0,
    )  # fmt: skip
    try:
        film = reread.Reread(item_no=number, name=path, data=regular.contents(Path(path)))
    except OSError as error:
        return Picture(pick=pick, reason=f"{path}: {error.strerror}"), None
    return _picture(pick, film, model, REPORT, ()), film.data


def logits(row: sa.Row[Any]) -> NDArray[np.float32]:
    """A kept map, `float32 [h, w]`, as far as its bytes say it."""
    levels = np.frombuffer(bytes(row.data), np.uint8).reshape(row.height, row.width)
    values: NDArray[np.float32] = row.low + levels.astype(np.float32) / 255 * (row.high - row.low)
    return values.astype(np.float32)


def _picture(
    pick: Pick, film: reread.Reread, model: sa.RowMapping, side: int, accept: Sequence[str]
) -> Picture:
    """A film without its map."""
    if film.reason:
        return Picture(pick=pick, reason=film.reason)
    sha256 = hashlib.sha256(film.data).hexdigest()
    try:
        gray = rules.gray(film.data, accept)
    except FilmError as error:
        return Picture(pick=pick, sha256=sha256, reason=str(error))
    width, height = gray.size
    box = (0.0, 0.0, 1.0, 1.0)
    if model["film_rule"] in rules.RULES:
        field = rules.field(model["film_rule"], width, height, model["size"])
        left, top, right, bottom = field
        box = (left / width, top / height, (right - left) / width, (bottom - top) / height)
    gray.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Picture(
        pick=pick,
        sha256=sha256,
        jpeg=encoded(gray, "JPEG", quality=QUALITY, optimize=True),
        width=gray.width,
        height=gray.height,
        box=box,
    )


def with_map(found: Picture, cam: NDArray[np.float32], model: sa.RowMapping) -> Picture:
    """The picture with its map; as it is where another release laid it by a rule unknown here."""
    if not found.jpeg or model["film_rule"] not in rules.RULES:
        return found
    return replace(found, mapped=True, cam=overlay(cam), where=place(cam))


def overlay(cam: NDArray[np.float32]) -> bytes:
    """A map as a PNG to be laid over its film; empty where nothing speaks for the class."""
    alpha = picture.evidence(cam)
    if alpha is None:
        return b""
    alpha = alpha.resize((alpha.width * CELL, alpha.height * CELL), Image.Resampling.BICUBIC)
    drawn = Image.new("RGBA", alpha.size, (*picture.RED, 0))
    drawn.putalpha(alpha)
    return encoded(drawn, "PNG", optimize=True)


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


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture's bytes as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def why(found: Picture, positive: str) -> str:
    """Why a film is shown, in a sentence."""
    pick = found.pick
    apart = 100 * (pick.probability - pick.threshold)
    points = f"{abs(apart):.1f} points {'above' if apart >= 0 else 'below'} the operating point"
    truth = f", truly {found.truth}" if found.truth else ""
    sentence = f"called {pick.label}{truth}, {points} of {100 * pick.threshold:.1f} %"
    if found.where:
        sentence += f"; most evidence for {positive} in the {found.where} of the picture"
    if pick.unusual and pick.ood is not None:
        sentence += f"; unlike the training films (distance {pick.ood:.2f}): do not trust the label"
    if pick.look:
        sentence += (
            f"; looks acquired like films of one class ({pick.look}): do not trust the label"
        )
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
