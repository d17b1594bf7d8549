"""Names: what stands for a film's path and its patient in a manifest that is kept in a database.

Of DICOM, or where all names are to be hidden, a keyed hash: the same name has the same hash under
the same key. A film that comes again is known by its content; its patient by the name, which may be
kept in the clear from before, or of an image that is none of DICOM's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.data.labelled import Film

#: Bytes of a hash; it is written as hexadecimal digits behind a `#`.
_BYTES = 16

_HIDDEN = re.compile(f"#[0-9a-f]{{{2 * _BYTES}}}")


def is_hidden(name: str) -> bool:
    """Whether a name is a hash already."""
    return _HIDDEN.fullmatch(name) is not None


def hashed(key: bytes, what: str, value: str) -> str:
    """What stands for a value; the same under one key, at most 64 bytes, and another elsewhere."""
    digest = hashlib.blake2b(
        value.encode("utf-8", "surrogateescape"),
        digest_size=_BYTES,
        key=key,
        person=what.encode(),
    )
    return f"#{digest.hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Names:
    """How names are kept."""

    #: Without one nothing is hidden; at most 64 bytes.
    key: bytes = b""
    #: Whether those of images are hidden too, not of DICOM alone.
    everything: bool = False
    #: What each hash stands for, of those that were made here.
    made: dict[str, str] = field(default_factory=dict)

    def path(self, path: str, *, dicom: bool) -> str:
        """A film's path as it is kept."""
        return self._hidden("path", path) if dicom or self.everything else path

    def patient(self, name: str, *, dicom: bool) -> str:
        """The name of a film's patient as it is kept."""
        return self._hidden("patient", name) if dicom or self.everything else name

    def same(self, patient: str) -> str:
        """What is equal of equal patients, whether their names are hidden or in the clear."""
        return self._hidden("patient", patient)

    def of(self, films: Iterable[Film]) -> tuple[Film, ...]:
        """Films as they are kept."""
        films = tuple(films)
        of_dicom = {film.patient for film in films if film.dicom}
        return tuple(
            dataclasses.replace(
                film,
                path=self.path(film.path, dicom=film.dicom),
                patient=self.patient(film.patient, dicom=film.patient in of_dicom),
            )
            for film in films
        )

    def _hidden(self, what: str, name: str) -> str:
        if not self.key or is_hidden(name):
            return name
        found = hashed(self.key, what, name)
        self.made[found] = name
        return found


#: As they are: for manifests that a person asked for.
CLEAR = Names()
