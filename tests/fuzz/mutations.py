"""Mutations: a valid file becomes one that some writer, disk or network might have left.

Which one follows from a seed alone.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

from tests.fuzz import pieces

Parts = list[bytes]


def mutated(bases: Sequence[bytes], kind: str, seed: int) -> bytes:
    """The mutated file of a seed; one in twenty is whole."""
    rng = random.Random(f"{kind} {seed}")
    data = bases[rng.randrange(len(bases))]
    if rng.random() < 0.05:
        return data
    parts = pieces.of(data, kind)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(parts, rng, bases, kind)
        parts = [part for part in parts if part] or [b""]
    made = b"".join(parts)
    return _summed(made) if kind == "PNG" and rng.random() < 0.6 else made


def _swap(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[a], parts[b] = parts[b], parts[a]


def _repeat(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    a = rng.randrange(len(parts))
    parts[a:a] = [parts[a]] * rng.choice((1, 1, 2, 40))


def _drop(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    del parts[rng.randrange(len(parts))]


def _take(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    """A piece of another file of its kind, in the place of one or before it."""
    other = pieces.of(bases[rng.randrange(len(bases))], kind)
    at = rng.randrange(len(parts))
    parts[at : at + rng.randrange(2)] = [other[rng.randrange(len(other))]]


def _cut(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    whole = b"".join(parts)
    end = rng.randrange(len(whole) + 1) if whole else 0
    parts[:] = [whole[:end], rng.choice((b"", b"", bytes(rng.randrange(3000)), b"\xff\xd9"))]


def _follow(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    parts.append(rng.choice((b"\r\n", bytes(700), b"\xff" * 9, rng.randbytes(40), b"<html>")))


def _lengthen(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    """A number in the first bytes of a piece, where lengths and counts stand."""
    at = rng.randrange(len(parts))
    part = bytearray(parts[at])
    width = rng.choice((1, 2, 2, 4, 4))
    if len(part) < width:
        return
    place = rng.randrange(min(len(part) - width, 24) + 1)
    order = rng.choice("<>")
    form = {1: "B", 2: "H", 4: "I"}[width]
    top = (1 << 8 * width) - 1
    value = struct.unpack_from(order + form, part, place)[0]
    near = rng.choice(
        (value + 1, value - 1, value * 2, value // 2, 0, 1, 2, 3, 8, 16, top, top // 2)
    )
    struct.pack_into(order + form, part, place, near & top)
    parts[at] = bytes(part)


def _flip(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    at = rng.randrange(len(parts))
    part = bytearray(parts[at])
    for _ in range(rng.choice((1, 1, 2, 8))):
        if part:
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    parts[at] = bytes(part)


def _scribble(parts: Parts, rng: random.Random, bases: Sequence[bytes], kind: str) -> None:
    at = rng.randrange(len(parts))
    part = parts[at]
    start = rng.randrange(len(part) + 1)
    length = rng.choice((1, 2, 4, 16))
    put = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
    parts[at] = part[:start] + put + part[start + rng.choice((0, length)) :]


_Change = Callable[[Parts, random.Random, Sequence[bytes], str], None]

_CHANGES: tuple[_Change, ...] = (
    _swap, _repeat, _drop, _take, _cut, _follow, _lengthen, _lengthen, _lengthen, _flip, _flip,
    _scribble, _scribble,
)  # fmt: skip


def _summed(data: bytes) -> bytes:
    """A PNG with the right checksums: they would hide all else."""
    parts = pieces.of(data, "PNG")
    for n, part in enumerate(parts):
        if n and len(part) >= 12:
            parts[n] = part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4]))
    return b"".join(parts)
