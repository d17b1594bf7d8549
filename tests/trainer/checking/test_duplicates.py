"""Which films show one picture, and that looking for them stays cheap."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import drawn, films
from tests.support.paths import SHARED
from trainer import phantom
from trainer.checking import duplicates
from trainer.film import rules

DATA = SHARED / "data"


def prints(films: list[bytes]) -> NDArray[np.float32]:
    return duplicates.prints(np.stack([rules.decode(data, 64) for data in films]))


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def versions(data: bytes) -> list[bytes]:
    """The same picture in other bytes."""
    image = Image.open(io.BytesIO(data)).convert("L")
    width, height = image.size
    small = image.resize((width * 2 // 3, height * 2 // 3), Image.Resampling.NEAREST)
    return [
        encoded(image, quality=30),
        encoded(image, "PNG"),
        encoded(small, quality=80),
        encoded(image.resize((width * 2, height), Image.Resampling.BICUBIC), quality=95),
        encoded(image.point([round(30 + 0.7 * v) for v in range(256)]), quality=90),
        encoded(Image.merge("RGB", (image, image, image)), quality=75),
    ]


def test_a_picture_is_known_again_at_any_size_quality_and_brightness() -> None:
    made = [film.data for film in drawn.films(30, seed=3)]
    copies = [versions(data) for data in made[:3]]
    everything = [*made, *copies[0], *copies[1], *copies[2]]
    found = duplicates.groups(prints(everything))
    n = len(made)
    assert sorted(found) == [[k, *range(n + 6 * k, n + 6 * k + 6)] for k in range(3)]


def test_real_films_are_known_again_and_never_taken_for_one_another() -> None:
    originals = [file.read_bytes() for file in films.FILES]
    copies = [versions(data) for data in originals]
    everything = [*originals, *(made for of_one in copies for made in of_one)]
    found = duplicates.groups(prints(everything))
    n = len(originals)
    assert sorted(found) == [[k, *range(n + 6 * k, n + 6 * k + 6)] for k in range(n)]


def test_two_films_are_enough_to_be_compared() -> None:
    data = next(phantom.films(1, seed=3)).data
    assert duplicates.groups(prints([data, versions(data)[0]])) == [[0, 1]]
    assert duplicates.groups(prints([data])) == []
    assert duplicates.groups(np.zeros((0, 255), np.float32)) == []


def test_blank_films_are_like_no_other() -> None:
    blank = duplicates.prints(np.stack([np.full((64, 64), 40 * n, np.uint8) for n in range(5)]))
    assert duplicates.groups(blank) == []


def unlike(n: int) -> NDArray[np.float32]:
    found = np.random.default_rng(5).normal(size=(n, 255)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def compared(found: NDArray[np.float32]) -> int:
    return sum(len(pairs) for pairs in duplicates._candidates(found))


def test_the_work_grows_as_the_number_of_films_and_not_as_its_square() -> None:
    few, many = compared(unlike(2_500)), compared(unlike(50_000))
    assert many < 30 * max(few, 2_500)
    assert many < 50 * 50_000


def test_many_films_that_are_all_alike_are_one_group_and_cheap() -> None:
    alike = np.repeat(unlike(1), 3_000, axis=0)
    assert duplicates.groups(alike) == [list(range(3_000))]
    keys = duplicates.ROUNDS * 255 // 12
    assert compared(alike) <= 3_000 * duplicates.NEXT * keys


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_originals_are_known_again_among_their_small_copies_and_nothing_else_is() -> None:
    originals = sorted((DATA / "originals").glob("*/*.jpeg"))
    small = sorted((DATA / "kermany_224" / "train").glob("*/*.jpeg"))[::5]
    names = {path.name for path in originals}
    small += [p for p in (DATA / "kermany_224" / "train").glob("*/*.jpeg") if p.name in names]
    files = list(dict.fromkeys([*originals, *small]))
    found = duplicates.groups(prints([path.read_bytes() for path in files]))
    by_name = [{files[row].name for row in group} for group in found]
    assert names <= set().union(*by_name)
    # Films of two names that are one picture are exact copies of the public set.
    patients = [{name.split("-0001")[0].split("_")[0] for name in group} for group in by_name]
    assert all(len(group) == 1 for group in patients)
