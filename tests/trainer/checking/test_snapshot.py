"""What changed in the films since last time, and which of it keeps training from going on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer.checking import checkup, snapshot
from trainer.checking.snapshot import Change, Unfit
from trainer.data import dataset, gathering
from trainer.data.dataset import Dataset

MOST = {"max_shrink": 0.2, "max_relabelled": 0.2}


def read(root: Path) -> Dataset:
    return dataset.read(root)


def classes(data: Dataset) -> dict[str, str]:
    return {film.sha256: data.labels[film.label] for film in data.films}


def move(root: Path, n: int, name: str, to: str) -> None:
    for film in sorted((root / name).iterdir())[:n]:
        film.rename(root / to / film.name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 films of each class."""
    samples.fill(tmp_path, patients=20, films=1)
    return tmp_path


def reasons(found: tuple[Unfit, ...]) -> list[str]:
    return [one.shareable for one in found]


def test_films_that_did_not_change_are_fit(root: Path) -> None:
    data = read(root)
    change = snapshot.change(classes(data), data)
    counts = {"NORMAL": 20, "PNEUMONIA": 20}
    assert change == Change(added=0, removed=0, relabelled=0, before=counts, after=counts)
    assert snapshot.unfit(data, checkup.check([root]), change, **MOST) == ()
    assert snapshot.unfit(data, None, None, **MOST) == ()


def test_what_was_added_removed_and_relabelled_is_counted_by_content(root: Path) -> None:
    before = classes(read(root))
    first, second, *_ = sorted((root / "NORMAL").iterdir())
    first.rename(root / "NORMAL" / "patient8000_0.jpeg")  # moved, not changed
    second.unlink()
    move(root, 3, "PNEUMONIA", "NORMAL")
    samples.write(root, "PNEUMONIA/patient9000_0.jpeg", "PNEUMONIA/patient9001_0.jpeg")
    data = read(root)
    expected = Change(
        added=2, removed=1, relabelled=3,
        before={"NORMAL": 20, "PNEUMONIA": 20}, after={"NORMAL": 22, "PNEUMONIA": 19},
    )  # fmt: skip
    assert snapshot.change(before, data) == expected
    assert snapshot.change(before, gathering.gather([root])) == expected


def test_a_class_that_lost_more_than_it_may_is_a_reason_with_numbers(root: Path) -> None:
    before = classes(read(root))
    for film in sorted((root / "PNEUMONIA").iterdir())[:4]:
        film.unlink()
    data = read(root)
    assert snapshot.unfit(data, None, snapshot.change(before, data), **MOST) == ()
    sorted((root / "PNEUMONIA").iterdir())[0].unlink()
    data = read(root)
    (found,) = snapshot.unfit(data, None, snapshot.change(before, data), **MOST)
    assert (
        found.shareable
        == "a class has 15 films where there were 20: 25% are gone, where 20% may be"
    )
    assert found.text.startswith("PNEUMONIA has 15 films")
    assert found.text.endswith("let --max-shrink be larger")


def test_a_class_that_grew_while_its_films_were_exchanged_did_not_shrink(root: Path) -> None:
    before = classes(read(root))
    for number, film in enumerate(sorted((root / "PNEUMONIA").iterdir())):
        film.write_bytes(samples.film(90_000 + number, sick=True))
    data = read(root)
    change = snapshot.change(before, data)
    assert (change.added, change.removed) == (20, 20)
    assert snapshot.unfit(data, None, change, **MOST) == ()


def test_a_class_that_is_gone_altogether_is_a_reason() -> None:
    change = Change(
        added=0, removed=30, relabelled=0, before={"A": 30, "B": 50, "C": 9},
        after={"B": 50, "C": 9},
    )  # fmt: skip
    nothing = Dataset(root=Path("x"), labels=("B", "C"), positive="B", films=())
    assert reasons(snapshot.unfit(nothing, None, change, **MOST)) == [
        "a class has 0 films where there were 30: 100% are gone, where 20% may be"
    ]


@pytest.mark.parametrize(("n", "share"), [(30, 0.1), (35, 0.2), (15, 0.2), (100, 0.29), (10, 0.7)])
def test_exactly_the_share_that_may_is_no_reason(n: int, share: float) -> None:
    lost = round(n * share)
    nothing = Dataset(root=Path("x"), labels=("A", "B"), positive="B", films=())
    for more in (0, 1):
        change = Change(
            added=0,
            removed=lost + more,
            relabelled=0,
            before={"A": n},
            after={"A": n - lost - more},
        )
        found = snapshot.unfit(nothing, None, change, max_shrink=share, max_relabelled=1)
        assert len(found) == more


def test_labels_that_were_turned_are_a_reason_and_some_corrections_are_none(root: Path) -> None:
    before = classes(read(root))
    move(root, 4, "PNEUMONIA", "NORMAL")
    data = read(root)
    assert snapshot.unfit(data, None, snapshot.change(before, data), **MOST) == ()
    # Ten of forty, and each class has as many as it had.
    (root / "apart").mkdir()
    move(root, 5, "NORMAL", "apart")
    move(root, 1, "PNEUMONIA", "NORMAL")
    move(root, 5, "apart", "PNEUMONIA")
    (root / "apart").rmdir()
    data = read(root)
    change = snapshot.change(before, data)
    assert change.relabelled == 10
    (found,) = snapshot.unfit(data, None, change, **MOST)
    assert found.shareable == (
        "10 of 40 films that were there have another class now, where 20% may"
    )
    assert found.text.endswith("let --max-relabelled be larger")


def test_films_copied_into_another_class_count_as_gone(root: Path) -> None:
    before = classes(read(root))
    for film in sorted((root / "NORMAL").iterdir())[:6]:
        shutil.copy(film, root / "PNEUMONIA" / film.name)
    for data in (read(root), gathering.gather([root])):
        change = snapshot.change(before, data)
        assert change.removed == 6
        assert reasons(snapshot.unfit(data, None, change, **MOST)) == [
            "a class has 14 films where there were 20: 30% are gone, where 20% may be"
        ]


def test_three_unreadable_films_of_forty_are_a_reason_and_two_are_none(root: Path) -> None:
    films = sorted((root / "NORMAL").iterdir())
    data = read(root)
    for film in films[:2]:
        film.write_bytes(film.read_bytes()[:300])
    assert snapshot.unfit(data, checkup.check([root]), None, **MOST) == ()
    films[2].write_bytes(b"")
    checked = checkup.check([root])
    (found,) = snapshot.unfit(data, checked, None, **MOST)
    assert found.shareable == "3 of 40 films cannot be read, where 2% may"
    assert "patient0000" not in found.text and "`pneumoq dataset check` names them" in found.text
    assert snapshot.unfit(data, checked, None, **MOST, max_unreadable=0.1) == ()


def test_unreadable_films_are_known_from_the_films_themselves_without_a_checkup(
    root: Path,
) -> None:
    data = read(root)
    broken = [
        dataset.LeftOut(path=film.path, code="truncated", reason="it ends early")
        for film in data.films[:4]
    ]
    doubtful = dataset.LeftOut(path="NORMAL/x.jpeg", code="two_labels", reason="lies in two")
    left = data.without(broken)
    assert reasons(snapshot.unfit(left, None, None, **MOST)) == [
        "4 of 40 films cannot be read, where 2% may"
    ]
    assert snapshot.unfit(data.without([doubtful] * 5), None, None, **MOST) == ()


def test_what_cannot_be_trained_on_at_all_is_a_reason_and_what_is_told_names_nothing(
    root: Path,
) -> None:
    data = read(root)
    (root / "labels.txt").write_text("PNEUMONIA\nNORMAL\n")
    for film in sorted((root / "PNEUMONIA").iterdir())[:6]:
        film.write_bytes(b"Jane Doe")
    found = snapshot.unfit(
        data, checkup.check([root]), snapshot.change(classes(data), data), **MOST
    )
    assert len(found) == 3
    assert str(root) not in found[0].text and "labels_txt" in found[0].text
    for one in found:
        for secret in (str(root), "labels.txt", "PNEUMONIA", "patient", "jpeg", "Jane"):
            assert secret not in one.shareable
