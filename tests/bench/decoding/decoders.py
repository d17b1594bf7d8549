"""JPEG decoders beside the film rule's: processor time and pixels, on the same films in turns.

    python -m tests.bench.decoding.decoders [FOLDER] [--size 224] [--rounds 10]

Each makes the gray of a film at the scale at which the rule decodes it, or at full size where it
cannot decode smaller. Films are FOLDER's JPEG files, without it ../shared/data/originals, or
phantoms where that is absent, and the same as YCbCr of half the chroma. Of simplejpeg, OpenCV and
imagecodecs, which nothing here needs, those are measured that are installed. `docs/decisions.md`
has the figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from torchvision.io import ImageReadMode, decode_jpeg

from tests.bench.decoding.film import films_in
from tests.bench.parts import beside, report
from trainer.film import pictures, rules
from trainer.film.refusals import Accepted

Gray = NDArray[np.uint8]
#: From a film and the side that both of its sides keep at the least to `uint8 [height, width]`.
Decoder = Callable[[bytes, int], Gray]

#: Denominators of a scale that libjpeg can decode at.
SCALES = (8, 4, 2)


def ours(data: bytes, least: int) -> Gray:
    """The film rule's, with its checks of colour and damage."""
    return np.asarray(pictures.read(data, "JPEG", least, Accepted(())))


def gray_alone(data: bytes, least: int) -> Gray:
    """Pillow's, of the luma alone and without checks."""
    image = JpegImagePlugin.jpeg_factory(io.BytesIO(data))
    image.draft("L", (least, least))
    image.decodermaxblock = len(data)
    image.load()
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def by_torchvision(data: bytes, least: int) -> Gray:
    """torchvision's, at full size."""
    packed = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return np.asarray(decode_jpeg(packed, ImageReadMode.GRAY)[0])


def _scale(data: bytes, least: int) -> int:
    """By how much the rule divides the sides of a film while it decodes it."""
    width, height = JpegImagePlugin.jpeg_factory(io.BytesIO(data)).size
    return next((n for n in SCALES if min(width, height) >= n * least), 1)


def decoders() -> dict[str, Decoder]:
    """Those that are installed, ours first."""
    found: dict[str, Decoder] = {
        "film rule": ours,
        "Pillow, gray alone": gray_alone,
        "torchvision": by_torchvision,
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = lambda data, least: simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=False, fastupsample=False, min_height=least, min_width=least
        )[..., 0]
    if importlib.util.find_spec("cv2"):
        import cv2

        flags = {
            1: cv2.IMREAD_GRAYSCALE,
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
            4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        }
        cv2.setNumThreads(1)
        found["OpenCV"] = lambda data, least: cv2.imdecode(
            np.frombuffer(data, np.uint8),
            flags[_scale(data, least)] | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        found["imagecodecs"] = lambda data, least: imagecodecs.jpeg8_decode(
            data, outcolorspace="GRAYSCALE"
        )
    return found


def in_colour(data: bytes) -> bytes:
    """The film as YCbCr with half of the chroma's rows and columns, as viewers export it."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


def measure(films: Sequence[bytes], least: int, rounds: int) -> None:
    """Print a line for each decoder: the least time of a film, and how its pixels differ."""
    known = decoders()
    reference = [ours(data, least) for data in films]
    taken: dict[str, list[float]] = {name: [] for name in known}
    names = [*known]
    for turn in range(rounds):
        for name in names if turn % 2 else names[::-1]:
            started = time.thread_time()
            for data in films:
                known[name](data, least)
            taken[name].append(time.thread_time() - started)
    rows: list[tuple[object, ...]] = []
    for name, decode in known.items():
        made = [decode(data, least) for data in films]
        pairs = [(a, b) for a, b in zip(reference, made, strict=True) if a.shape == b.shape]
        apart = [int(np.abs(a.astype(int) - b).max()) for a, b in pairs]
        ratio = beside.paired(taken["film rule"], taken[name])
        rows.append(
            (
                name,
                min(taken[name]) / len(films) * 1000,
                f"{ratio.middle:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                apart.count(0),
                len(films) - len(pairs),
                max(apart, default=0),
            )
        )
    head = ("", "ms a film", "of the rule's", "equal", "of another scale", "levels apart")
    report.table(head, rows)


def main() -> None:
    """Measure films as they are, and in colour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    torch.set_num_threads(1)
    with films_in(args.folder) as folder:
        paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")]
        films = [path.read_bytes() for path in paths]
    least = round(args.size * rules.DRAFT_GAP)
    for text, these in (("as they are", films), ("as YCbCr", [in_colour(f) for f in films])):
        print(f"{len(these)} films {text}, {sum(map(len, these)) / len(these) / 1000:.0f} kB each:")
        measure(these, least, args.rounds)


if __name__ == "__main__":
    main()
