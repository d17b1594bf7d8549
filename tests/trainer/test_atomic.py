"""Files and folders appear whole or not at all, and nothing is left beside them."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from trainer import atomic


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.replace(path, b"old")
    with atomic.replacing(path, sync=True) as part:
        assert part.read_bytes() == b""
        assert atomic.is_part_of(part, path)
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.replace(path, b"old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as part:
        part.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_previous_file_is_kept_under_its_own_name(tmp_path: Path) -> None:
    path, previous = tmp_path / "last.pt", tmp_path / "before.pt"
    for data in (b"1", b"2", b"3"):
        with atomic.replacing(path, previous=previous) as part:
            part.write_bytes(data)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")


def test_a_file_is_as_readable_as_any_other_unless_it_is_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for private, mode in ((False, 0o644), (True, 0o600)):
            with atomic.replacing(tmp_path / "a", private=private):
                pass
            assert (tmp_path / "a").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("\N{LUNGS}" * 63)  # 252 of 255 bytes
    atomic.replace(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("empty_there", [True, False])
def test_a_folder_is_there_when_all_of_it_is(tmp_path: Path, empty_there: bool) -> None:
    folder = tmp_path / "films"
    if empty_there:
        folder.mkdir()
    with pytest.raises(RuntimeError), atomic.new_folder(folder) as part:
        (part / "a").write_bytes(b"a")
        raise RuntimeError
    assert list(tmp_path.rglob("*")) == [folder] * empty_there
    with atomic.new_folder(folder) as part:
        (part / "a").write_bytes(b"a")
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "a"]


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(OSError, match="not empty"), atomic.new_folder(tmp_path) as part:
        (part / "a").write_bytes(b"a")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def _die_while_replacing(path: Path) -> None:
    with atomic.replacing(path) as part:
        part.write_bytes(b"half of the n")
        os._exit(9)


def test_a_killed_process_leaves_the_old_file_and_a_hidden_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.replace(path, b"old")
    child = multiprocessing.get_context("spawn").Process(target=_die_while_replacing, args=(path,))
    child.start()
    child.join(60)
    assert path.read_bytes() == b"old"
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert left.name.startswith(".")
    assert atomic.is_part_of(left, path)
    assert not atomic.is_part_of(left, tmp_path / "b.json")
