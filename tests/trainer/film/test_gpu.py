"""The film rules in torch: the pixels are the film rule's, and what may be refused is not taken."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image

from tests.support import films as real
from tests.support.paths import SHARED
from trainer import phantom
from trainer.errors import FilmRefused
from trainer.film import gpu, rules

DATA = SHARED / "data"

#: What was found with libjpeg on both sides (torchvision's and Pillow's): over all films, for the
#: worst of them, and at the worst pixel.
FOUND_MEAN, FOUND_FILM, FOUND_MOST = 0.08, 0.25, 4


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def scene(height: int = 300, width: int = 400) -> Image.Image:
    """A smooth gray picture in which every corner is different."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray((rows * 150 / height + columns * 100 / width).astype(np.uint8))


def generated(count: int) -> list[bytes]:
    """Films of random sizes and aspects, in all the ways in which JPEG is written."""
    rng = np.random.default_rng(11)
    films = []
    for n in range(count):
        height, width = (int(side) for side in rng.integers(40, 1300, 2))
        drawn = Image.fromarray(phantom.render(rng, bool(n % 2), height, width))
        image = drawn.convert("RGB") if n % 3 == 0 else drawn
        options = {"subsampling": int(rng.integers(0, 3))} if image.mode == "RGB" else {}
        quality = int(rng.integers(30, 99))
        films.append(encoded(image, quality=quality, progressive=n % 4 == 1, **options))
    return films


def decoded(data: bytes, size: int, rule: str = rules.DEFAULT_RULE) -> tuple[np.ndarray, bool]:
    """The pixels of one film, and whether it is certain to be gray."""
    taken = gpu.takes(data)
    assert taken is not None
    made, certain = gpu.decode([data], [taken[1]], size, rule, "cpu")
    return made[0].numpy().astype(int), bool(certain[0])


def differences(films: Iterable[bytes], size: int, rule: str) -> np.ndarray:
    """|Δ gray level|, `[N, size, size]`."""
    found = []
    for data in films:
        made, certain = decoded(data, size, rule)
        assert certain
        found.append(np.abs(made - rules.decode(data, size, rule)))
    return np.stack(found)


def check(apart: np.ndarray) -> None:
    assert apart.mean() <= FOUND_MEAN
    assert apart.mean((1, 2)).max() <= FOUND_FILM
    assert apart.max() <= FOUND_MOST
    assert FOUND_FILM <= gpu.MEAN_BOUND
    assert FOUND_MOST <= gpu.MAX_BOUND


@pytest.mark.parametrize("rule", rules.RULES)
def test_pixels_are_those_of_the_film_rule_whatever_the_size_and_the_quality(rule: str) -> None:
    films = generated(12)
    for size in (112, 224):
        check(differences(films, size, rule))


def test_pixels_of_kept_films_are_no_brighter_and_no_darker_than_the_film_rules() -> None:
    # At 56 pixels means of four come first, of which a quarter lie between two gray levels.
    kept = [file.read_bytes() for file in real.FILES]
    apart = [(decoded(data, 56)[0] - rules.decode(data, 56)).mean() for data in kept]
    assert abs(np.mean(apart)) < 0.02


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")
def test_pixels_of_real_films_are_those_of_the_film_rule() -> None:
    originals = [file.read_bytes() for file in sorted((DATA / "originals").glob("*/*"))]
    check(differences(originals, 224, rules.DEFAULT_RULE))
    brighter = [(decoded(data, 224)[0] - rules.decode(data, 224)).mean() for data in originals[::4]]
    assert abs(np.mean(brighter)) < 0.02


def test_every_rule_is_there_and_meets_the_golden_vectors() -> None:
    assert gpu.RULES.keys() == rules.RULES.keys()
    for rule in rules.RULES:
        vector = rules.golden(rule)[0]
        apart = np.abs(decoded(vector.film, len(vector.pixels), rule)[0] - vector.pixels)
        assert apart.max() <= rules.GOLDEN_TOLERANCE


def test_a_batch_of_many_sizes_and_colours_is_what_its_films_are_alone() -> None:
    films = generated(7)
    components = [taken[1] for data in films if (taken := gpu.takes(data))]
    assert set(components) == {1, 3}
    made, certain = gpu.decode(films, components, 64, rules.DEFAULT_RULE, "cpu")
    assert certain.all()
    for n, data in enumerate(films):
        assert np.array_equal(made[n].numpy(), decoded(data, 64)[0])


def test_whoever_asks_for_pixels_hears_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded(encoded(scene()), 64)


def test_colour_is_doubt_and_gray_stored_as_rgb_is_none() -> None:
    gray = scene().convert("RGB")
    assert decoded(encoded(gray), 64)[1]
    gray.paste((255, 0, 0), (10, 10, 20, 20))  # too small a part for the film rule to refuse it
    marked = encoded(gray)
    rules.decode(marked, 64)
    assert not decoded(marked, 64)[1]


def test_a_film_of_few_grays_is_doubt_also_where_its_resize_would_make_many() -> None:
    for rule in rules.RULES:
        for values in ([90], [0, 255], range(0, 240, 16)):
            grain = np.random.default_rng(1).choice(np.array(values, np.uint8), (40, 50))
            image = Image.fromarray(np.kron(grain, np.ones((8, 8), np.uint8)))
            assert not decoded(encoded(image, quality=100), 224, rule)[1]
            with pytest.raises(FilmRefused, match=r"grays?, of which"):
                rules.decode(encoded(image, quality=100), 224, rule)


def test_a_film_that_was_cut_and_given_an_end_is_doubt_or_not_taken() -> None:
    film = encoded(Image.fromarray(phantom.render(np.random.default_rng(2), True, 400, 500)))
    assert decoded(film, 64)[1]
    assert not decoded(film[: len(film) // 2] + b"\xff\xd9", 64)[1]
    progressive = encoded(scene(), progressive=True)
    assert gpu.takes(progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9") is None


def test_plain_jpegs_are_taken() -> None:
    assert gpu.takes(encoded(scene())) == (120_000, 1)
    assert gpu.takes(encoded(scene(), progressive=True)) == (120_000, 1)
    assert gpu.takes(encoded(scene().convert("RGB"))) == (120_000, 3)
    assert gpu.takes(encoded(scene()) + bytes(3)) == (120_000, 1)
    upright = Image.Exif()
    upright[0x0112] = 1
    assert gpu.takes(encoded(scene(), exif=upright)) == (120_000, 1)


def test_what_is_no_plain_jpeg_is_left_to_the_film_rule() -> None:
    plain = encoded(scene())
    turned = Image.Exif()
    turned[0x0112] = 6
    left = {
        "a PNG": encoded(scene(), "PNG"),
        "cut short": plain[:-100],
        "without an end": plain[:-2],
        "something behind": plain + b"more",
        "turned": encoded(scene(), exif=turned),
        "stored as RGB": encoded(scene().convert("RGB"), keep_rgb=True),
        "CMYK": encoded(scene().convert("CMYK")),
        "an icon": encoded(scene(16, 400)),
        "huge": encoded(Image.new("L", (5001, 5000))),
        "several pictures": encoded(
            scene(), "MPO", save_all=True, append_images=[scene()]
        ),
        "of arithmetic coding": plain.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "lossless": plain.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "nothing": b"",
        "a header": b"\xff\xd8\xff\xd9",
    }  # fmt: skip
    assert {name for name, data in left.items() if gpu.takes(data)} == set()
