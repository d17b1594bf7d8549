"""A decoder process on a GPU: plain JPEGs are decoded there in batches, all else as ever.

It is one more decoder beside those on the CPU, started as `python -m worker.decoding.gpu_child`,
and speaks what `worker.decoding.child` speaks. Of a message it reads the films, gives those to the
GPU that `gpu.takes`, and puts the others, and those that the GPU refuses or finds colour in,
through `trainer.film.rules` in this process: errors and refusals are the same wherever a film is
decoded.

Before it serves it is measured: pixels that differ from `trainer.film.rules`'s by more than the
bounds, or no gain in time, and it says why it is not to be had, and ends.

PNEUMOQ_FILM_MEMORY_MB holds for reading and for the CPU's way, as in every decoder. Around the
GPU's calls it is lifted, because CUDA maps address space as it likes; what they take is bounded by
BATCH_PIXELS and BATCH_BYTES, which are known before a film is decoded.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer import phantom
from trainer.film import gpu, rules
from worker.decoding import child
from worker.decoding.child import Answers, Failure, Inherited

log = logging.getLogger(__name__)  # without a handler, warnings go to standard error

#: What goes to the GPU at once has at most so many films, pixels and encoded bytes. In one answer
#: 64 films have room whatever there is to say of them; 50 million pixels are 150 MB of GPU memory
#: in colour, beside what one film needs in single precision (`gpu.MOST_PIXELS`).
BATCH_FILMS = 64
BATCH_PIXELS = 50_000_000
BATCH_BYTES = 64 << 20

#: Height, width, JPEG quality, mode and whether it is progressive, of the films that the GPU is
#: compared on: smaller than S, of an ordinary archive, and large enough for each reduced scale.
COMPARED = (
    (200, 170, 75, "L", False),
    (224, 224, 90, "RGB", False),
    (500, 401, 92, "RGB", True),
    (760, 1163, 90, "L", False),
    (1353, 1654, 95, "L", True),
    (2701, 2690, 85, "RGB", False),
)

#: S that it is compared at, and how many films of TIMED's size it is timed with, this many times.
SIZE = 224
TIMED, TIMED_FILMS, TIMES = (1000, 1300, 90, "L", False), 32, 3


#: Blocks of memory from this size on are given back when they are freed, instead of when it suits
#: glibc (mallopt(3)).
MMAP_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3


@dataclass(kw_only=True, slots=True)
class _Film:
    """A film of a message that is not answered for yet."""

    place: int
    content: bytes = b""
    failure: Failure | None = None
    tags: dict[str, str] = field(default_factory=dict)
    #: Its bytes where the GPU is to decode it.
    data: bytes | None = None
    pixels: int = 0
    components: int = 0


def main() -> None:
    """Serve the parent until it closes the socket; or tell it why not."""
    here = child.inherited()
    # What the comparison leaves free in the heap would not be counted when a film takes it.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
    device, at_least = here.more
    with here.parent:
        try:
            rate = offered(device, float(at_least))
        except NotOffered as reason:
            here.parent.send(str(reason).encode()[: child.MESSAGE_LENGTH])
            return
        here.parent.send(child.READY + b" " + rate.encode())
        _Server(here, device).serve()


class NotOffered(Exception):
    """Decoding on this GPU is not to be had here, or not worth having."""


class _Server:
    """Takes messages one by one, and of each as many films at once as a batch has room for."""

    def __init__(self, here: Inherited, device: str) -> None:
        self._here = here
        self._device = device
        self._limit = _MemoryLimit(here.limit_mb << 20)
        good = rules.golden()[0].film
        self._good = _Film(place=0, data=good, components=1)

    def serve(self) -> None:
        """Until the parent closes the socket. SystemExit where the GPU has stopped working."""
        for work, reader in child.messages(self._here.parent, self._rest):
            answers = Answers(self._here.parent)
            batch: list[_Film] = []
            alive = True
            for place, *member in work["films"]:
                self._here.mark.begin()
                one = self._read(reader, member, place, work)
                if not _has_room(batch, one):
                    alive &= self._finish(batch, work, answers)
                    batch = []
                batch.append(one)
            alive &= self._finish(batch, work, answers)
            answers.send()
            if not alive:
                # A fresh process may get on with it, or finds out at once that it cannot.
                raise SystemExit("the GPU decodes nothing any more")

    def _rest(self) -> None:
        """Nothing to do: what torch keeps in store is of use to the engine and to training."""
        if self._device != "cpu":
            import torch

            torch.cuda.empty_cache()

    def _read(self, reader: Any, member: list[Any], place: int, work: dict[str, Any]) -> _Film:
        """A film's bytes where the GPU takes it; of others all that there is to do is done."""
        one = _Film(place=place)
        one.content, one.failure, data = child.read(reader, member, one.tags)
        if data is None or place < 0:
            return one
        taken = gpu.takes(data) if len(data) <= BATCH_BYTES else None
        if taken is None or work["rule"] not in gpu.RULES:
            one.failure = child.decode(data, work, self._here.pixels, place, one.tags)
        else:
            one.data, (one.pixels, one.components) = data, taken
        return one

    def _finish(self, batch: list[_Film], work: dict[str, Any], answers: Answers) -> bool:
        """Decode what is to be decoded, and answer for all; False where the GPU is out of order."""
        chosen = [one for one in batch if one.data is not None]
        left, alive = chosen, True
        if chosen:
            self._here.mark.again()  # the deadline is now that of the batch
            with self._limit.lifted():
                left, alive = self._on_gpu(chosen, work)
        for one in left:
            assert one.data is not None
            self._here.mark.again()
            one.failure = child.decode(one.data, work, self._here.pixels, one.place, one.tags)
        for one in batch:
            answers.add(one.content, one.failure, one.tags)
        answers.send_if_due()
        return alive

    def _on_gpu(self, films: list[_Film], work: dict[str, Any]) -> tuple[list[_Film], bool]:
        """Films that the GPU did not put into their places, and whether it works at all."""
        side, rule = work["size"], work["rule"]
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
                self._here.pixels[one.place : one.place + side * side] = pixels.reshape(-1)
        return [one for one, good in zip(films, certain, strict=True) if not good]


class _MemoryLimit:
    """What this process may map beside what it has mapped; it can be lifted for a while."""

    def __init__(self, more: int) -> None:
        self._hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        self._limit = child.mapped_bytes() + more
        self._set()

    def _set(self) -> None:
        limit = self._limit
        if self._hard != resource.RLIM_INFINITY:
            limit = min(limit, self._hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, self._hard))

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Not in here; what is mapped in here, and stays, does not count afterwards."""
        before = child.mapped_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (self._hard, self._hard))
        try:
            yield
        finally:
            self._limit += child.mapped_bytes() - before
            self._set()


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


# Before it serves


def offered(device: str, at_least: float) -> str:
    """What it is like, in words, where this device is fit and quick enough; else NotOffered."""
    try:
        import torch
        import torchvision  # noqa: F401
    except (ImportError, OSError) as error:
        raise NotOffered(
            f"it takes torch and torchvision ({error}); on a Jetson install NVIDIA's wheels, "
            "elsewhere pip install 'pneumoq[train]'"
        ) from error
    torch.set_num_threads(1)  # every other core has a decoder of its own
    if device != "cpu" and not torch.cuda.is_available():
        built = torch.version.cuda
        raise NotOffered(
            f"torch {torch.__version__} finds no GPU"
            if built
            else f"torch {torch.__version__} was built without CUDA"
        )
    try:
        _compare(device)
        ours, theirs = _films_per_s(device)
    except RuntimeError as error:
        raise NotOffered(f"it does not work on {device}: {str(error).splitlines()[0]}") from error
    words = f"{ours:.0f} films/s on {device}, {theirs:.0f} in one CPU decoder"
    if ours < at_least * theirs:
        raise NotOffered(f"there is nothing to be gained by it: {words}")
    return words


def _compare(device: str) -> None:
    """NotOffered where this device's pixels are not `trainer.film.rules`'s."""
    films = [_encoded(*look) for look in COMPARED]
    for rule in gpu.RULES:
        for data in films:
            ours = _one(data, SIZE, rule, device)
            apart = np.abs(ours - rules.decode(data, SIZE, rule).astype(np.int16))
            if apart.mean() > gpu.MEAN_BOUND or apart.max() > gpu.MAX_BOUND:
                raise NotOffered(
                    f"its pixels by {rule} differ from the CPU's by {apart.mean():.2f} gray levels "
                    f"on average ({gpu.MEAN_BOUND} may), {apart.max()} at most "
                    f"({gpu.MAX_BOUND} may)"
                )
        golden = rules.golden(rule)[0]
        apart = np.abs(_one(golden.film, len(golden.pixels), rule, device) - golden.pixels)
        if apart.max() > rules.GOLDEN_TOLERANCE:
            raise NotOffered(f"golden film 0 of {rule} differs by {apart.max()} gray levels")


def _one(data: bytes, side: int, rule: str, device: str) -> NDArray[np.int16]:
    taken = gpu.takes(data)
    assert taken is not None
    made, certain = gpu.decode([data], [taken[1]], side, rule, device)
    if not certain[0]:
        raise NotOffered("it finds colour in a gray film that is stored as YCbCr")
    return made[0].cpu().numpy().astype(np.int16)


def _films_per_s(device: str) -> tuple[float, float]:
    """Of this device and of one CPU decoder, for films in memory."""
    films = [_Film(place=0, data=_encoded(*TIMED), components=1)] * TIMED_FILMS
    few = films[:4]

    def on_cpu() -> None:
        for one in few:
            rules.decode(one.data or b"", SIZE)

    on_device = _best(lambda: _made(films, SIZE, rules.DEFAULT_RULE, device))
    return len(films) / on_device, len(few) / _best(on_cpu)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs; the first warms up."""
    took = []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took[1:])


def _encoded(height: int, width: int, quality: int, mode: str, progressive: bool) -> bytes:
    """A phantom's film as a JPEG."""
    rng = np.random.default_rng([height, width])
    drawn = Image.fromarray(phantom.render(rng, True, 480, 480)).resize((width, height))
    grain = rng.integers(-3, 4, (height, width), np.int16)
    image = Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=quality, progressive=progressive)
    return file.getvalue()


if __name__ == "__main__":
    # Nobody is left to be answered where the parent was killed in the middle.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
