"""The report of a dataset: what `dataset check` finds, and the groups that look acquired alike."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scheduler import errors
from scheduler.pages import html
from scheduler.pages.html import Content, Section, el
from scheduler.pages.job import Made, made_by
from scheduler.show import output
from trainer.checking import contact
from trainer.checking.acquired import Alike
from trainer.checking.checkup import Checkup
from trainer.errors import FilmError

#: Quality of a sheet's JPEG.
QUALITY = 80


def make(found: Checkup, paths: Sequence[Path]) -> Made:
    """The report of what a checkup found; Failure where films changed since."""
    where = ", ".join(output.printable(str(path)) for path in paths)
    total = sum(sum(counts.values()) for counts in found.films.values())
    verdict = found.verdict.replace(", but", " with doubts")
    page = html.page(
        f"Dataset: {total:,} films, {verdict}",
        [
            el("p", html.name(where, 200)),
            html.tiles(
                [
                    ("Films", f"{total:,}", "with a class"),
                    ("Patients", f"{found.patients:,}", found.patients_are or "not said"),
                    ("Verdict", verdict, "for training"),
                    ("Groups", len(found.groups), "acquired alike, of one class"),
                    ("Unreadable", len(found.unreadable), "files"),
                ]
            ),
        ],
        [
            Section("findings", "What was found", _findings(found)),
            Section("classes", "Films by class", _classes(found)),
            Section("groups", "Films that look acquired alike", _groups(found)),
        ],
        made=made_by("pneumoq report DATASET"),
    )
    return Made(page=page, films=[], missing=0)


def _findings(found: Checkup) -> Content:
    if not found.findings:
        return html.note("Nothing speaks against training on these films.")
    words = {"bad": "not usable", "doubt": "doubt", "note": "to know"}
    return html.table(
        "Findings, the worst first",
        ["how bad", "what", "in words"],
        [[words[one.level], one.code, one.text] for one in found.findings],
    )


def _classes(found: Checkup) -> Content:
    if not found.films:
        return html.note("No films could be read.")
    names = list(next(iter(found.films.values())))
    sizes: list[list[Content]] = [
        [name, of.films, f"{of.width} × {of.height}", of.shortest,
         ", ".join(f"{n:,} {kind}" for kind, n in sorted(of.kinds.items()))]
        for name, of in found.sizes.items()
    ]  # fmt: skip
    return [
        html.table(
            "Films of each division",
            ["division", *names],
            [[split, *counts.values()] for split, counts in found.films.items()],
        ),
        html.table(
            "As files", ["class", "films", "median size", "shortest side", "formats"], sizes
        ),
    ]


def _groups(found: Checkup) -> Content:
    if not found.groups:
        return html.note("No films look acquired alike and are nearly all of one class.")
    content: list[Content] = [
        html.note(
            "A network may learn such a look in place of the disease. On each sheet are films of "
            "the group's class first, with what they share framed where it is a mark."
        )
    ]
    for group in found.groups:
        counts = ", ".join(f"{len(paths):,} {of}" for of, paths in group.films.items() if paths)
        heading = f"Films with {group.what}: {counts}"
        image = _sheet(found, group)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
        content.append(
            el(
                "figure",
                el("figcaption", el("h3", heading), el("p", f"{group.patients:,} patients")),
                el(
                    "div",
                    el("img", src=html.picture(buffer.getvalue(), "jpeg"), alt=heading,
                       width=image.width, height=image.height),
                    class_="scroll", tabindex="0", role="region", aria_label=heading,
                ),
                class_="sheet",
            )
        )  # fmt: skip
    return content


def _sheet(found: Checkup, group: Alike) -> Image.Image:
    assert found.root is not None
    try:
        return contact.draw(found.root, [group])
    except (OSError, FilmError) as error:
        raise errors.Failure(
            f"a film changed since it was looked at ({error}); run again"
        ) from error
