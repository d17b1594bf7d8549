"""Whose: the patient of each film, by what its source, its tags, its name or its folder says.

What says it is kept with the film (`Film.known_by`). Where nothing does, each film is taken for a
patient of its own, and that is said; where the names prove that this is wrong, training stops.
No file is opened here.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from trainer.data import names, nobody
from trainer.data.labelled import FIRST_NAMING, NAMING, SECOND_NAMING, Entry, Film
from trainer.errors import DatasetError

#: What says whose a film is: a manifest's column, --patient-pattern, DICOM's PatientID, a file's
#: name as a known data set or program makes it, or its folder, of which each is a patient's.
MANIFEST, PATTERN, TAG, NAME, FOLDER = "manifest", "pattern", "PatientID", "name", "folder"

#: Of films whose patient the names do not say, though they show that some are of one patient.
UIDS, DICOMDIR, SHARED = "uids", "dicomdir", "shared folders"

#: Of films without a PatientID that are named as films of several are.
SEVERAL = "name of several"

#: In a job of the first naming nothing is said of it.
UNSAID = "unsaid"

KNOWN = frozenset({MANIFEST, PATTERN, TAG, NAME, FOLDER})

#: Of more than this share of films it must not be unknown whose they are, or the whole is unknown.
FEW = 0.05

#: What a person can do about it.
ADVICE = (
    "say whose they are with --patient-pattern REGEX, which is searched in a film's path below its "
    "class folder ('^[^/]+' is the first folder there, '.+' makes each film a patient of its own), "
    "or with a column `patient` in a manifest"
)

_STOPS = {
    UIDS: "are named by UIDs, of which many belong to one patient",
    DICOMDIR: "are named as DICOMDIR names them, which is by study and series of a patient",
    SHARED: "lie in folders of the same names under several classes, as films of one patient do",
}

#: By the first naming:
#:
#:     person123_bacteria_456.jpeg, patient0012_1.jpeg    person123, patient0012
#:     IM-0115-0001.jpeg, NORMAL2-IM-0115-0001.jpeg       im0115, both: they may be one patient
#:     00000013_005.png                                   00000013
#:
#: A patient may also be a folder, `patient00007/study1/view1.jpg`. Where nothing matches, each stem
#: is a patient of its own.
_FIRST = re.compile(
    r"(?:^|[^a-z])(?P<word>person|patient|subject|im)[-_ ]?(?P<number>\d+)"
    r"|(?:^|/)(?P<nih>\d{8})_\d{3}$",
    re.IGNORECASE,
)

#: Paths below the class folder, without suffix, as data sets and programs make them; the groups
#: that match make the patient. Those that the first naming knew make the same one.
_LAYOUTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # DICOMDIR: PA000001/ST000000/SE000000/IM000000; a disc has numbers of its own
        r"^((?:[^/]+/)*PA[-_]?\d+)/(?:ST|SE|IM)[-_]?\d+(?:/|$)",
        # BIDS: sub-01/ses-02/sub-01_ses-02_cxr
        r"(?:^|[/_])(sub-[a-z0-9]+)(?=[/_]|$)",
        # MIMIC-CXR: p10/p10000032/s50414267/02aa804e-bde0afdd
        r"(?:^|[/_-])(p\d{8})(?=[/_-]|$)",
        # CheXpert: patient00001/study1/view1_frontal; Kermany: person123_bacteria_456
        r"(?:^|[^a-z])(person|patient|subject|pat|pid|case)[-_ ]?(\d+)",
        # ChestX-ray14: 00000013_005
        r"(?:^|/)(\d{8})_\d{3}$",
        # Montgomery and Shenzhen: MCUCXR_0001_0
        r"(?:^|/)((?:MCU|CHN)CXR_\d{4})_[01]$",
    )
)

#: Kermany: IM-0115-0001, NORMAL2-IM-0115-0001-0002. Viewers write series and image so, too, into
#: folders of patients, which therefore come first.
_KERMANY = re.compile(r"(?:^|[^a-z])(im)-(\d+)-\d+[^/]*$", re.IGNORECASE)

_UID = re.compile(r"\d+(?:\.\d+){3,}")

#: Parts of a DICOMDIR path that are no patient.
_DICOMDIR = re.compile(r"(?:ST|SE|IM)\d{5,8}", re.IGNORECASE)

#: Folders that are no patient's: what films are, how they were taken, and parts of a set.
_NO_PATIENT = re.compile(
    r"(?:images?|imgs?|films?|x-?rays?|cxr|chest|thorax|lungs?|dicoms?|dcm|png|jpe?g|tiff?|raw|data"
    r"|dataset|files|ap|pa|ll|lat|lateral|frontal|portable|views?|train(?:ing)?|val(?:id(?:ation)?)"
    r"?|test|adults?|child(?:ren)?|male|female|bacterial?|vir(?:us|al)|cropped|resized|original"
    r"|(?:images?|batch|part|fold|set)[-_ ]?\d*)",
    re.IGNORECASE,
)

#: Days, months and years; a single one among other numbers may be a patient's.
_DATE = re.compile(r"(?:19|20)\d\d(?:[-_.]?[01]\d(?:[-_.]?[0-3]\d)?)?")

#: Films per folder at most, on the average, where each is a patient's; and per folder half as many
#: folders: a few large ones are something else.
_PER_FOLDER = 30

#: Folders under several classes at least, that are taken for those of patients.
_SHARED = 5


@dataclass(frozen=True, kw_only=True)
class Whose:
    """How it is known whose a film is; raises DatasetError for a pattern that is none."""

    #: Of the job; see `labelled.NAMING`.
    naming: int = NAMING
    #: A regular expression searched in a film's path below its class folder, without suffix; its
    #: group `patient`, or first group, or whole match is the patient.
    pattern: str | None = None
    #: Gives the key under which identifiers in tags are hashed. Without a key, whoever sees a hash
    #: can find out by trying whose it is.
    key: Callable[[], bytes] = bytes
    #: Whether a pattern that matches no film is an error.
    must_match: bool = True

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise DatasetError(
                f"the patient pattern {self.pattern!r} is no regular expression: {error}; correct "
                "--patient-pattern"
            ) from error

    @property
    def reads_tags(self) -> bool:
        """Whether what DICOM files say counts."""
        return self.naming > FIRST_NAMING

    @property
    def doubts(self) -> bool:
        """Whether what stands in a patient's place may be none."""
        return self.naming > SECOND_NAMING

    def tag(self, what: str, value: str) -> str:
        """What stands for an identifier; empty where it is nobody's."""
        nobodys = nobody.in_tag(value.partition("\\")[0])
        return "" if nobodys else names.hashed(self.key(), what, value)

    def written(self, value: str) -> str:
        """A patient that a manifest, a pattern or a folder names; empty where it is nobody."""
        return "" if self.doubts and nobody.written(value) else value


#: Where nobody said anything.
BY_THEMSELVES: Final = Whose()


class Reader:
    """Says whose each film of one source is, by all but its tags."""

    def __init__(self, whose: Whose, entries: Sequence[Entry]) -> None:
        self._whose = whose
        self._pattern = None if whose.pattern is None else re.compile(whose.pattern)
        self._first = whose.naming <= FIRST_NAMING
        #: How many films the pattern was searched in, and matched; and what it is searched in.
        self.searched = self.matched = 0
        self.example = ""
        entries = [entry for entry in entries if not whose.written(entry.patient)]
        self._layouts, self._kermany = (
            [one for one in layouts if not (whose.doubts and _names_days(one, entries))]
            for layouts in (_LAYOUTS, (_KERMANY,))
        )
        #: Which folder below the class is the patient's, counted from 0, if any is; and whether one
        #: is under several classes.
        self._level, self._shared = None, False
        if not self._first:
            nameless = _nameless(entries, self._layouts)
            self._level = _folders(nameless, whose.doubts)
            self._shared = self._level is None and _are_shared(nameless)

    def __call__(self, entry: Entry) -> tuple[str, str]:
        """The patient, and what says so; a film's own path where nothing does."""
        if patient := self._whose.written(entry.patient):
            return patient, UNSAID if self._first else MANIFEST
        stem = _first_stem(entry) if self._first else entry.stem
        if self._pattern is not None:
            self.searched += 1
            self.example = self.example or stem
            if match := self._pattern.search(stem):
                self.matched += 1
                found = _matched(match)
                if self._whose.written(found) or not self._whose.doubts:
                    return found or stem, UNSAID if self._first else PATTERN
            if self._first:
                return stem, UNSAID
        if self._first:
            match = _FIRST.search(stem)
            named = match and (match["nih"] or match["word"].lower() + match["number"])
            return named or stem, UNSAID
        return self._by_name(stem)

    def _by_name(self, stem: str) -> tuple[str, str]:
        if named := _named(stem, self._layouts):
            return named, NAME
        *folders, name = stem.split("/")
        if self._level is not None and len(folders) > self._level:
            folder = folders[self._level]
            if not _is_no_patient(folder) and self._whose.written(folder):
                return folder, FOLDER
        if named := _named(stem, self._kermany):
            return named, NAME
        if uids := [part for part in folders if _UID.fullmatch(part)]:
            return uids[0], UIDS
        if _UID.fullmatch(name):
            return name.rpartition(".")[0], UIDS
        if any(_DICOMDIR.fullmatch(part) for part in (*folders, name)):
            return stem, DICOMDIR
        return stem, SHARED if folders and self._shared else ""


@dataclass(frozen=True)
class Patient:
    """Whose a film is, and what says so, as of `labelled.Film`."""

    patient: str
    known_by: str


def of(entries: Sequence[Entry]) -> list[Patient]:
    """Whose each film of one source is, where nobody said anything and no tag is read."""
    reader = Reader(BY_THEMSELVES, entries)
    return [Patient(*reader(entry)) for entry in entries]


class Owned(Protocol):
    """A film of which something, or nothing, says whose it is."""

    @property
    def known_by(self) -> str:
        """As of `labelled.Film`."""


def unknown(films: Iterable[Owned]) -> int:
    """Of how many films nothing says whose they are."""
    return sum(film.known_by not in KNOWN and film.known_by != UNSAID for film in films)


def state(films: Sequence[Owned]) -> str:
    """`known`, `folders` where folders are taken for patients, or `unknown`; empty where unsaid."""
    by = collections.Counter(film.known_by for film in films)
    if by[UNSAID] or not films:
        return ""
    if unknown(films) > FEW * len(films):
        return "unknown"
    return "folders" if by[FOLDER] > FEW * len(films) else "known"


def notes(films: Sequence[Film]) -> list[str]:
    """Sentences for a person, about what is not known or only taken to be."""
    found = []
    if state(films) and (n := unknown(films)):
        what = "patients: unknown, as nothing" if state(films) == "unknown" else "Nothing"
        found.append(
            f"{what} says whose {n:,} of {len(films):,} films are: each is taken for a patient of "
            "its own. Where some are of one patient, a model is judged by patients whom it has "
            f"learned, figures are too good, and intervals too narrow; {ADVICE}."
        )
    found += several(films)
    folders = [film for film in films if film.known_by == FOLDER]
    if folders:
        found.append(
            f"Each folder below a class is taken for a patient: {len(folders):,} films are in "
            f"{len({film.patient for film in folders}):,}. --patient-pattern says otherwise."
        )
    return found


def several(films: Iterable[Owned]) -> list[str]:
    """A sentence about films that are named as films of several patients are; none without."""
    if not (n := sum(film.known_by == SEVERAL for film in films)):
        return []
    return [
        f"{n:,} films without a PatientID have the name, or lie in the folder, of films of "
        "several: whose they are is not known, and some may be of patients on the other side; "
        f"{ADVICE}."
    ]


def stop(films: Sequence[Film]) -> str:
    """Why these films are not to be divided into patients so; empty where they are."""
    by = collections.Counter(film.known_by for film in films)
    for kind, what in _STOPS.items():
        if by[kind] > FEW * len(films):
            return f"whose they are is not known of {by[kind]:,} films that {what}; {ADVICE}"
    return ""


def _matched(match: re.Match[str]) -> str:
    if "patient" in match.re.groupindex:
        return match["patient"] or ""
    return (match[1] if match.re.groups else match[0]) or ""


def _named(stem: str, layouts: Iterable[re.Pattern[str]]) -> str:
    """The patient of the first of these layouts that the path has; empty for any other."""
    for layout in layouts:
        if match := layout.search(stem):
            first, *others = match.groups()
            return first.lower() + "".join(others) if others else first
    return ""


def _is_no_patient(folder: str) -> bool:
    return any(kind.fullmatch(folder) for kind in (_NO_PATIENT, _UID, _DICOMDIR))


def _names_days(layout: re.Pattern[str], entries: Iterable[Entry]) -> bool:
    """Whether most of the patients that a layout finds are days."""
    return nobody.days({found for e in entries if (found := _named(e.stem, (layout,)))})


def _nameless(
    entries: Iterable[Entry], layouts: Sequence[re.Pattern[str]]
) -> list[tuple[str, list[str]]]:
    """Class and folders of the films of which their names do not say whose they are."""
    return [
        (entry.name, entry.stem.split("/")[:-1])
        for entry in entries
        if "/" in entry.stem and not _named(entry.stem, layouts)
    ]


def _folders(found: Sequence[tuple[str, list[str]]], doubts: bool) -> int | None:
    """The level of folders of which each is a patient's: the uppermost of many small ones."""
    for level in range(max((len(folders) for _, folders in found), default=0)):
        sizes = collections.Counter(
            folders[level]
            for _, folders in found
            if len(folders) > level and not _is_no_patient(folders[level])
        )
        n = len(sizes)
        if all(_DATE.fullmatch(f) for f in sizes) or (doubts and nobody.days(sizes.keys())):
            continue
        if n > 1 and sizes.total() <= min(_PER_FOLDER, 2 * n) * n:
            return level
    return None


def _are_shared(found: Iterable[tuple[str, list[str]]]) -> bool:
    """Whether most folders, and more than a few, are under several classes."""
    classes = collections.defaultdict(set)
    for name, folders in found:
        for level, folder in enumerate(folders):
            if not (_is_no_patient(folder) or _DATE.fullmatch(folder)):
                classes[level, folder].add(name)
    several = sum(len(under) > 1 for under in classes.values())
    return several >= _SHARED and several > len(classes) / 2


def _first_stem(entry: Entry) -> str:
    """The stem of the first naming, which took whatever came after a dot for a suffix."""
    path = PurePosixPath(entry.stem)
    return path.with_suffix("").as_posix() if path.name == entry.file.name else entry.stem
