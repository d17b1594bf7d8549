"""A shard while it is being scored: the outcomes so far of its members."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from db.queue.leases import TRIES, Shard
from db.queue.results import Cam, Identity, NotPredicted, Outcome, Prediction
from db.queue.reuse import Known
from trainer.film import content
from worker import archive
from worker.archive.trouble import Whose
from worker.decoding.pool import Decoded
from worker.decoding.protocol import Failure
from worker.decoding.supervisor import TIMEOUT
from worker.engine import NOT_FINITE, Outputs
from worker.machine.privacy import Privacy
from worker.scoring.pipeline import Run

_HASHED = re.compile("#[0-9a-f]{32}")


@dataclass(kw_only=True, eq=False)
class ShardRun(Run):
    """One claimed shard on its way through."""

    shard: Shard
    privacy: Privacy
    outcomes: list[Outcome] = field(default_factory=list)
    #: By index into `members`: content hashes as far as they are known.
    contents: dict[int, bytes] = field(default_factory=dict)
    #: By index into `members`: identifying tags as they stand in DICOM films.
    tags: dict[int, dict[str, str]] = field(default_factory=dict)
    #: By index into `members`: what read the films whose contents are known.
    readers: dict[int, tuple[str, int]] = field(default_factory=dict)
    #: By index into `members`: codes of refusals that films needed to be overridden.
    overridden: dict[int, tuple[str, ...]] = field(default_factory=dict)
    #: (item_no, name in the database, name in the archive) of names that were hashed.
    hashed_names: list[tuple[int, str, str]] = field(default_factory=list)
    #: By index into `members`: what the system said where it did not let a film be read.
    troubles: dict[int, Failure] = field(default_factory=dict)
    #: A trouble that is not the film's own: whose, and what was said.
    not_its_own: tuple[Whose, str] | None = None
    #: A film's bytes did not come in time.
    slow: bool = False
    #: It was taken out of the pipeline before its end, to find out whose trouble it has.
    doubted: bool = False

    def __post_init__(self) -> None:
        spec = self.shard.spec
        self._hash_names = bool(spec.get("hash_names"))
        self._keep_cam = spec.get("keep_cam", "flagged")
        self._closed = False
        #: When it was opened, by this process's monotonic clock.
        self.began_at = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every item has its outcome."""
        return len(self.outcomes) + len(self.troubles) == len(self.members)

    @property
    def in_vain(self) -> bool:
        """Whether it is settled already that it must be tried again, here or elsewhere."""
        if self.not_its_own is not None:
            return True
        if not self.troubles or max(self.tries.values()) >= TRIES:
            return False  # the last try is for all of them
        again = [index for index in self.earlier if index < len(self.members)]
        return self.slow or bool(again and all(index in self.troubles for index in again))

    @property
    def earlier(self) -> dict[int, int]:
        """By index into `members`: how often films could not be read before."""
        return {item - self.shard.first_item: n for item, n in self.shard.unread.items()}

    @property
    def tries(self) -> dict[int, int]:
        """By index into `members`: how often those that could not be read have been tried now."""
        earlier = self.earlier
        return {index: earlier.get(index, 0) + 1 for index in self.troubles}

    def read(self, index: int, decoded: Decoded) -> None:
        """Item `index` is back from a decoder."""
        if decoded.content is not None:
            self.contents[index] = decoded.content
        if decoded.reader is not None:
            self.readers[index] = decoded.reader
        if decoded.tags is not None:
            self.tags[index] = decoded.tags
        if decoded.overridden:
            self.overridden[index] = decoded.overridden
        if decoded.failure is None:
            return
        if not decoded.whose:
            self._not_predicted(index, *decoded.failure)
            return
        self.troubles[index] = decoded.failure
        self.slow |= decoded.failure.code == TIMEOUT
        if decoded.whose != "film":
            self.not_its_own = (decoded.whose, decoded.failure.message)

    def _not_predicted(self, index: int, code: str, detail: str, refused: bool) -> None:
        self.outcomes.append(
            NotPredicted(
                item_no=self.shard.first_item + index,
                name=self._name(index),
                code=code,
                detail=detail,
                refused=refused,
                identity=self._identity(index),
                content=self.contents.get(index),
                reader=self.readers.get(index),
            )
        )

    def give_up_unread(self) -> None:
        """Films that could not be read as often as they may be tried are in error."""
        for index in [index for index, tries in self.tries.items() if tries >= TRIES]:
            code, message, _ = self.troubles.pop(index)
            self._not_predicted(index, code, f"{message}; tried {TRIES} times", refused=False)

    def scored(self, indexes: list[int], rows: list[int], outputs: Outputs) -> None:
        """Items `indexes` are these rows of an engine's outputs."""
        card = self.card
        all_scores = outputs.scores[rows]
        probabilities = all_scores[:, card.positive_index].tolist()
        labels = card.decide(all_scores).tolist()
        oods = [None] * len(rows) if outputs.ood is None else outputs.ood[rows].tolist()
        looks = card.alike(None if outputs.look is None else outputs.look[rows], len(rows))
        finite = outputs.finite[rows].tolist()
        limit = card.ood_threshold
        for n, index in enumerate(indexes):
            if not finite[n]:
                self._not_predicted(index, "no_score", NOT_FINITE, refused=False)
                continue
            probability, ood = probabilities[n], oods[n]
            positive = probability >= card.threshold
            cam = None
            if outputs.cam is not None and self._keeps_cam(positive):
                cam = _quantised(outputs.cam[rows[n]])
            self.outcomes.append(
                Prediction(
                    item_no=self.shard.first_item + index,
                    name=self._name(index),
                    label_no=labels[n],
                    probability=probability,
                    positive=positive,
                    scores=all_scores[n].tolist() if len(card.labels) > 2 else None,
                    ood=ood,
                    unusual=ood is not None and limit is not None and ood > limit,
                    look=looks[n],
                    cam=cam,
                    content=self.contents.get(index),
                    identity=self._identity(index),
                    overridden=self.overridden.get(index, ()),
                    reader=self.readers.get(index),
                )
            )

    def known(self, found: Mapping[bytes, Known]) -> None:
        """All contents are read: what the store knows is answered from it, the others must wait.

        It knows nothing where another version read the film than reads it now, where the film
        needed more to be overridden than this job overrides, nor where the map is to be kept and is
        not there.
        """
        answered = {o.item_no for o in self.outcomes}
        answered |= {self.shard.first_item + index for index in self.troubles}
        limit = self.card.ood_threshold
        for index in range(len(self.members)):
            item_no = self.shard.first_item + index
            if item_no in answered:
                continue
            row = found.get(self.contents.get(index, b""))
            positive = row is not None and row.probability >= self.card.threshold
            if (
                row is None
                or row.reader != self.readers[index][1]
                or not row.overridden.issubset(self.accept)
                or (row.cam is None and self._keeps_cam(positive))
            ):
                self.waiting.append(index)
                continue
            self.outcomes.append(
                Prediction(
                    item_no=item_no,
                    name=self._name(index, dicom=row.identity is not None),
                    label_no=row.label_no,
                    probability=row.probability,
                    positive=positive,
                    scores=row.scores,
                    ood=row.ood,
                    unusual=row.ood is not None and limit is not None and row.ood > limit,
                    look=row.look,
                    cam=row.cam if self._keeps_cam(positive) else None,
                    content=self.contents[index],
                    reused_from=(row.job_id, row.item_no),
                    identity=row.identity,
                    reader=self.readers[index],
                )
            )

    def _keeps_cam(self, positive: bool) -> bool:
        return self._keep_cam == "all" or (self._keep_cam == "flagged" and positive)

    def _name(self, index: int, *, dicom: bool = False) -> str:
        """The item's name as it is stored: the archive's, or a keyed hash of that."""
        name = self.members[index].name
        kind, _ = self.readers.get(index, ("", 0))
        hide = self._hash_names or dicom or index in self.tags or content.may_be_dicom(name, kind)
        stored = stored_name(self.privacy, name, hide=hide)
        if stored != archive.display(name):
            self.hashed_names.append((self.shard.first_item + index, stored, archive.display(name)))
        return stored

    def _identity(self, index: int) -> Identity | None:
        """Of a DICOM film: keyed hashes of whose it is, as far as it names them."""
        tags = self.tags.get(index)
        if tags is None:
            return None

        def hashed(what: str) -> str | None:
            value = tags.get(what)
            return self.privacy.hash(what, value) if value else None  # type: ignore[arg-type]

        return Identity(
            patient=hashed("patient"), study=hashed("study"), accession=hashed("accession")
        )

    def close(self) -> None:
        """Let go of the window, if there is one."""
        if self.place.window_fd is not None and not self._closed:
            self._closed = True
            os.close(self.place.window_fd)


def stored_name(privacy: Privacy, name: str, *, hide: bool) -> str:
    """What stands in the database for an item's name: the name, or `#` and its keyed hash.

    What is a hash already stays as it is.
    """
    if hide and not _HASHED.fullmatch(name):
        return f"#{privacy.hash('name', archive.display(name))}"
    return archive.display(name)


def _quantised(cam: NDArray[np.float32]) -> Cam:
    low, high = float(cam.min()), float(cam.max())
    span = high - low or 1.0
    levels = np.rint((cam - low) * (255 / span)).astype(np.uint8)
    return Cam(height=cam.shape[0], width=cam.shape[1], low=low, high=high, data=levels.tobytes())
