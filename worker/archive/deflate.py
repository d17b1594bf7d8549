"""Where decompression of a deflate stream can start: the search for the heads of its blocks.

zlib does not say where blocks begin, and they begin at any bit. But the head of a block with its
own Huffman codes is so full of rules that few other places look like one, and a stored block states
its length twice. What looks like a head is tried, and then proved by its user: `worker.archive.gz`.

The format is that of RFC 1951; bits are counted from the least significant of each byte.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

#: How far a block's data may refer back.
WINDOW = 32 << 10

#: Bits of the codes by which the code lengths are written, and of what comes before them.
_PRECODE_BITS, _HEAD_BITS = 57, 17

#: A head with all its code lengths takes at most so many bytes.
HEAD_BYTES = (_HEAD_BITS + _PRECODE_BITS + 320 * 14) // 8 + 1


def block_heads(data: bytes, first: int, count: int) -> Iterator[int]:
    """Bits of `data` at which a block probably begins, for `count` bytes from `first` on.

    Blocks with codes of their own come first, in order, then those behind a stored block, which may
    lie 64 KiB further on. The last block of a stream is never among them.
    """
    count = min(count, len(data) - first - HEAD_BYTES)
    if count > 0:
        near = np.frombuffer(data, np.uint8, count + HEAD_BYTES, first)
        for place in (*_dynamic(near, count), *_behind_stored(near, count)):
            byte, bit = divmod(place, 8)
            head = data[first + byte : first + byte + HEAD_BYTES]
            if head and _readable(head, bit):
                yield first * 8 + place


def _dynamic(data: npt.NDArray[np.uint8], count: int) -> list[int]:
    """Where a block with its own Huffman codes may begin, other than the last of a stream."""
    words = _unaligned(data, count)
    found = []
    for bit in range(8):
        head = words >> np.uint32(bit)
        # Not the last block, type 2; at most 286 literal and length codes, and 30 distances.
        fits = (head & 7 == 4) & (head & 0xF8 <= 29 << 3) & (head & 0x1F00 <= 29 << 8)
        at = np.flatnonzero(fits)
        found.append(at[_complete(data, at, bit, head[at] >> 13 & 15)] * 8 + bit)
    places: list[int] = np.sort(np.concatenate(found)).tolist()
    return places


def _complete(
    data: npt.NDArray[np.uint8],
    at: npt.NDArray[np.intp],
    bit: int,
    lengths: npt.NDArray[np.uint32],
) -> npt.NDArray[np.bool_]:
    """Whether the code of the code lengths is complete, as it must be: its fractions sum to 1."""
    byte, shift = divmod(bit + _HEAD_BITS, 8)
    codes = np.zeros(len(at), np.uint64)
    for n in range(8):
        codes |= data[at + (byte + n)].astype(np.uint64) << np.uint64(8 * n)
    codes >>= np.uint64(shift)
    used = (lengths.astype(np.uint64) + np.uint64(4)) * np.uint64(3)
    codes &= (np.uint64(1) << used) - np.uint64(1)
    table = _fractions()
    total = np.zeros(len(at), np.uint16)
    for n in range(0, _PRECODE_BITS, 12):
        total += table[(codes >> np.uint64(n) & np.uint64(0xFFF)).astype(np.intp)]
    complete: npt.NDArray[np.bool_] = total == 128
    return complete


@functools.cache
def _fractions() -> npt.NDArray[np.uint16]:
    """Of each four code lengths of three bits: the part of the code that they take, in 128ths."""
    values = np.arange(1 << 12)
    total = np.zeros(1 << 12, np.uint16)
    for n in range(4):
        length = values >> 3 * n & 7
        total += np.where(length > 0, 128 >> length, 0).astype(np.uint16)
    return total


def _readable(head: bytes, bit: int) -> bool:
    """Whether zlib reads it as the head of a block that is not the last, with codes of its own."""
    if head[0] >> bit & 7 in (0b001, 0b010, 0b011, 0b101, 0b111) and bit <= 5:
        return False
    try:
        # One byte of output at most, so that zlib stops behind the head.
        start(bytes(WINDOW), bit).decompress(join(bit, head), 1)
    except zlib.error:
        return False
    return True


def _behind_stored(data: npt.NDArray[np.uint8], count: int) -> list[int]:
    """Where a block behind a stored one begins, by the two lengths that agree."""
    words = _unaligned(data, count)
    length = words & 0xFFFF
    at = np.flatnonzero(length ^ (words >> np.uint32(16)) == 0xFFFF)
    places: list[int] = ((at + 4 + length[at].astype(np.intp)) * 8).tolist()
    return places


def _unaligned(data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint32]:
    """The little-endian numbers of 4 bytes that begin at each of `count` bytes."""
    words = np.zeros(count, np.uint32)
    for n in range(4):
        words |= data[n : n + count].astype(np.uint32) << np.uint32(8 * n)
    return words


def start(window: bytes, bit: int) -> zlib._Decompress:
    """An inflater that stands at bit `bit` of a byte, `window` being the output before it.

    It must be given `join(bit, …)` first.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=window) if window else raw()
    whole = _prefix(bit)[0]
    if whole:
        inflater.decompress(whole)
    return inflater


def raw() -> zlib._Decompress:
    """An inflater of a deflate stream from its beginning."""
    return zlib.decompressobj(-zlib.MAX_WBITS)


def join(bit: int, data: bytes) -> bytes:
    """`data` with the bits of its first byte that belong to the block before replaced."""
    if not bit or not data:
        return data
    return bytes([data[0] & -1 << bit & 0xFF | _prefix(bit)[1]]) + data[1:]


@functools.cache
def _prefix(bit: int) -> tuple[bytes, int]:
    """Empty blocks of 8 n + `bit` bits: whole bytes, and the bits of the one that is shared.

    zlib can start at a byte only. A block without data that ends at the wanted bit brings it there.
    """
    bits, count = 0, 0
    if bit % 2:
        bits, count = _odd_block()
    while count % 8 != bit:
        # Codes of the standard's own: not the last, type 1, and the end in 7 bits of 0.
        bits |= 0b0_10 << count
        count += 10
    return (bits & (1 << count - bit) - 1).to_bytes(count // 8, "little"), bits >> count - bit


def _odd_block() -> tuple[int, int]:
    """An empty block of an odd number of bits, which takes codes of its own: bits and count."""
    bits, count = 0, 0

    def put(value: int, width: int) -> None:
        nonlocal bits, count
        bits |= value << count
        count += width

    put(0b10_0, 3)  # not the last, type 2
    put(257 - 257, 5)  # literals and the end
    put(1 - 1, 5)  # one distance
    put(19 - 4, 4)  # all code lengths
    # In this order: 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15. Codes: 18 is
    # 0, 0 is 10, 1 is 11 (written from their first bit on).
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
        put({18: 1, 0: 2, 1: 2}.get(symbol, 0), 3)
    put(0, 1)
    put(138 - 11, 7)  # 138 literals without a code
    put(0, 1)
    put(118 - 11, 7)  # and the other 118
    put(0b11, 2)  # the end has a code of one bit
    put(0b01, 2)  # the distance has none
    put(0, 1)  # the end
    return bits, count
