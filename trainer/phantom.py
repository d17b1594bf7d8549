"""Phantom: synthetic chest films for the demonstration and the tests, where no data set can ship.

A body is drawn by `trainer.anatomy`, then exposed onto films that differ in position, exposure,
size and file format. Pneumonia is a cotton-like texture within
patches that healthy lungs have too, only smooth, so brightness does not give the class away. It is
geometry: nothing here comes from a patient, and a model trained on it knows nothing of real films.

Measured on unseen patients, 700 films to learn from and 451 to judge by
(`python -m tests.bench.phantom`): logistic regression on 16 × 16 thumbnails AUROC 0.52 to 0.57 for
C from 0.0003 to 1; ResNet18 from random weights, 6 epochs at 112 × 112, AUROC 0.992. A film takes
about 30 ms of one core, file included.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainer.anatomy import CANVAS, REACH, Body, draw

#: Class names, in the order of the indices that a network is trained with.
LABELS = ("NORMAL", "PNEUMONIA")

#: Steps of the film's tone curve between absorption 0 and 1.
_TONES = 2048

#: The lead letters that tell the patient's sides apart, as strokes in units of half their height.
_LETTERS = {
    "L": ((0, 0), (0, 2), (1.1, 2)),
    "R": ((0, 2), (0, 0), (0.8, 0), (1.1, 0.3), (1.1, 0.7), (0.8, 1), (0, 1), (0.4, 1), (1.1, 2)),
}


def expose(rng: np.random.Generator, patient: Body, height: int, width: int) -> NDArray[np.uint8]:
    """Take one film of a patient: position, haze, exposure and grain are this film's own.

    Returns `uint8 [height, width]`, 0 is black. Bone and heart are bright, lungs and air dark.
    """
    u = rng.uniform
    haze, texture = u(0.06, 0.11), u(0.08, 0.125)
    density = patient.density + haze * patient.veil + texture * patient.mottle

    turn, zoom, shape = rng.normal(0, 0.025), u(0.94, 1.05), (width / height) ** 0.3
    c, s = math.cos(turn), math.sin(turn)
    unit = CANVAS / (2 * REACH)
    step_x, step_y = 2 * unit * zoom * shape / width, 2 * unit * zoom / shape / height
    shift_x, shift_y = CANVAS / 2 + unit * np.clip(rng.normal(0, 0.03, 2), -0.06, 0.06)
    affine = (
        *(c * step_x, -s * step_y, shift_x - (c * step_x * width - s * step_y * height) / 2),
        *(s * step_x, c * step_y, shift_y - (s * step_x * width + c * step_y * height) / 2),
    )
    image = Image.fromarray(density).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    film = np.array(image, np.float32)

    # The beam is never quite even; the grain is finer than a pixel of the canvas.
    beam_x, beam_y = np.float32(rng.normal(0, 0.04, 2))
    film *= 1 + beam_x * np.linspace(-1, 1, width, dtype=np.float32)
    film += beam_y * np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    film += np.float32(u(0.006, 0.02)) * rng.standard_normal(film.shape, dtype=np.float32)

    tone = np.clip(np.linspace(0, u(1.08, 1.3), _TONES), 0, 1) ** u(1.1, 1.6)
    table = np.uint8(u(2, 14) + u(225, 240) * tone)
    pixels = table[np.uint16(np.clip(film * _TONES, 0, _TONES - 1))]
    return _marked(pixels, rng)


def _marked(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lay a side marker in an upper corner of most films; the patient's left is on our right."""
    height, width = pixels.shape
    letter = "L" if rng.random() < 0.6 else "R"
    across, down, half = rng.uniform(0.04, 0.08), rng.uniform(0.04, 0.12), height * 0.02
    if rng.random() < 0.2:
        return pixels
    image = Image.fromarray(pixels)
    x, y = (1 - across - 0.03 if letter == "L" else across) * width, down * height
    strokes = [(x + half * dx, y + half * dy) for dx, dy in _LETTERS[letter]]
    ImageDraw.Draw(image).line(strokes, fill=245, width=max(2, height // 150), joint="curve")
    return np.array(image)


def render(
    rng: np.random.Generator, positive: bool, height: int = 640, width: int = 640
) -> NDArray[np.uint8]:
    """One film of a new patient, `uint8 [height, width]`; `positive` is one with pneumonia."""
    return expose(rng, draw(rng, positive), height, width)


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One film as a file."""

    #: `patient0012`: films of one patient share it, and their class.
    patient: str
    #: File name, `patient0012_1.jpeg`.
    name: str
    #: One of LABELS.
    label: str
    #: The encoded file: gray JPEG, gray stored as RGB JPEG, or PNG.
    data: bytes


def films(patients: int, seed: int = 0, first_patient: int = 0) -> Iterator[Phantom]:
    """All films of the patients numbered from `first_patient` on, one to four of each.

    A patient depends on `seed` and the number alone, so ranges that do not overlap share no
    patient, and more patients may be asked for later. Of patients 2k and 2k + 1 one is sick.
    """
    for number in range(first_patient, first_patient + patients):
        coin = np.random.default_rng([seed, number // 2, 0]).random() < 0.5
        positive = (number % 2 == 0) == coin
        rng = np.random.default_rng([seed, number, 1])
        patient = draw(rng, positive)
        for n in range(1, 2 + int(rng.choice(4, p=(0.3, 0.3, 0.25, 0.15)))):
            data, suffix = _file(np.random.default_rng([seed, number, 1 + n]), patient)
            yield Phantom(
                patient=f"patient{number:04}",
                name=f"patient{number:04}_{n}.{suffix}",
                label=LABELS[int(positive)],
                data=data,
            )


def _file(rng: np.random.Generator, patient: Body) -> tuple[bytes, str]:
    """One encoded film of a patient and the suffix of its name."""
    longer = 500 + 900 * rng.beta(1, 3.5)
    aspect = rng.uniform(0.8, 1.4)  # width over height
    height, width = round(longer / max(aspect, 1)), round(longer * min(aspect, 1))
    image = Image.fromarray(expose(rng, patient, height, width))
    kind, buffer = rng.random(), io.BytesIO()
    if kind < 0.12:
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue(), "png"
    if kind < 0.4:
        image = image.convert("RGB")
    image.save(buffer, "JPEG", quality=int(rng.integers(82, 96)))
    return buffer.getvalue(), "jpeg"


def write_folder(folder: Path, patients: int, seed: int = 0, first_patient: int = 0) -> int:
    """Write a labelled folder, `NORMAL/patient0012_1.jpeg`; returns how many films."""
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    count = 0
    for film in films(patients, seed, first_patient):
        (folder / film.label / film.name).write_bytes(film.data)
        count += 1
    return count


def write_zip(path: Path, patients: int, seed: int = 0, first_patient: int = 0) -> int:
    """Write an archive that tells no label, `ward_b/2021/patient0012_1.jpeg`.

    Returns how many films. The same arguments give the same bytes.
    """
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for film in films(patients, seed, first_patient):
            number = int(film.patient.removeprefix("patient"))
            ward, year = np.random.default_rng([seed, number, 6]).integers((0, 2019), (4, 2025))
            member = zipfile.ZipInfo(f"ward_{'abcd'[ward]}/{year}/{film.name}")
            archive.writestr(member, film.data)
            count += 1
    return count
