"""Display: the tags that say how stored values are shown, of one data set, become a Rendering.

Modality LUT or slope and intercept, VOI LUT or window, padding and polarity (PS3.3, sections
C.7.5.1.1.2, C.11.1 and C.11.2, and C.8.11.3.1.2). What tags contradict is refused, never guessed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from trainer.film import grayscale, tags
from trainer.film.codestream import corrupt
from trainer.film.grayscale import Layout, Lookup, Modality, Rendering, Shape, Window
from trainer.film.refusals import Accepted, refuse, shown

#: What has to be read of a file for this.
KEYWORDS = (
    "PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept",
    "RescaleSlope", "WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence",
    "VOILUTSequence", "LUTDescriptor", "LUTData", "PresentationLUTShape",
)  # fmt: skip

_SHAPES: dict[str, Shape] = {
    "": "LINEAR",
    "LINEAR": "LINEAR",
    "LINEAR_EXACT": "LINEAR_EXACT",
    "SIGMOID": "SIGMOID",
}


def rendering(
    dataset: Dataset, values: NDArray[np.int64], layout: Layout, photometric: str
) -> Rendering:
    """How to show a film whose possible words have these stored values.

    Raises FilmError(`corrupt`) by the name of a tag that is there and cannot be read.
    """
    modality = _modality(dataset, layout)
    return Rendering(
        modality=modality,
        view=_view(dataset, modality, layout),
        inverted=photometric == "MONOCHROME1",
        padding=_padding(dataset, values, layout),
    )


def check_polarity(dataset: Dataset, photometric: str, accept: Accepted) -> None:
    """Refuse a film of which tags do not agree on which end is black.

    Of a presentation LUT's shape the standard says the same thing twice: MONOCHROME1 with INVERSE,
    MONOCHROME2 with IDENTITY (PS3.3, section C.8.11.3.1.2). MONOCHROME1 with IDENTITY is what many
    units write that mean MONOCHROME1.
    """
    found = tags.code(dataset, "PresentationLUTShape")
    if found in ("", "IDENTITY") or (found == "INVERSE" and photometric == "MONOCHROME1"):
        return
    found = "INVERSE" if found == "INVERSE" else "neither IDENTITY nor INVERSE"
    refuse(
        "polarity",
        f"PresentationLUTShape (2050,0020) is {found}, PhotometricInterpretation (0028,0004) is "
        f"{photometric}: which end is black is not certain",
        accept,
    )


def _modality(dataset: Dataset, layout: Layout) -> Modality:
    table = _lookup(dataset, "ModalityLUTSequence", layout.ends)
    if table is not None:
        return table
    slope = tags.number(dataset, "RescaleSlope")
    intercept = tags.number(dataset, "RescaleIntercept")
    if slope is None and intercept is None and tags.items(dataset, "ModalityLUTSequence"):
        raise tags.unreadable("LUTDescriptor")
    if slope == 0 and intercept:
        raise tags.unreadable("RescaleSlope")
    return slope or 1.0, intercept or 0.0


def _check_rescale(dataset: Dataset, slope: float, intercept: float) -> None:
    """Raise FilmError for half of a rescale, which some readers apply and others leave out."""
    for keyword, other, matters in (
        ("RescaleIntercept", "RescaleSlope", intercept != 0),
        ("RescaleSlope", "RescaleIntercept", slope != 1),
    ):
        if matters and tags.number(dataset, other) is None:
            raise corrupt(
                f"{tags.named(keyword)} is there without {tags.named(other)}, so that what the "
                "window is of is not certain"
            )


def _view(dataset: Dataset, modality: Modality, layout: Layout) -> Lookup | Window | None:
    """The first VOI LUT, else the first window with a width, else nothing."""
    if isinstance(modality, Lookup):
        outputs = modality.entries
    else:
        outputs = grayscale.scaled(modality, np.array(layout.ends, np.float64))
    table = _lookup(dataset, "VOILUTSequence", (float(outputs.min()), float(outputs.max())))
    window = None if table is not None else _window(dataset)
    if not isinstance(modality, Lookup) and (table is not None or window is not None):
        _check_rescale(dataset, *modality)
    if table is not None:
        return table
    if window is None and tags.items(dataset, "VOILUTSequence"):
        raise tags.unreadable("LUTDescriptor")
    return window


def _window(dataset: Dataset) -> Window | None:
    centres, widths = tags.numbers(dataset, "WindowCenter"), tags.numbers(dataset, "WindowWidth")
    if bool(centres) != bool(widths):
        raise tags.unreadable("WindowWidth" if centres else "WindowCenter")
    unset = True
    for centre, width in zip(centres, widths, strict=False):
        if np.isnan(centre) or np.isnan(width):
            continue
        if width == 0:
            unset = unset and centre == 0
            continue
        function = tags.code(dataset, "VOILUTFunction").replace(" ", "_")
        if function not in _SHAPES:
            raise tags.unreadable("VOILUTFunction")
        if width < (1 if _SHAPES[function] == "LINEAR" else 0):
            raise tags.unreadable("WindowWidth")
        return Window(centre=centre, width=width, shape=_SHAPES[function])
    if not unset:
        raise tags.unreadable("WindowWidth")
    return None


def _lookup(dataset: Dataset, keyword: str, inputs: tuple[float, float]) -> Lookup | None:
    """The first table of a sequence for values in `inputs`; None where there is none."""
    for item in tags.items(dataset, keyword):
        data, vr, little = tags.stored(item, "LUTData")
        descriptor = tags.integers(item, "LUTDescriptor")
        if not any(descriptor) and not data:
            continue
        if len(descriptor) != 3:
            raise corrupt("LUTDescriptor (0028,3002) has not three values")
        count, bits = descriptor[0] & 0xFFFF or 1 << 16, descriptor[2]
        entries: NDArray[np.generic]
        if len(data) == count + count % 2:
            entries = np.frombuffer(data, np.uint8)  # two entries in a word
        else:
            order = "<u2" if little or vr == "OB" else ">u2"
            entries = np.frombuffer(data[: len(data) // 2 * 2], order)
        if len(entries) < count or not 1 <= bits <= 16:
            raise corrupt(
                f"LUTData (0028,3006) has {len(entries)} entries; LUTDescriptor (0028,3002) says "
                f"{count} of {shown(bits)} bits"
            )
        table = entries[:count].astype(np.float64)
        first = _first_value(item, descriptor[1] & 0xFFFF, count, inputs)
        # Descriptors name the bits of a word where entries use fewer: white would be out of reach.
        used = int(table.max()).bit_length() or bits
        return Lookup(first=first, entries=table, top=float((1 << used) - 1))
    return None


def _first_value(item: Dataset, word: int, count: int, inputs: tuple[float, float]) -> int:
    """What the first entry of a table is for: whether the word is signed is not always said.

    Of two readings that is right by which the table is for values that there are; where both are,
    what the file says of the word; where it says nothing, signed if there are negative values.
    """
    if word < 1 << 15:
        return word
    low, high = inputs
    signed = word - (1 << 16)
    reached = [first for first in (word, signed) if first <= high and first + count > low]
    if len(reached) == 1:
        return reached[0]
    said = item.get_item("LUTDescriptor").VR
    return signed if said == "SS" or (said != "US" and low < 0) else word


def _padding(
    dataset: Dataset, values: NDArray[np.int64], layout: Layout
) -> NDArray[np.bool_] | None:
    """Of each word whether it is padding: by the bits of its value, whatever sign the tag has."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        found = tags.number(dataset, keyword)
        if found is None:
            if keyword == "PixelPaddingValue":
                return None
            continue
        if found != int(found) or not -(1 << 15) <= found < 1 << 16:
            raise tags.unreadable(keyword)
        ends.append(int(found) & 0xFFFF)
    stored = [_stored_value(word, layout) for word in ends]
    sure = [value for value in stored if value is not None]
    if len(sure) == len(stored):
        return (values >= min(sure)) & (values <= max(sure))
    # No value that can be stored: words whose unused bits are set too, as they lie in the file.
    padding = np.zeros(len(values), bool)
    words = [word & 0xFF if len(values) == 256 and word >= 0xFF80 else word for word in ends]
    padding[min(words) : max(words) + 1] = True
    return padding


def _stored_value(word: int, layout: Layout) -> int | None:
    """The stored value with these bits, None where there is none."""
    if word < 1 << layout.stored:
        negative = layout.signed and word >= 1 << (layout.stored - 1)
        return word - (1 << layout.stored) if negative else word
    if layout.signed and word >= (1 << 16) - (1 << (layout.stored - 1)):
        return word - (1 << 16)
    return None
