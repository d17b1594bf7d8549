"""Groups of films of one class that look new: why they keep the champion, and a sheet of some."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer import atomic
from trainer.checking import contact, unseen
from trainer.checking.acquired import Alike
from trainer.data.gathering import Gathered
from trainer.errors import FilmError
from trainer.judging.gate import Reason

#: In the job's folder: some films of each.
SHEET = "groups.png"


def against(
    groups: Sequence[Alike], gathered: Gathered, earlier: Mapping[str, str] | None, folder: Path
) -> tuple[Reason, ...]:
    """What groups speak against a new model, and some of their films drawn into the job's folder.

    `earlier` are the films that the champion was made with, content → class; None where that is not
    known, and then any group is new.
    """
    found = unseen.groups(groups, gathered, earlier or {})
    if not found:
        return ()
    # By its place in PNEUMOQ_HOME: the reason holds no path of this machine's.
    place = f"PNEUMOQ_HOME/training/{folder.name}/{SHEET} on {socket.gethostname()}"
    look = f"look at some of them in {place}"
    try:
        with atomic.replacing(folder / SHEET, private=True) as part:
            contact.draw(gathered.root, found).save(part, format="PNG")
    except (OSError, FilmError) as error:
        why = error.strerror if isinstance(error, OSError) else "a film changed meanwhile"
        look = f"they could not be drawn here ({why}), so see `pneumoq dataset check --sheet`"
    return tuple(_reason(group, look, known=earlier is not None) for group in found)


def _reason(group: Alike, look: str, *, known: bool) -> Reason:
    n, theirs = sum(map(len, group.films.values())), len(group.films[group.label])
    films = f"{n:,} films of {group.patients:,} patients"
    since = (
        "the champion's films had no such group"
        if known
        else "it is not known whether the champion learned from such films"
    )
    share = "all" if theirs == n else f"{theirs:,}"
    return Reason(
        text=f"{films} have {group.what}, {share} of them are {group.label}, and {since}: a "
        f"network may learn that in the place of the disease; {look}, and if they are as they "
        "should be, promote the new model by hand (`pneumoq models promote`): later nights know "
        "them then",
        shareable=f"{films} look acquired alike and are of one class, and {since}",
    )
