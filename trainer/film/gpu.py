"""Film on a GPU: the film rules for plain JPEG in torch, a batch of films at a time.

A second implementation of what `trainer.film.rules` defines, held to it by measurement: nvJPEG
decodes whole films, and of them the means of squares of pixels are taken, which is what libjpeg's
reduced DCT scales are (its jidctred.c: "the four averages of two adjacent outputs"). What is not a
plain gray JPEG, and whatever could be refused, is left to `trainer.film.rules`, so that every error
is its.

On the device "cpu" the same lines run with torchvision's own libjpeg. There the pixels of 94
ordinary films differ by 0.07 gray levels on average and by 4 at most, since a square at the edge of
a marker is cut to 0…255 before its mean is taken, not after.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import JpegImagePlugin

from trainer.film import codestream, content, damage, jpeg, pictures, rules
from trainer.film.refusals import MIN_SIDE

if TYPE_CHECKING:
    import torch

#: Largest film that is taken: 5,000 × 5,000 pixels. In single precision it is 100 MB.
MOST_PIXELS = 25_000_000

#: Baseline and progressive Huffman coding (ITU-T T.81, table B.1): what nvJPEG decodes.
_READ = frozenset({0xC0, 0xC2})

#: Red, green and blue of a gray film are no further apart than this: its chroma is then within a
#: third of what `trainer.film.grayscale` lets pass as gray. A film with one pixel that is further
#: apart is looked at there.
GRAY_NOISE = 4

#: A film is certain not to be `blank` where a sample of it shows so many gray levels: each of 15
#: can come out as three, since the GPU rounds in its own way.
CERTAIN_LEVELS = 64
#: Pixels per side of the sample.
_LEVELS_GRID = 32

#: Mean and largest difference in gray levels that a film's pixels may have from
#: `trainer.film.rules`'s. With libjpeg they come to 0.2 and 4, and nvJPEG's rounding is its own.
MEAN_BOUND, MAX_BOUND = 0.3, 8


def takes(data: bytes) -> tuple[int, int] | None:
    """Pixels and colour components (1 or 3) of a film that `decode` takes, or None.

    It takes complete, upright JPEGs of 8-bit gray or YCbCr in one frame and of an ordinary size.
    """
    if content.kind(data) != "JPEG" or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    rules.hush()
    try:
        image = JpegImagePlugin.jpeg_factory(io.BytesIO(data))
        plain = (
            image.mode in ("L", "RGB")
            and data[codestream.find_frame(data) + 1] in _READ
            and not getattr(image, "is_animated", False)
            and not (image.mode == "RGB" and pictures.is_stored_as_rgb(image))
            and pictures.is_upright(image)
            and (jpeg.is_one_scan(data) or jpeg.is_whole(data))
        )
    except Exception:  # noqa: BLE001 - whatever is wrong with it is for `trainer.film.rules` to say
        return None
    pixels = image.width * image.height
    if not plain or min(image.size) < MIN_SIDE or pixels > MOST_PIXELS:
        return None
    return pixels, 1 if image.mode == "L" else 3


def decode(
    films: Sequence[bytes], components: Sequence[int], size: int, rule: str, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gray pixels of films that are `takes`n: `uint8 [N, size, size]` on `device`.

    Of each film `components` as `takes` says. The second tensor, `bool [N]`, says which films are
    gray, whole and not blank beyond doubt; the pixels of the others are not to be used.

    Raises RuntimeError where the decoder refuses one of them, which says nothing of the others,
    and for everything that CUDA reports (torch.OutOfMemoryError among it).
    """
    import torch

    reduce, shrink = RULES[rule]
    decoded = _decoded(films, components, device)
    pixels = torch.empty((len(films), size, size), dtype=torch.uint8, device=device)
    certain = torch.ones(len(films), dtype=torch.bool, device=device)
    for n, planes in enumerate(decoded):  # uint8 [1 or 3, H, W]
        gray = planes[0]
        if len(planes) == 3:
            certain[n] = (planes.amax(0) - planes.amin(0)).max() <= GRAY_NOISE
            red, green, blue = planes
            gray = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601, as JPEG's luma is
        gray = _rounded(gray.float())
        certain[n] &= (gray[-2:, -2:] != damage.MADE_UP).any()
        gray = reduce(gray, size)
        certain[n] &= _levels(gray) >= CERTAIN_LEVELS
        pixels[n] = shrink(gray, size).clamp(0, 255)
    return pixels, certain


def _levels(gray: torch.Tensor) -> torch.Tensor:
    """How many gray levels a sample of a film shows."""
    import torch

    rows, columns = (torch.linspace(0, n - 1, _LEVELS_GRID).long() for n in gray.shape)
    sample = gray[rows.to(gray.device)][:, columns.to(gray.device)].clamp(0, 255).long()
    shown = torch.zeros(256, dtype=torch.bool, device=gray.device)
    shown[sample] = True
    return shown.sum()


def _decoded(films: Sequence[bytes], components: Sequence[int], device: str) -> list[torch.Tensor]:
    """Planes of each film, `uint8 [components, H, W]`."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    found: list[torch.Tensor | None] = [None] * len(films)
    with warnings.catch_warnings():
        # torchvision 0.29 would rather be asked through torchcodec, which reads no list of JPEGs.
        warnings.simplefilter("ignore", DeprecationWarning)
        for count, mode in ((1, ImageReadMode.GRAY), (3, ImageReadMode.RGB)):
            chosen = [n for n, c in enumerate(components) if c == count]
            if chosen:
                encoded = [torch.frombuffer(bytearray(films[n]), dtype=torch.uint8) for n in chosen]
                made = decode_jpeg(encoded, mode, device=device)
                for n, planes in zip(chosen, made, strict=True):
                    found[n] = planes
    return [planes for planes in found if planes is not None]


# Rules, in two steps: what stands for a JPEG's reduced scale, and what makes it `[size, size]`.
# Each takes and makes `float32 [H, W]` of whole gray levels.


def _reduced(gray: torch.Tensor, size: int) -> torch.Tensor:
    import torch.nn.functional as F

    height, width = gray.shape
    wanted = round(size * rules.DRAFT_GAP)
    room = min(width // wanted, height // wanted)
    scale = next(s for s in (8, 4, 2, 1) if room >= s or s == 1)
    if scale > 1:
        # The last squares of JPEG reach beyond the picture; encoders repeat its last pixels there.
        beyond = (0, -width % scale, 0, -height % scale)
        padded = F.pad(gray[None, None], beyond, mode="replicate")
        # libjpeg rounds these means once. They are of levels that were rounded before, so that many
        # end in a half: to round all of those upwards would brighten every film.
        gray = F.avg_pool2d(padded, scale)[0, 0].round()
    return gray


def _whole(gray: torch.Tensor, size: int) -> torch.Tensor:
    return gray


def _gray_stretch_1(gray: torch.Tensor, size: int) -> torch.Tensor:
    return _resized(gray, size, size)


def _gray_nearest_1(gray: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    places = []
    for side in gray.shape:
        place = np.arange(size, dtype=np.float32) * (np.float32(side) / np.float32(size))
        places.append(torch.from_numpy(place.astype(np.int64).clip(max=side - 1)).to(gray.device))
    return gray[places[0]][:, places[1]]


def _gray_crop_1(gray: torch.Tensor, size: int) -> torch.Tensor:
    height, width = gray.shape
    short, long = sorted((height, width))
    if long > rules.LONGEST * short:
        top, left = ((side - min(side, rules.LONGEST * short)) // 2 for side in (height, width))
        gray = gray[top : height - top, left : width - left]
        height, width = gray.shape
        short, long = sorted((height, width))
    longer = int(size * long / short)
    height, width = (longer, size) if width <= height else (size, longer)
    gray = _resized(gray, height, width)
    top, left = (round((side - size) / 2) for side in (height, width))
    return gray[top : top + size, left : left + size]


def _resized(gray: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As Pillow resizes: along the rows, rounded to whole levels, and then along the columns."""
    import torch.nn.functional as F

    for shape in ((gray.shape[0], width), (height, width)):
        if gray.shape != shape:
            wide = F.interpolate(gray[None, None], size=shape, mode="bilinear", antialias=True)
            gray = _rounded(wide[0, 0])
    return gray


def _rounded(gray: torch.Tensor) -> torch.Tensor:
    """To the nearest whole level, halves upwards, as libjpeg and Pillow round."""
    return (gray + 0.5).floor()


_Step = Callable[[Any, int], Any]

RULES: dict[str, tuple[_Step, _Step]] = {
    rules.DEFAULT_RULE: (_reduced, _gray_stretch_1),
    "gray-nearest-1": (_whole, _gray_nearest_1),
    "gray-crop-1": (_whole, _gray_crop_1),
}
