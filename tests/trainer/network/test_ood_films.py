"""Real chest films are told from what people send by mistake, whatever the network has learned.

The network here never saw a chest film in training, and the films are small: the detector
must not depend on either.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from tests.support.paths import SHARED
from trainer import phantom
from trainer.data import dataset
from trainer.film import rules
from trainer.judging import metrics
from trainer.network import model, ood

SIZE = 112
Films = NDArray[np.uint8]

pytestmark = pytest.mark.skipif(
    not (SHARED / "data" / "kermany_224").is_dir() or not (SHARED / "weights").is_dir(),
    reason="needs the shared chest films and weights",
)


def shrunk(plane: NDArray[np.generic], size: int = SIZE) -> Films:
    low, high = np.quantile(plane.astype(float), (0.005, 0.995))
    levels = ((plane - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    return np.asarray(Image.fromarray(levels.astype(np.uint8)).resize((size, size)))


def photographs(count: int) -> Films:
    rng = np.random.default_rng(0)
    whole = [np.asarray(Image.fromarray(i).convert("L")) for i in load_sample_images().images]
    made = []
    for n in range(count):
        side = int(rng.integers(120, 420))
        y, x = (rng.integers(0, extent - side) for extent in whole[n % 2].shape)
        made.append(shrunk(whole[n % 2][y : y + side, x : x + side]))
    return np.stack(made)


def documents(count: int) -> Films:
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        page = Image.new("L", (400, 400), int(rng.integers(170, 256)))
        font = ImageFont.load_default(size=int(rng.integers(12, 40)))
        for y in range(5, 400, int(font.size * 1.4)):
            words = ("".join(chr(c) for c in rng.integers(97, 123, 6)) for _ in range(9))
            ImageDraw.Draw(page).text((10, y), " ".join(words), font=font, fill=30)
        made.append(shrunk(np.asarray(page.rotate(rng.normal(0, 8), fillcolor=60))))
    return np.stack(made)


def other_modalities() -> Films:
    """A CT slice, an extremity and an ultrasound frame, upright and turned."""
    made = []
    for pattern in ("*_ct_*.dcm", "*extremity*.dcm", "us_*.dcm"):
        (path,) = (SHARED / "data" / "dicom").glob(pattern)
        plane = pydicom.dcmread(path).pixel_array
        while plane.ndim > 2:
            plane = plane[..., 0] if plane.shape[-1] == 3 else plane[len(plane) // 2]
        made += [shrunk(np.rot90(plane, k)) for k in range(4)]
    return np.stack(made)


def chest(paths: list[Path]) -> Films:
    return np.stack([rules.decode(path.read_bytes(), SIZE) for path in paths])


def test_chest_films_of_either_size_pass_and_everything_else_is_flagged() -> None:
    data = dataset.read(SHARED / "data" / "kermany_224")
    rng = np.random.default_rng(0)
    train, held_out = (
        [data.root / split[i].path for i in rng.permutation(len(split))]
        for split in (data.of("train"), data.of("val"))
    )
    originals = sorted((SHARED / "data" / "originals").rglob("*.jpeg"))
    shown = {path.name for path in originals}
    planes = chest([p for p in train if p.name not in shown][:500] + held_out[:300])
    new = chest(held_out[300:500])
    net, _ = model.build(2, next((SHARED / "weights").glob("*.pth")))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = ood.fit(net, planes, np.arange(500), ood.observe(net, planes[500:800]))

        def said(films: Films) -> metrics.Scores:
            return detector(ood.observe(net, films))

        others = {
            "photographs": photographs(40),
            "documents": documents(30),
            "other modalities": other_modalities(),
            "phantoms": np.stack([rules.decode(f.data, SIZE) for f in phantom.films(12, 3)]),
            "quarter turned": np.rot90(new[:50], 1, (1, 2)),
            "upside down": np.rot90(new[50:100], 2, (1, 2)),
            "inverted": 255 - new[100:150],
            "noise": rng.integers(0, 256, (5, SIZE, SIZE), dtype=np.uint8),
        }
        typical = said(new)
        strange = {name: said(films) for name, films in others.items()}
        large = said(chest(originals))
    finally:
        torch.set_num_threads(before)

    assert (typical <= detector.threshold).mean() >= 0.99
    assert (large <= detector.threshold).mean() >= 0.99
    for name, scores in strange.items():
        truth = np.repeat([False, True], [len(typical), len(scores)])
        assert metrics.auroc(np.concatenate([typical, scores]), truth) >= 0.95, name
    everything = np.concatenate(list(strange.values()))
    assert (everything > detector.threshold).mean() > 0.9
