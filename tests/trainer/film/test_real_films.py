"""The film rules on real films: the pixels are the same on every machine and in every release."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.support import films
from trainer.film import gpu, rules

PIXELS = json.loads((films.FOLDER.parent / "pixels.json").read_text())


def made(rule: str, size: int) -> dict[str, str]:
    """SHA-256 of each film's pixels."""
    return {
        file.relative_to(films.FOLDER).as_posix(): hashlib.sha256(
            rules.decode(file.read_bytes(), size, rule).tobytes()
        ).hexdigest()
        for file in films.FILES
    }


def test_there_are_ten_films_of_each_class() -> None:
    assert [len(list((films.FOLDER / name).iterdir())) for name in ("NORMAL", "PNEUMONIA")] == [
        10
    ] * 2


def test_the_pixels_of_every_film_rule_are_stored() -> None:
    assert PIXELS.keys() == rules.RULES.keys()


@pytest.mark.parametrize(
    ("rule", "size"), [(r, int(s)) for r, found in PIXELS.items() for s in found]
)
def test_the_pixels_are_the_stored_ones(rule: str, size: int) -> None:
    assert made(rule, size) == PIXELS[rule][str(size)]


def test_no_film_is_taken_for_a_colour_picture() -> None:
    for file in films.FILES:
        with Image.open(file) as image:
            assert image.mode == "RGB"
        rules.decode(file.read_bytes(), 64)


def test_a_reduced_dct_scale_changes_a_third_of_a_gray_level() -> None:
    found = []
    for file in films.FILES:
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            expected = np.asarray(image.convert("L").resize((112, 112), Image.Resampling.BILINEAR))
        found.append(np.abs(rules.decode(file.read_bytes(), 112).astype(int) - expected))
    assert np.mean(found) < 0.35
    assert np.percentile(found, 99) <= 4


def test_gray_films_stored_as_rgb_that_need_no_shrinking_come_out_of_torch_bit_for_bit() -> None:
    for file in films.FILES:
        data = file.read_bytes()
        taken = gpu.takes(data)
        assert taken is not None
        pixels, certain = gpu.decode([data], [taken[1]], 224, rules.DEFAULT_RULE, "cpu")
        assert certain.all()
        assert np.array_equal(pixels[0].numpy(), rules.decode(data, 224))
