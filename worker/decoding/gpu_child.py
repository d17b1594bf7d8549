"""A decoder process on a GPU: plain JPEGs are decoded there in batches, all else as ever.

It is one more decoder beside those on the CPU, started as `python -m worker.decoding.gpu_child`,
and speaks the same protocol as `worker.decoding.child`. Of a request it reads the films, gives
those to the GPU that `gpu.takes`, and puts the others, and those that the GPU refuses or finds
colour in, through `trainer.film.rules` in this process: errors and refusals are the same wherever a
film is decoded. Where `gpu_trial` finds it unfit or no gain, it reports why instead of serving, and
ends.

PNEUMOQ_FILM_MEMORY_MB holds for reading and for the CPU's way, as in every decoder. Around the
GPU's calls it is lifted, because CUDA maps address space as it likes; what they take is bounded by
BATCH_PIXELS and BATCH_BYTES, which are known before a film is decoded.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.film import gpu, rules
from worker import archive
from worker.archive.trouble import Whose
from worker.decoding import endpoint, gpu_trial, reading
from worker.decoding.endpoint import Endpoint, Replies
from worker.decoding.memory_limit import MemoryLimit
from worker.decoding.protocol import Failure, Request, Started

log = logging.getLogger(__name__)  # without a handler, warnings go to standard error

#: What goes to the GPU at once has at most so many films, pixels and encoded bytes. 64 films share
#: a deadline, and as a rule a reply; 50 million pixels are 150 MB of GPU memory in colour, beside
#: what one film needs in single precision (`gpu.MOST_PIXELS`).
BATCH_FILMS = 64
BATCH_PIXELS = 50_000_000
BATCH_BYTES = 64 << 20

#: Blocks of memory from this size on are given back when they are freed, instead of when it suits
#: glibc (mallopt(3)).
MMAP_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3


@dataclass(kw_only=True, slots=True)
class _Film:
    """A film of a request that is not answered for yet."""

    offset: int
    content: bytes = b""
    failure: Failure | None = None
    whose: Whose = ""
    tags: dict[str, str] = field(default_factory=dict)
    overridden: set[str] = field(default_factory=set)
    reader: tuple[str, int] | None = None
    #: Its bytes where the GPU is to decode it.
    data: bytes | None = None
    pixels: int = 0
    components: int = 0


def main() -> None:
    """Serve the parent until it closes the socket; or report why not."""
    here = endpoint.inherit()
    # What the comparison leaves free in the heap would not be counted when a film takes it.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
    device = here.inherited.device
    with here.parent:
        try:
            speed = gpu_trial.offered(device, here.inherited.at_least)
        except gpu_trial.NotOffered as reason:
            here.parent.send(Started(ready=False, text=str(reason)).pack())
            return
        started = Started(ready=True, text=speed, opener_pid=here.opener.pid)
        here.parent.send(started.pack())
        _Server(here, device).serve()


class _Server:
    """Takes requests one by one, and of each as many films at once as a batch has room for."""

    def __init__(self, here: Endpoint, device: str) -> None:
        self._here = here
        self._device = device
        self._limit = MemoryLimit(here.inherited.limit_mb << 20)
        good = rules.golden()[0].film
        self._good = _Film(offset=0, data=good, components=1)

    def serve(self) -> None:
        """Until the parent closes the socket. SystemExit where the GPU has stopped working."""
        for request, window_fd in self._here.requests(self._release_cache):
            with closing(reading.Films(request, window_fd, self._here.opener)) as films:
                works = self._answer(request, films)
            if not works:
                # A fresh process may get on with it, or finds out at once that it cannot.
                raise SystemExit("the GPU decodes nothing any more")

    def _release_cache(self) -> None:
        """Nothing to do: what torch keeps in store is of use to the engine and to training."""
        if self._device != "cpu":
            import torch

            torch.cuda.empty_cache()

    def _answer(self, request: Request, films: reading.Films) -> bool:
        """Answer for all films of a request; False where the GPU is out of order."""
        replies = Replies(self._here.parent)
        batch: list[_Film] = []
        works = True
        for offset, member in request.films:
            self._here.mark.begin()
            one = self._read(films, member, offset, request)
            self._here.mark.at_hand()
            if not _has_room(batch, one):
                works &= self._finish(batch, request, replies)
                batch = []
            batch.append(one)
        works &= self._finish(batch, request, replies)
        replies.send()
        return works

    def _read(
        self, films: reading.Films, member: archive.Member, offset: int, request: Request
    ) -> _Film:
        """A film's bytes where the GPU takes it; of others all that there is to do is done."""
        one = _Film(offset=offset)
        one.content, one.failure, one.whose, data = films.read(member, one.tags)
        one.reader = reading.reader_of(data)
        if data is None or offset < 0:
            return one
        taken = gpu.takes(data) if len(data) <= BATCH_BYTES else None
        if taken is None or request.rule not in gpu.RULES:
            self._decode(one, data, request)
        else:
            one.data, (one.pixels, one.components) = data, taken
        return one

    def _decode(self, one: _Film, data: bytes, request: Request) -> None:
        """The CPU's way."""
        one.failure = reading.decode(
            data, request, self._here.pixels, one.offset, one.tags, one.overridden
        )

    def _finish(self, batch: list[_Film], request: Request, replies: Replies) -> bool:
        """Decode what is to be decoded, and answer for all; False where the GPU is out of order."""
        chosen = [one for one in batch if one.data is not None]
        left, works = chosen, True
        if chosen:
            self._here.mark.restart_clock()  # the deadline is now that of the batch
            with self._limit.lifted():
                left, works = self._on_gpu(chosen, request)
        for one in left:
            assert one.data is not None
            self._here.mark.restart_clock()
            self._decode(one, one.data, request)
        for one in batch:
            replies.add(one.content, one.failure, one.tags, one.overridden, one.reader, one.whose)
        replies.send_if_due()
        return works

    def _on_gpu(self, films: list[_Film], request: Request) -> tuple[list[_Film], bool]:
        """Films that the GPU did not put into their places, and whether it works at all."""
        side, rule = request.size, request.rule
        try:
            return self._place(films, side, rule), True
        except RuntimeError as error:  # torch's and CUDA's own are such
            refused = error
        # One that it refuses hides what it made of the others.
        left = []
        for one in films:
            try:
                left += self._place([one], side, rule)
            except RuntimeError as error:
                refused = error
                left.append(one)
        if len(left) < len(films):
            return left, True
        log.warning("the GPU refuses %d film(s), which the CPU decodes: %s", len(left), refused)
        try:
            _made([self._good], side, rule, self._device)
        except RuntimeError:
            return left, False
        return left, True

    def _place(self, films: list[_Film], side: int, rule: str) -> list[_Film]:
        """Put pixels into their places; those of which it is not certain that they are gray."""
        made, certain = _made(films, side, rule, self._device)
        for one, pixels, good in zip(films, made, certain, strict=True):
            if good:
                self._here.pixels[one.offset : one.offset + side * side] = pixels.reshape(-1)
        return [one for one, good in zip(films, certain, strict=True) if not good]


def _made(
    films: list[_Film], side: int, rule: str, device: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    encoded = [one.data for one in films if one.data is not None]
    components = [one.components for one in films]
    made, certain = gpu.decode(encoded, components, side, rule, device)
    return made.cpu().numpy(), certain.cpu().numpy()


def _has_room(batch: list[_Film], film: _Film) -> bool:
    encoded = sum(len(f.data or b"") for f in (*batch, film))
    pixels = sum(f.pixels for f in (*batch, film))
    return len(batch) < BATCH_FILMS and pixels <= BATCH_PIXELS and encoded <= BATCH_BYTES


if __name__ == "__main__":
    # Nobody is left to be answered where the parent was killed in the middle.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
