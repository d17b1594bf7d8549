"""Toolkits: DICOM files and codestreams by the programs of DCMTK, GDCM and OpenJPEG."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom

from tests.support.absent import absent

#: Each program, and the Debian package that has it.
PROGRAMS = {
    "dcmcjpeg": "dcmtk", "dcmdjpeg": "dcmtk", "dcmcjpls": "dcmtk", "dcmdjpls": "dcmtk",
    "dcmcrle": "dcmtk", "gdcmconv": "libgdcm-tools",
    "opj_compress": "libopenjp2-tools", "opj_decompress": "libopenjp2-tools",
}  # fmt: skip


class Failed(Exception):
    """A program refused, failed or warned."""


def need(program: str) -> None:
    """Skip the test, or fail it in CI, where a program is not installed."""
    if shutil.which(program) is None:
        absent(f"{program} is not here: apt-get install {PROGRAMS[program]}")


def converted(data: bytes, folder: Path, program: str, *options: str) -> bytes:
    """A DICOM file as a program converts it. Raises Failed, also where it only warned."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    _run(program, *options, str(source), str(target))
    return target.read_bytes()


def jpeg_2000(words: np.ndarray, bits: int, folder: Path, *options: str) -> bytes:
    """A codestream of words, signed where they are, by `opj_compress`."""
    source, target = folder / "source.raw", folder / "target.j2k"
    source.write_bytes(words.astype(words.dtype.newbyteorder(">")).tobytes())
    target.unlink(missing_ok=True)
    rows, columns = words.shape
    sign = "s" if words.dtype.kind == "i" else "u"
    layout = f"{columns},{rows},1,{bits},{sign}"
    _run("opj_compress", "-i", str(source), "-F", layout, *options, "-o", str(target))
    return target.read_bytes()


def from_jpeg_2000(frame: bytes, folder: Path, shape: tuple[int, int]) -> np.ndarray:
    """What `opj_decompress` makes of a codestream of unsigned samples."""
    source, target = folder / "source.j2k", folder / "target.rawl"
    source.write_bytes(frame)
    target.unlink(missing_ok=True)
    _run("opj_decompress", "-i", str(source), "-o", str(target))
    raw = target.read_bytes()
    kind = "u1" if len(raw) == shape[0] * shape[1] else "<u2"
    return np.frombuffer(raw, kind).reshape(shape).astype(np.int64)


def pixels(data: bytes) -> tuple[pydicom.Dataset, np.ndarray]:
    """The data set of an uncompressed file, and its words."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    kind = "u1" if dataset.BitsAllocated == 8 else "<u2"
    words = np.frombuffer(dataset.PixelData, kind, dataset.Rows * dataset.Columns)
    return dataset, words.reshape(dataset.Rows, dataset.Columns).astype(np.int64)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    if done.returncode or any(word in said for word in ("W: ", "E: ", "F: ", "arning", "rror")):
        raise Failed(f"{command[0]}: {said.strip()[-300:]}")
