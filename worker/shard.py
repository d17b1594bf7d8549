"""A shard while it is being scored: its members, and the outcomes so far."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from db import database, leases
from db.leases import Shard
from db.results import Cam, NotPredicted, Outcome, Prediction
from trainer.card import Card
from worker import archive
from worker.archive import Kind, Member
from worker.decoders import Place
from worker.engine import Outputs

#: Bytes of a tar header.
TAR_HEADER = 512


@dataclass(kw_only=True, eq=False)
class ShardRun:
    """One claimed shard on its way through."""

    shard: Shard
    card: Card
    place: Place
    members: list[Member]
    #: Indexes into `members` that were not handed to a decoder yet.
    waiting: deque[int] = field(default_factory=deque)
    outcomes: list[Outcome] = field(default_factory=list)
    #: Films handed to the decoders and not back yet.
    decoding: int = 0
    #: The lease is gone: whatever comes back is dropped.
    abandoned: bool = False

    @property
    def complete(self) -> bool:
        """Whether every item has its outcome."""
        return len(self.outcomes) == len(self.members)

    def failed(self, index: int, failure: tuple[str, str, bool]) -> None:
        """Item `index` could not be decoded."""
        code, detail, refused = failure
        self.outcomes.append(
            NotPredicted(
                item_no=self.shard.first_item + index,
                name=archive.display(self.members[index].name),
                code=code,
                detail=detail,
                refused=refused,
            )
        )

    def scored(self, index: int, outputs: Outputs, row: int) -> None:
        """Item `index` is row `row` of an engine's outputs."""
        card = self.card
        scores = outputs.scores[row]
        probability = float(scores[card.positive_index])
        positive = probability >= card.threshold
        ood = None if outputs.ood is None else float(outputs.ood[row])
        keep = self.shard.spec.get("keep_cam", "flagged")
        cam = None
        if outputs.cam is not None and (keep == "all" or (keep == "flagged" and positive)):
            cam = _quantised(outputs.cam[row])
        self.outcomes.append(
            Prediction(
                item_no=self.shard.first_item + index,
                name=archive.display(self.members[index].name),
                label_no=label(scores, card),
                probability=probability,
                positive=positive,
                scores=[float(s) for s in scores] if len(card.labels) > 2 else None,
                ood=ood,
                unusual=ood is not None
                and card.ood_threshold is not None
                and ood > card.ood_threshold,
                cam=cam,
            )
        )

    def close(self) -> None:
        """Let go of the window, if there is one."""
        if self.place.window_fd is not None:
            os.close(self.place.window_fd)


def label(scores: np.ndarray[tuple[int], np.dtype[np.float32]], card: Card) -> int:
    """The class by the operating threshold: positive at or above it, else the likeliest other."""
    if float(scores[card.positive_index]) >= card.threshold:
        return card.positive_index
    others = scores.copy()
    others[card.positive_index] = -1
    return int(others.argmax())


def _quantised(cam: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Cam:
    low, high = float(cam.min()), float(cam.max())
    span = high - low or 1.0
    levels = np.rint((cam - low) * (255 / span)).astype(np.uint8)
    return Cam(height=cam.shape[0], width=cam.shape[1], low=low, high=high, data=levels.tobytes())


class Opener:
    """Makes claimed shards ready to be read. Used by one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._spool: tuple[tuple[int, int], archive.Spool] | None = None

    def open(self, shard: Shard, kind: Kind, uri: str, card: Card) -> ShardRun:
        """Unpack the listing and, for a compressed archive, inflate the shard's window.

        Raises ArchiveError where the archive cannot be read now.
        """
        members = archive.unpack(shard.listing)
        edition = f"{shard.job_id}.{shard.source_no}"
        place = Place(kind=kind, uri=uri, edition=edition)
        if kind in archive.WINDOWED:
            # What is too large to be read is not inflated either; it has a shard of its own.
            readable = [m for m in members if m.stored <= archive.MAX_BYTES]
            # From the first member's header on, which its reader checks.
            first = max(0, min((m.offset for m in readable), default=0) - TAR_HEADER)
            end = max((m.offset + m.stored for m in readable), default=0)
            window_fd = self._open_spool(shard, kind, uri).window(
                first, end, cap=2 * archive.MAX_BYTES
            )
            place = Place(kind=kind, uri=uri, edition=edition, window_fd=window_fd, base=first)
        return ShardRun(
            shard=shard, card=card, place=place, members=members, waiting=deque(range(len(members)))
        )

    def _open_spool(self, shard: Shard, kind: Kind, uri: str) -> archive.Spool:
        # Shards of a job come one after another: the stream goes on where it was.
        key = (shard.job_id, shard.source_no)
        if self._spool is None or self._spool[0] != key:
            self.close()
            with database.reading(self._engine) as connection:
                index = leases.seek_index(connection, *key)
            self._spool = (key, archive.open_spool(kind, uri, index))
        return self._spool[1]

    def close(self) -> None:
        """Close what is open."""
        if self._spool is not None:
            self._spool[1].close()
            self._spool = None
