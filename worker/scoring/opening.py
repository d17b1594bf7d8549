"""Opening: a claimed shard becomes films to be read, with the card of its model."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import replace

import sqlalchemy as sa

from db.base import database as connecting
from db.queue import jobs, listings, reuse
from db.queue.leases import Shard
from db.registry import models
from trainer.card import Card
from worker import archive
from worker.archive import Kind, Member, apart, stall, trouble
from worker.decoding.pool import Place
from worker.decoding.protocol import Hash
from worker.errors import EngineError, SourceTrouble
from worker.machine.privacy import Privacy
from worker.scoring import seeking
from worker.scoring.batches import MAX_SIDE
from worker.scoring.engine_thread import Model
from worker.scoring.shard import ShardRun

#: Seconds without an answer from a share after which others get its shards.
PATIENCE_S = 30.0


class Opener:
    """Makes claimed shards ready to be read. Used by one thread."""

    def __init__(
        self, database: sa.Engine, privacy: Privacy, patience_s: float = PATIENCE_S
    ) -> None:
        """A share that gives no answer for `patience_s` seconds is one that cannot be read now."""
        self._database = database
        self._patience_s = patience_s
        self._privacy = privacy
        self._cards: dict[int, Card] = {}
        #: What the database knows films by, once it was asked.
        self._hash: Hash | None = None
        #: Of the job whose shard was opened last, by source_no.
        self._sources: tuple[int, dict[int, sa.RowMapping]] | None = None
        #: Of the (job, source) whose shard was opened last, where that is a compressed archive.
        self._spool: tuple[tuple[int, int], archive.Spool] | None = None

    def open(self, shard: Shard) -> ShardRun:
        """Unpack the listing and, for a compressed archive, inflate the shard's window.

        All its films are `waiting`. Raises SourceTrouble where the archive cannot be read now or
        this machine is short of something, ArchiveError where it is not what it was, and CardError
        or EngineError where its model cannot be used here.
        """
        source = self._source(shard)
        card = self._card(shard.model_id)
        kind: Kind = archive.read_as(source["kind"], named=source["paths"] is not None)
        place = Place(kind=kind, uri=source["uri"], edition=f"{shard.job_id}.{shard.source_no}")
        try:
            with trouble.at(place.uri):
                members = archive.unpack(shard.listing)
                # Decoders that wait for a share could not be ended either.
                apart.reach(archive.root_of(kind, place.uri), self._patience_s)
                if kind in archive.WINDOWED:
                    window_fd, base = self._window(shard, place, members)
                    place = replace(place, window_fd=window_fd, base=base)
        except SourceTrouble:
            self.close()  # what is open may be of a share that is gone
            raise
        return ShardRun(
            shard=shard,
            card=card,
            model=Model(shard.model_id, shard.precision, shard.engine or "auto"),
            place=place,
            members=members,
            hash=self._content_hash(),
            accept=tuple(shard.spec.get("accept") or ()),
            waiting=deque(range(len(members))),
            privacy=self._privacy,
        )

    def _content_hash(self) -> Hash:
        if self._hash is None:
            self._hash = reuse.content_hash(self._database)
        return self._hash

    def uri(self, shard: Shard) -> str:
        """The path of a shard's source."""
        return str(self._source(shard)["uri"])

    def _source(self, shard: Shard) -> sa.RowMapping:
        if self._sources is None or self._sources[0] != shard.job_id:
            rows = jobs.source_rows(self._database, shard.job_id)
            self._sources = (shard.job_id, {row["source_no"]: row for row in rows})
        return self._sources[1][shard.source_no]

    def _card(self, model_id: int) -> Card:
        if model_id not in self._cards:
            row = models.get(self._database, model_id)
            card = Card.from_json(json.dumps(row["card"]))
            if card.size > MAX_SIDE:
                raise EngineError(
                    f"model {model_id} wants films of {card.size} pixels; at most {MAX_SIDE} "
                    "are made"
                )
            self._cards[model_id] = card
        return self._cards[model_id]

    def _window(self, shard: Shard, place: Place, members: list[Member]) -> tuple[int, int]:
        """The shard's window, inflated, and where it begins."""
        # Shards of a job come one after another: the stream goes on where it was.
        key = (shard.job_id, shard.source_no)
        if self._spool is None or self._spool[0] != key:
            self.close()
        spool, self._spool = self._spool, None
        index = None
        if spool is None:
            with connecting.reading(self._database) as connection:
                index = seeking.opened(listings.seek_index(connection, *key), self._privacy)

        def inflate() -> tuple[archive.Spool, tuple[int, int]]:
            opened = archive.open_spool(place.kind, place.uri, index) if spool is None else spool[1]
            try:
                # What is refused unread is not inflated either.
                return opened, opened.holding(members, cap=2 * archive.MAX_BYTES)
            except BaseException:
                opened.close()
                raise

        def late(inflated: tuple[archive.Spool, tuple[int, int]]) -> None:
            opened, (window_fd, _) = inflated
            os.close(window_fd)  # it is of memory; the archive's share may not answer
            opened.close()

        # Where that comes to a stop the spool is left with it.
        opened, window = stall.watched(inflate, lambda: place.uri, lambda: self._patience_s, late)
        self._spool = (key, opened)
        return window

    def close(self) -> None:
        """Close what is open; a share that hangs then is not waited for."""
        if self._spool is not None:
            spool, self._spool = self._spool[1], None
            stall.close(spool.close, spool.uri)
