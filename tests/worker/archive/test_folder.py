"""Folders as archives: their order, links, and files that change or cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.worker.archives import as_folder, contents, failure, listed, lock, reading
from worker import archive


def test_a_folder_goes_depth_first_by_name(tmp_path: Path) -> None:
    names = ["b/2", "b/1/x", "a", "c", "b/10", "B"]
    as_folder(tmp_path, dict.fromkeys(names, b""))
    assert [m.name for m in listed(tmp_path)] == ["B", "a", "b/1/x", "b/10", "b/2", "c"]


def test_links_to_files_are_read_and_linked_folders_not_entered(tmp_path: Path) -> None:
    films = as_folder(tmp_path / "films", {"a/1.png": b"one"})
    as_folder(tmp_path / "elsewhere", {"2.png": b"two"})
    (films / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (films / "a" / "loop").symlink_to(films)
    (films / "further").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(films / "pipe")
    assert contents(films) == {"2.png": b"two", "a/1.png": b"one"}
    with archive.open_source(str(films)) as source:
        list(source.members())
    assert source.skipped == {"directory": 1, "linked_directory": 2, "special_file": 1}


def test_a_link_that_leads_nowhere_is_a_member_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    dangling, circle = listed(tmp_path)
    assert failure(tmp_path, dangling).code == "missing"
    assert failure(tmp_path, circle).code == "unreadable"


def test_a_file_that_changed_since_the_listing_is_named(tmp_path: Path) -> None:
    as_folder(
        tmp_path, {"gone": b"1", "grown": b"1", "shrunk": b"123", "swapped": b"", "same": b"1"}
    )
    gone, grown, same, shrunk, swapped = listed(tmp_path)
    (tmp_path / "gone").unlink()
    (tmp_path / "grown").write_bytes(b"12")
    (tmp_path / "shrunk").write_bytes(b"12")
    (tmp_path / "swapped").unlink()
    os.mkfifo(tmp_path / "swapped")
    assert failure(tmp_path, gone).code == "missing"
    for member in (grown, shrunk, swapped):
        assert failure(tmp_path, member).code == "changed"
    with reading(tmp_path) as reader:
        assert reader.read(same) == b"1"


def test_a_file_and_a_folder_without_permission_cost_themselves_only(tmp_path: Path) -> None:
    as_folder(tmp_path, {"closed/1.png": b"1", "secret.png": b"2", "z.png": b"3"})
    lock(tmp_path / "closed")
    lock(tmp_path / "secret.png")
    closed, secret, readable = listed(tmp_path)
    codes = [failure(tmp_path, m).code for m in (closed, secret)]
    with reading(tmp_path) as reader:
        assert reader.read(readable) == b"3"
    (tmp_path / "closed").chmod(0o700)
    assert (closed.name, codes) == ("closed/", ["unreadable", "unreadable"])


def test_a_very_deep_folder_is_listed(tmp_path: Path) -> None:
    path = str(tmp_path)
    for _ in range(1_200):  # step by step: pathlib itself recurses
        path += "/d"
        os.mkdir(path)  # noqa: PTH102
    (Path(path) / "film.png").write_bytes(b"deep")
    sizes = [m.size for m in listed(tmp_path)]
    (Path(path) / "film.png").unlink()
    while path != str(tmp_path):  # pytest's own cleaning recurses too
        os.rmdir(path)  # noqa: PTH106
        path = path.rpartition("/")[0]
    assert sizes == [4]
