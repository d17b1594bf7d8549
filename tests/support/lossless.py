"""Lossless JPEG, written by hand: no library at hand under a permissive licence encodes it."""

from __future__ import annotations

import numpy as np


def jpeg(values: np.ndarray, bits: int) -> bytes:
    """A lossless JPEG by its first predictor (ITU-T T.81, annex H), each category in five bits."""
    rows, columns = values.shape
    out, held, count = bytearray(), 0, 0

    def put_bits(value: int, length: int) -> None:
        nonlocal held, count
        held, count = held << length | value, count + length
        while count >= 8:
            byte = held >> (count - 8) & 0xFF
            out.append(byte)
            if byte == 0xFF:
                out.append(0)
            count -= 8
        held &= (1 << count) - 1

    table = [int(v) for v in values.ravel()]
    for at, value in enumerate(table):
        row, column = divmod(at, columns)
        left = table[at - 1] if column else table[at - columns] if row else 1 << (bits - 1)
        apart = (value - left + (1 << 15)) % (1 << 16) - (1 << 15)
        size = abs(apart).bit_length()
        put_bits(size, 5)
        if size:
            put_bits(apart if apart > 0 else apart + (1 << size) - 1, size)
    put_bits((1 << (-count % 8)) - 1, -count % 8)
    codes = bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = bytes([bits, rows >> 8, rows & 255, columns >> 8, columns & 255, 1, 1, 0x11, 0])
    return (
        b"\xff\xd8\xff\xc3\x00\x0b" + frame + b"\xff\xc4\x00\x24\x00" + codes
        + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(out) + b"\xff\xd9"
    )  # fmt: skip
