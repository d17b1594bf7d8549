"""Dataset: labelled films become a manifest, split by patient.

Films come from folders (trainer.data.layout) and manifests (trainer.data.manifest). Files are
hashed here but never decoded, and nothing is moved or written. Needs the standard library only, no
torch.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data import classes, gathering, manifest, patients, whose
from trainer.data.gathering import Gathered
from trainer.data.labelled import TEST, TRAIN, VAL, Film, LeftOut, listed
from trainer.data.learned import NOTHING, Learned
from trainer.data.whose import Whose
from trainer.errors import DatasetError

__all__ = ["TEST", "TRAIN", "VAL", "Dataset", "Film", "LeftOut", "read", "settle"]

#: A val/ folder chooses the model only when it is at least this large; the most used public set
#: ships one of 16 films, on which every epoch looks the same.
VAL_MIN_FILMS = 100
VAL_MIN_PER_CLASS = 20

#: Fewer patients of a class than this, a tenth of what a class should have, cannot choose a model.
VAL_FEW_PATIENTS = 5

#: At most this share of films (or this many, in a small folder) may be unreadable: more is not a
#: few broken films but a wrong folder.
UNREADABLE_SHARE = 0.05
UNREADABLE_MIN = 5


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled films as they were when they were read."""

    #: What the films' paths are relative to.
    root: Path
    #: Class names, sorted; a film's label is an index into it.
    labels: tuple[str, ...]
    #: The class whose probability is reported: the disease.
    positive: str
    #: Sorted by path.
    films: tuple[Film, ...]
    left_out: tuple[LeftOut, ...] = ()
    #: Sentences that a person should read before trusting the result. They count, and name neither
    #: films nor folders: they go where the model goes.
    notes: tuple[str, ...] = ()
    #: Patients of whom the model that training begins from has learned films, and whether it may
    #: have learned others: its weights come from elsewhere.
    known: frozenset[str] = frozenset()
    may_know: bool = False

    @property
    def doubt(self) -> str:
        """Why figures of the held-out films are too good, or may be; empty where nothing says so.

        Of this training, not of the films: others on the same films may begin from something else.
        """
        held_out = self.of(VAL)
        if n := sum(film.patient in self.known for film in held_out):
            return (
                f"{n:,} of {len(held_out):,} held-out films were learned by the model that this "
                "one began from, or are of patients whom it learned: figures of them are too good"
            )
        if self.may_know:
            return (
                "it is not known here what the weights that this model began from have learned: "
                "where it is held-out films, their figures are too good"
            )
        return ""

    @property
    def positive_index(self) -> int:
        """The label that is the disease."""
        return self.labels.index(self.positive)

    @property
    def hash(self) -> str:
        """SHA-256 of the manifest: equal exactly when paths, contents, labels and splits are, and
        patients, but for jobs of the first naming."""
        lines = sorted(
            f"{film.path}\t{film.sha256}\t{self.labels[film.label]}\t{film.split}"
            + ("\n" if film.known_by == whose.UNSAID else f"\t{film.patient}\n")
            for film in self.films
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def patients(self) -> str:
        """`known`, `folders` where folders are taken for patients, or `unknown`; empty where it is
        not said."""
        return whose.state([film for film in self.films if film.split != TEST])

    def of(self, split: str) -> tuple[Film, ...]:
        """The films of one split, in the order of `films`."""
        return tuple(film for film in self.films if film.split == split)

    def count(self, split: str) -> dict[str, int]:
        """Films per class name in one split."""
        counts = collections.Counter(film.label for film in self.of(split))
        return {name: counts[label] for label, name in enumerate(self.labels)}

    def without(self, left_out: Sequence[LeftOut]) -> Dataset:
        """The same dataset less these files; raises DatasetError where too little is left."""
        if not left_out:
            return self
        allowed = max(UNREADABLE_MIN, int(UNREADABLE_SHARE * len(self.films)))
        if len(left_out) > allowed:
            codes = collections.Counter(file.code for file in left_out)
            found = (
                f"{len(left_out)} of {len(self.films)} films in {self.root} cannot be read "
                f"({listed(f'{n} × {code}' for code, n in codes.items())}), more than the "
                f"{allowed} that are left out quietly; "
            )
            raise DatasetError(
                f"{found}the first is {left_out[0].path}: {left_out[0].reason}",
                shareable=f"{found}`pneumoq dataset check` names them",
            )
        gone = {file.path for file in left_out}
        films = tuple(film for film in self.films if film.path not in gone)
        _check_trainable(self.root, films, self.labels)
        for split in (TRAIN, VAL):
            for name, n in dataclasses.replace(self, films=films).count(split).items():
                if n == 0:
                    found = f"no readable film of class {name} is left for {split}; replace the "
                    raise DatasetError(
                        f"{found}broken files, the first of which is {left_out[0].path}: "
                        f"{left_out[0].reason}",
                        shareable=f"{found}broken files, which `pneumoq dataset check` names",
                    )
        return dataclasses.replace(self, films=films, left_out=(*self.left_out, *left_out))

    def write_csv(self, path: Path) -> None:
        """The manifest as CSV, one line per film, replaced in one step."""
        manifest.write(path, self.films, self.labels)


def read(
    source: Path | Sequence[Path],
    *,
    val_fraction: float = 0.12,
    seed: int = 0,
    positive: str | None = None,
    said: Whose = whose.BY_THEMSELVES,
    corrections: Path | None = None,
) -> Dataset:
    """Labelled films, split into train, val and (never trained on) test by patient.

    `source` is a folder or a manifest, or several: where a later one has a film of an earlier one
    again, by content, its label counts. `corrections` is a CSV of labels that count before all.
    `val_fraction` is the share of each class that is held out, and `positive` the class that is the
    disease, where their names do not say it (trainer.data.classes). `said` is how it is
    known whose a film is. Raises DatasetError where the films cannot be trained on, and where their
    names prove that it is not known.
    """
    if not 0.0 < val_fraction < 1.0:
        raise DatasetError(
            f"val_fraction is {val_fraction}; give a share between 0 and 1, like 0.12"
        )
    gathered = gathering.gather(
        [source] if isinstance(source, Path) else source,
        said=said,
        corrections=corrections,
    )
    check_patients(gathered)
    return settle(gathered, val_fraction=val_fraction, seed=seed, positive=positive)


def check_patients(gathered: Gathered) -> None:
    """Raise DatasetError where the films' names prove that whose they are is not known."""
    if why := whose.stop(gathered.films):
        raise DatasetError(why)


def settle(
    gathered: Gathered,
    *,
    val_fraction: float,
    seed: int,
    positive: str | None = None,
    start: Learned = NOTHING,
) -> Dataset:
    """The dataset that training uses: contradictions left out, train and val settled.

    `positive` is the disease; without it the names of the classes say which it is, or DatasetError.
    `start` is what the weights that training begins from have learned: other patients are held out
    before those.
    """
    films = list(gathered.films)
    notes = list(gathered.notes)
    contradictions = _contradictions(films)
    if contradictions:
        notes.append(
            f"{len(contradictions)} files are left out because the same content lies in two "
            "classes."
        )
        gone = {file.path for file in contradictions}
        films = [film for film in films if film.path not in gone]
    by_name = start.known(films)
    films = patients.joined(films)
    known = frozenset(
        film.patient
        for film, *was in zip(films, by_name, start.known(films), strict=True)
        if any(was)
    )
    films = _followed(films, gathered.added)
    _check_trainable(gathered.root, films, gathered.labels)
    films, more = _split(films, gathered.labels, val_fraction, seed, gathered.settled, known)
    dataset = Dataset(
        root=gathered.root,
        labels=gathered.labels,
        positive=classes.disease(gathered.labels, positive),
        films=tuple(films),
        notes=(
            *notes,
            *few_choose(films, gathered.labels),
            *more,
            *_leaks(films),
            *whose.notes(films),
        ),
        known=known,
        may_know=not start.complete,
    )
    dataset = dataset.without(gathered.unreadable)
    return dataclasses.replace(dataset, left_out=(*contradictions, *gathered.unreadable))


def few_choose(films: Iterable[Film], labels: Sequence[str]) -> list[str]:
    """A sentence where too few patients of a class are held out; none where they are enough."""
    theirs = collections.defaultdict(set)
    for film in films:
        if film.split == VAL:
            theirs[film.label].add(film.patient)
    few = {n: len(theirs[n]) for n in range(len(labels)) if len(theirs[n]) < VAL_FEW_PATIENTS}
    if not few:
        return []
    counts = ", ".join(f"{n} of {labels[label]}" for label, n in few.items())
    return [
        f"Too few patients choose the model: {counts}, fewer than {VAL_FEW_PATIENTS}. Epoch and "
        "threshold rest on them, and so do figures; hold out more."
    ]


def _contradictions(films: Sequence[Film]) -> list[LeftOut]:
    """Files whose content lies in more than one class."""
    labels = collections.defaultdict(set)
    for film in films:
        labels[film.sha256].add(film.label)
    return [
        LeftOut(path=f.path, code="two_labels", reason="the same content lies in another class")
        for f in films
        if len(labels[f.sha256]) > 1
    ]


def _followed(films: Sequence[Film], added: frozenset[str]) -> list[Film]:
    """Films with those of later sources on the side where their patient is already."""
    side: dict[str, str] = {}
    for film in films:
        # Of a patient on two sides test comes first: what was kept for judging stays so.
        if film.path not in added and film.split != TRAIN and side.get(film.patient) != TEST:
            side[film.patient] = film.split
    return [
        dataclasses.replace(film, split=side.get(film.patient, film.split))
        if film.path in added
        else film
        for film in films
    ]


def _check_trainable(root: Path, films: Iterable[Film], labels: tuple[str, ...]) -> None:
    patients = collections.defaultdict(set)
    for film in films:
        if film.split != TEST:
            patients[film.label].add(film.patient)
    for label, name in enumerate(labels):
        if not patients[label]:
            raise DatasetError(
                f"class {name} in {root} has no readable films; add some or remove it"
            )
        if len(patients[label]) < 2:
            raise DatasetError(
                f"all films of class {name} in {root} are of one patient; at least two are needed, "
                "one to train on and one to check with (see --patient-pattern if the names mislead)"
            )


def _split(
    films: Sequence[Film],
    labels: tuple[str, ...],
    val_fraction: float,
    seed: int,
    settled: bool,
    known: frozenset[str],
) -> tuple[list[Film], list[str]]:
    """Films with train and val settled, and a sentence about how.

    `settled` is whether val was chosen film by film, so that no size makes it doubtful. Patients of
    `known` are held out last.
    """
    given = [film for film in films if film.split == VAL]
    where = "the manifest" if settled else "val/"
    why = _why_not_enough(given, films, labels, settled)
    if given and not why:
        return list(films), [f"The {len(given)} films of {where} choose the model, as they are."]

    pool = [film for film in films if film.split != TEST]
    held_out = patients.held_out(pool, labels, val_fraction, seed, known)
    divided = [
        film
        if film.split == TEST
        else dataclasses.replace(film, split=VAL if film.patient in held_out else TRAIN)
        for film in films
    ]
    n = sum(film.split == VAL for film in divided)
    kept = (
        f"{n} of {len(pool)} films ({len(held_out)} patients) are held out of training by patient"
    )
    if given:
        return divided, [f"{where} does not choose the model because {why}; instead {kept}."]
    return divided, [f"{kept[0].upper()}{kept[1:]}."]


def _why_not_enough(
    given: Sequence[Film], films: Sequence[Film], labels: tuple[str, ...], settled: bool
) -> str:
    """Why the films given for val cannot choose the model; empty where they can."""
    counts = collections.Counter(film.label for film in given)
    fewest = min(range(len(labels)), key=lambda label: counts[label])
    training = [film for film in films if film.split == TRAIN]
    shared = {f.patient for f in given} & {f.patient for f in training}
    least, least_per_class = (2, 1) if settled else (VAL_MIN_FILMS, VAL_MIN_PER_CLASS)
    if len(given) < least:
        return f"it has {len(given)} films, fewer than {least}"
    if counts[fewest] < least_per_class:
        return f"it has {counts[fewest]} films of {labels[fewest]}, fewer than {least_per_class}"
    if shared:
        return f"{len(shared)} of its patients are in train/ too"
    if missing := set(range(len(labels))) - {film.label for film in training}:
        return f"no film of {labels[min(missing)]} is left to train on"
    return ""


def _leaks(films: Sequence[Film]) -> Iterator[str]:
    """Sentences about test films that are in training as well."""
    seen = {film.sha256 for film in films if film.split != TEST}
    n = sum(film.split == TEST and film.sha256 in seen for film in films)
    if n:
        yield f"{n} films of test/ are in the training folders too; do not judge a model by them."
    sides = collections.defaultdict(set)
    for film in films:
        if film.known_by in whose.KNOWN:
            sides[film.patient].add(film.split == TEST)
    if n := sum(len(both) > 1 for both in sides.values()):
        yield (
            f"{n} patients have films both in test/ and in the training folders; do not judge a "
            "model by test/, or divide anew with `pneumoq dataset split`."
        )
