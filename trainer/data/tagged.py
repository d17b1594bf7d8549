"""Tagged: whose a film is by DICOM's tags, and what they say of films that have none.

No file is opened here.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from trainer.data import patients, whose
from trainer.data.labelled import Film
from trainer.data.whose import Whose

#: A PatientID that more than half of the films have is nobody's, where they are so many.
_MANY = 20


def owned(
    films: Sequence[Film], tags: Mapping[str, Mapping[str, str]], said: Whose
) -> tuple[list[Film], list[str]]:
    """Films with the patients that their tags say, and sentences about those.

    `tags` are of a path, hashed by `said`: `patient`, `study`. A patient whom a source or a person
    named keeps that name; but films that have one PatientID, or are of one study, are one
    patient's. So are those without one whose name or folder is a PatientID, or is that of films of
    one; where it is that of films of several, it says nothing.
    """
    counts = collections.Counter(tag["patient"] for tag in tags.values() if tag.get("patient"))
    total = counts.total()
    nobodys = {who for who, n in counts.items() if total >= _MANY and n > total / 2}
    notes = [
        f"One PatientID, which {counts[w]:,} films have, is taken for nobody's." for w in nobodys
    ]
    known = {
        path: who
        for path, tag in tags.items()
        if (who := tag.get("patient", "")) and who not in nobodys
    }
    tagged = set(known.values())
    #: By a patient of names or folders, who the tags of such films say that it is.
    called = collections.defaultdict(set)
    for film in films:
        if film.path in known and film.known_by in (whose.NAME, whose.FOLDER):
            called[film.patient].add(known[film.path])
    found = []
    shared: list[tuple[str, str]] = []
    for film in films:
        who, named = known.get(film.path, ""), film.known_by in (whose.NAME, whose.FOLDER)
        if who and film.known_by not in (whose.MANIFEST, whose.PATTERN):
            film = dataclasses.replace(film, patient=who, known_by=whose.TAG)
        elif said.doubts and film.known_by in whose.KNOWN:
            itself = said.tag("patient", film.patient)
            theirs = called[film.patient] if named and itself not in tagged else {itself} & tagged
            if len(theirs) > 1:
                film = dataclasses.replace(film, known_by=whose.SEVERAL)
            else:
                shared += [(one, film.patient) for one in theirs]
        found.append(film)
        shared += [
            (key, film.patient) for key in (who, tags.get(film.path, {}).get("study")) if key
        ]
    return patients.together(found, shared) if shared else found, notes
