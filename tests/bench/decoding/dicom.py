"""What a DICOM film costs to decode, by transfer syntax, here and in another checkout, in one run.

    python -m tests.bench.decoding.dicom [--against FOLDER] [--rounds 7]
                                         [--python FOLDER/.venv/bin/python]

A film of 1,500 × 1,800 pixels, written by DCMTK and pydicom, is decoded to S = 224 by a process of
each checkout, in turn, once a round; processor seconds count, so that neighbours on the machine
disturb little, and of each film the least. What a process holds after all of them is said too.

Claim, with `--against`: no kind of film takes more than 1.05 times what it takes there, and all
together take no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid

from tests.bench.parts import report
from tests.support import hostile, toolkits
from tests.support.paths import ROOT

SIZE = 224

#: Times what another checkout takes that a kind of film may take.
MORE = 1.05

#: The program of each process: told by lines to decode every film once more.
CHILD = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainer.film import rules
assert Path(rules.__file__).is_relative_to(sys.argv[1])
films = {path.name: path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())}
for line in sys.stdin:
    took = {}
    for name, data in films.items():
        began = time.process_time()
        try:
            rules.decode(data, 224)
        except Exception as error:
            took[name] = type(error).__name__
        else:
            took[name] = time.process_time() - began
    print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]), flush=True)
"""


def films() -> Iterator[tuple[str, bytes]]:
    """The same picture in each form; what needs a program that is not here is left out."""
    eight = hostile.picture(1500, 1800)
    twelve = np.rint(eight * 15.7 + 20).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2048", "WindowWidth": "4096"}
    plain = {8: hostile.dicom(eight), 12: hostile.dicom(twelve, **tags)}
    yield "explicit, 8 bits", plain[8]
    yield "explicit, 12 bits", plain[12]
    yield "explicit, 12 bits, no window", hostile.dicom(twelve, BitsStored=12, HighBit=11)
    yield "deflated, 12 bits", hostile.dicom(twelve, uid.DeflatedExplicitVRLittleEndian, **tags)
    yield "RGB", hostile.dicom(np.repeat(eight[..., None], 3, -1))
    for name, syntax in (("RLE", uid.RLELossless), ("JPEG 2000", uid.JPEG2000Lossless)):
        yield f"{name}, 8 bits", hostile.compressed(eight, syntax)
        yield f"{name}, 12 bits", hostile.compressed(twelve, syntax, **tags)
    frame = hostile.encoded(Image.fromarray(eight), "JPEG", quality=90)
    yield "JPEG, 8 bits", hostile.encapsulating(frame, eight, uid.JPEGBaseline8Bit)
    for name, bits, *command in (
        ("JPEG, 12 bits", 12, "dcmcjpeg", "+ee"),
        ("lossless JPEG, 8 bits", 8, "dcmcjpeg", "+e1"),
        ("lossless JPEG, 12 bits", 12, "dcmcjpeg", "+e1"),
        ("JPEG-LS, 8 bits", 8, "dcmcjpls"),
        ("JPEG-LS, 12 bits", 12, "dcmcjpls"),
        ("near-lossless JPEG-LS, 12 bits", 12, "dcmcjpls", "+en"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield name, toolkits.converted(plain[bits], Path(folder), *command)
            except (FileNotFoundError, toolkits.Failed) as error:
                print(f"{name} is left out: {error}")


class Side:
    """A process that decodes with the code of one checkout."""

    def __init__(self, python: str, root: Path, folder: Path) -> None:
        self._child = subprocess.Popen(
            [python, "-c", CHILD, str(root), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        )  # fmt: skip
        #: By film the least processor seconds, or the name of an error.
        self.best: dict[str, Any] = {}
        self.resident_mb = 0.0

    def round(self) -> None:
        """Decode every film once more."""
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        took, resident_kb = json.loads(self._child.stdout.readline())
        self.resident_mb = resident_kb / 1024
        for name, found in took.items():
            before = self.best.get(name, found)
            self.best[name] = found if isinstance(found, str) else min(before, found)

    def close(self) -> None:
        """End the process."""
        self._child.communicate()


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--against", type=Path, help="another checkout, with its own environment")
    parser.add_argument("--python", help="that environment's Python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    asked = parser.parse_args()
    claims = report.Claims()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, data in films():
            (folder / name).write_bytes(data)
        sides = {"here": Side(sys.executable, ROOT, folder)}
        if asked.against:
            other = asked.against.resolve()
            python = asked.python or str(other / ".venv/bin/python")
            sides["there"] = Side(python, other, folder)
        for _ in range(2 if asked.quick else asked.rounds):
            for side in sides.values():
                side.round()
        for side in sides.values():
            side.close()
    here, there = sides["here"], sides.get("there")
    if there is None:
        report.table(["film", "CPU ms"], [(n, v * 1000) for n, v in here.best.items()])
        print(f"{here.resident_mb:.0f} MB resident at most")
        return claims.end()
    both = {name: (found, there.best[name]) for name, found in here.best.items()}
    rows = [
        (name, a * 1000, "refused", "-") if isinstance(b, str)
        else (name, a * 1000, b * 1000, f"{a / b:.2f}")
        for name, (a, b) in both.items()
    ]  # fmt: skip
    report.table(["film", "CPU ms here", "there", "ratio"], rows)
    print(f"resident at most: {here.resident_mb:.0f} MB here, {there.resident_mb:.0f} MB there")
    measured = {name: (a, b) for name, (a, b) in both.items() if not isinstance(b, str)}
    slowest = max(measured, key=lambda name: measured[name][0] / measured[name][1])
    a, b = measured[slowest]
    claims.check(a / b <= MORE, f"every kind within {MORE} ×", f"{slowest}: {a / b:.2f} ×")
    a, b = (sum(each) for each in zip(*measured.values(), strict=True))
    claims.check(a <= b, "all together no slower", f"{a / b:.2f} ×")
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
