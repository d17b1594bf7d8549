"""Learned: the films that a model was trained on, and which patients it therefore knows.

A film is known by its content; a patient by any of their films, or by the name where something says
whose a film is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.data import whose
from trainer.data.names import CLEAR, Names


class Kept(Protocol):
    """A film as a manifest keeps it."""

    @property
    def sha256(self) -> str:
        """Hexadecimal."""

    @property
    def patient(self) -> str:
        """As it is kept."""


class Owned(Kept, Protocol):
    """A film of which something, or nothing, says whose it is."""

    @property
    def known_by(self) -> str:
        """As of `labelled.Film`."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a model, and those that it began from, were trained on."""

    #: Their contents, hexadecimal.
    films: frozenset[str] = frozenset()
    #: Whose they are, as it is kept.
    patients: frozenset[str] = frozenset()
    #: Whether that is all: not where its weights come from elsewhere.
    complete: bool = True
    #: How names are kept, by which patients are compared.
    names: Names = CLEAR

    @classmethod
    def of(cls, films: Iterable[Kept], *, complete: bool = True, names: Names = CLEAR) -> Learned:
        """By the films of manifests."""
        contents, patients = set(), set()
        for film in films:  # of years of nights they may be more than memory has room for
            contents.add(film.sha256)
            patients.add(film.patient)
        return cls(
            films=frozenset(contents), patients=frozenset(patients), complete=complete, names=names
        )

    @classmethod
    def read(cls, path: Path, names: Names = CLEAR) -> Learned:
        """What `to_json` made, from a file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            films=frozenset(values["films"]), patients=frozenset(values["patients"]),
            complete=values["complete"], names=names,
        )  # fmt: skip

    def to_json(self) -> str:
        """As text, in ASCII."""
        return json.dumps(
            {
                "films": sorted(self.films),
                "patients": sorted(self.patients),
                "complete": self.complete,
            }
        )

    def known(self, films: Sequence[Owned]) -> list[bool]:
        """Of each film whether it, another of its patient, or its patient by name was learned."""
        if not self.films:
            return [False] * len(films)
        named = {self.names.same(patient) for patient in self.patients}
        theirs = {
            film.patient
            for film in films
            if film.sha256 in self.films
            or (film.known_by in whose.KNOWN and self.names.same(film.patient) in named)
        }
        return [film.patient in theirs for film in films]


#: Of weights that no film of ours went into.
NOTHING = Learned()
