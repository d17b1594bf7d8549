from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.broken.disk import fill, small_disk
from tests.trainer import samples
from trainer.data import cache, dataset, decoding
from trainer.errors import DatasetError
from trainer.film import content, rules


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "labelled"
    samples.fill(folder, patients=8)
    return folder


def test_the_planes_are_what_the_film_rule_makes(root: Path, tmp_path: Path) -> None:
    data, films = cache.decode(dataset.read(root), tmp_path / "cache", size=40)
    rows = films.rows(data.films)
    for one, plane in zip(data.films, films.take(rows), strict=True):
        assert np.array_equal(plane[0], rules.decode((root / one.path).read_bytes(), 40))


def test_films_are_decoded_once_whatever_the_split(root: Path, tmp_path: Path) -> None:
    first = dataset.read(root, seed=0)
    cache.decode(first, tmp_path / "cache", size=32)
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    second = dataset.read(root, seed=1)
    assert second.of("val") != first.of("val")
    cache.decode(second, tmp_path / "cache", size=32)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == made
    cache.decode(second, tmp_path / "cache", size=33)
    assert len(list((tmp_path / "cache").iterdir())) == 2 * len(made)


def test_a_broken_film_is_left_out_and_named_every_time(root: Path, tmp_path: Path) -> None:
    whole = samples.film(77)
    (root / "NORMAL" / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (root / "NORMAL" / "page.jpeg").write_bytes(b"<html>not found</html>")
    (root / "PNEUMONIA" / "empty.jpeg").write_bytes(b"")
    read = dataset.read(root)
    for _ in range(2):
        data, films = cache.decode(read, tmp_path / "cache", size=32)
        assert [(f.path, f.code) for f in data.left_out] == [
            ("NORMAL/cut.jpeg", "truncated"),
            ("NORMAL/page.jpeg", "not_an_image"),
            ("PNEUMONIA/empty.jpeg", "truncated"),
        ]
        assert len(films.rows(data.films)) == len(data.films) == len(read.films) - 3
        assert data.hash != read.hash


def test_a_blank_film_is_left_out_and_named(root: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 90).save(root / "NORMAL" / "blank.png")
    data, _ = cache.decode(dataset.read(root), tmp_path / "cache", size=32)
    assert [(f.path, f.code) for f in data.left_out] == [("NORMAL/blank.png", "blank")]


def test_a_folder_of_mostly_broken_films_is_refused(root: Path, tmp_path: Path) -> None:
    for number in range(6):
        (root / "NORMAL" / f"broken{number}.jpeg").write_bytes(b"GIF89a%d" % number)
    with pytest.raises(DatasetError, match=r"6 of 38 films .*6 × truncated"):
        cache.decode(dataset.read(root), tmp_path / "cache", size=32)


def test_a_class_without_readable_films_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    samples.fill(root, patients=3, films=1)
    for number, path in enumerate((root / "NORMAL").iterdir()):
        path.write_bytes(b"nothing %d" % number)
    with pytest.raises(DatasetError, match=r"class NORMAL .* has no readable films"):
        cache.decode(dataset.read(root), tmp_path / "cache", size=32)


def test_a_film_that_changed_since_the_folder_was_read_is_left_out(
    root: Path, tmp_path: Path
) -> None:
    read = dataset.read(root)
    (root / read.films[0].path).write_bytes(samples.film(123))
    data, _ = cache.decode(read, tmp_path / "cache", size=32)
    assert [(f.path, f.code) for f in data.left_out] == [(read.films[0].path, "changed")]


def test_a_film_that_could_not_be_read_once_is_there_in_the_next_run(
    root: Path, tmp_path: Path
) -> None:
    read = dataset.read(root)
    film = root / read.films[0].path
    film.rename(tmp_path / "away")
    data, _ = cache.decode(read, tmp_path / "cache", size=32)
    assert [(f.path, f.code) for f in data.left_out] == [(read.films[0].path, "unreadable")]
    (tmp_path / "away").rename(film)
    data, films = cache.decode(read, tmp_path / "cache", size=32)
    assert not data.left_out
    plane = films.take(films.rows(read.films[:1]))[0, 0]
    assert np.array_equal(plane, rules.decode(film.read_bytes(), 32))


def test_a_film_that_cannot_be_read_for_a_moment_is_not_left_out(
    root: Path, tmp_path: Path
) -> None:
    read = dataset.read(root)
    with samples.unreadable(root / read.films[0].path, for_s=0.2):
        data, _ = cache.decode(read, tmp_path / "cache", size=32)
    assert not data.left_out


def test_test_films_are_not_decoded(root: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    split.mkdir()
    root.rename(split / "train")
    samples.write(split / "test", "NORMAL/1.png", "PNEUMONIA/2.png")
    (split / "test" / "NORMAL" / "broken.png").write_bytes(b"nothing")
    data, films = cache.decode(dataset.read(split), tmp_path / "cache", size=32)
    assert len(films.planes) == 32
    assert not data.left_out


def test_a_changed_dataset_decodes_only_the_films_that_are_new(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, films = cache.decode(dataset.read(root), tmp_path / "cache", size=32)
    expected = films.take(films.rows(before.films))
    gone = before.films[3]
    (root / gone.path).unlink()
    samples.write(root, "NORMAL/new_1.jpeg", "PNEUMONIA/new_2.jpeg")
    asked = []
    real = rules.decode
    monkeypatch.setattr(rules, "decode", lambda *a: (asked.append(a), real(*a))[1])
    after, films = cache.decode(dataset.read(root), tmp_path / "cache", size=32)
    assert len(asked) == 2
    assert len(after.films) == len(before.films) + 1
    planes = {f.sha256: p for f, p in zip(after.films, films.take(films.rows(after.films)),
                                          strict=True)}  # fmt: skip
    for one, plane in zip(before.films, expected, strict=True):
        if one != gone:
            assert np.array_equal(planes[one.sha256], plane)
    cache.decode(after, tmp_path / "cache", size=33)
    assert len(asked) == 2 + len(after.films), "another size is other pixels"


def test_films_that_another_reader_made_are_decoded_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = rules.decode
    monkeypatch.setattr(rules, "decode", lambda *a: (asked.append(a), real(*a))[1])

    def decoded() -> int:
        """How many films are decoded now, of those that are there and one more."""
        asked.clear()
        samples.write(root, f"NORMAL/new_{len(list(root.rglob('*')))}.jpeg")
        data, _ = cache.decode(dataset.read(root), tmp_path / "cache", size=32)
        films.append(len(data.films))
        return len(asked)

    films: list[int] = []
    for kind in content.READERS:
        monkeypatch.setitem(content.READERS, kind, 1)
    assert decoded() == films[-1]
    assert decoded() == 1
    monkeypatch.setitem(content.READERS, "DICOM", 99)
    assert decoded() == films[-1]
    assert decoded() == 1
    for about in (tmp_path / "cache").glob("*.json"):  # as an older release leaves it
        kept = json.loads(about.read_text())
        del kept["layout"]
        about.write_text(json.dumps(kept))
    assert decoded() == films[-1]
    assert decoded() == 1


def test_a_damaged_cache_of_another_dataset_is_passed_over(root: Path, tmp_path: Path) -> None:
    cache.decode(dataset.read(root), tmp_path / "cache", size=32)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    samples.write(root, "NORMAL/new_1.jpeg")
    data, films = cache.decode(dataset.read(root), tmp_path / "cache", size=32)
    plane = films.take(films.rows(data.films[:1]))[0, 0]
    assert np.array_equal(plane, rules.decode((root / data.films[0].path).read_bytes(), 32))


def test_a_damaged_cache_is_told_of_and_what_is_damaged_is_decoded_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    read = dataset.read(root)
    _, films = cache.decode(read, folder, size=32)
    whole = np.array(films.planes)
    (planes,), (about,) = folder.glob("*.npy"), folder.glob("*.json")
    decoded: list[str] = []
    decode = rules.decode

    def counted(data: bytes, *args: Any, **named: Any) -> Any:
        decoded.append("")
        return decode(data, *args, **named)

    monkeypatch.setattr(decoding.rules, "decode", counted)

    def again() -> list[str]:
        decoded.clear()
        notes: list[str] = []
        data, films = cache.decode(read, folder, size=32, report=notes.append)
        assert np.array_equal(films.planes, whole)
        assert len(data.films) == len(read.films)
        return [note for note in notes if "damaged" in note]

    written = planes.read_bytes()
    third = len(written) - 30 * 32 * 32
    planes.write_bytes(written[:third] + bytes(2 * 32 * 32) + written[third + 2 * 32 * 32 :])
    (note,) = again()
    assert note.startswith(f"2 of {len(whole)} decoded films in the cache are damaged")
    assert len(decoded) == 2
    for damage in (written[: len(written) // 2], b"", b"no array"):
        planes.write_bytes(damage)
        assert len(again()) == 1
        assert len(decoded) == len(whole)
    kept = about.read_bytes()
    for damage in (kept[:50], b"", b"{}", b"[]"):
        about.write_bytes(damage)
        assert len(again()) == 1
    assert again() == []
    assert not decoded


def test_a_full_disk_is_an_error_that_names_the_folder(root: Path) -> None:
    with small_disk(1) as disk:
        fill(disk)
        with pytest.raises(OSError, match="No space left on device") as caught:
            cache.decode(dataset.read(root), disk, size=32)
        assert caught.value.filename is not None
        assert str(disk) in str(caught.value.filename)
