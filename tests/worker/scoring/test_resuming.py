"""A listing that an older release has begun goes on, though more is skipped and names are read
otherwise by now."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.worker.archives import as_folder, as_zip
from worker import archive
from worker.archive import Kind
from worker.errors import ArchiveError
from worker.scoring.resuming import Resumed


def rest(uri: Path, kind: Kind, listed: Sequence[str]) -> list[str]:
    """What is still to be listed behind those names."""
    with archive.open_source(str(uri), kind) as source:
        return [member.name for member in Resumed(source, source.members(), iter(listed))]


def test_an_archive_goes_on_behind_films_that_are_clutter_by_now_and_names_read_otherwise(
    tmp_path: Path,
) -> None:
    files = dict.fromkeys(["#recycle/1.png", "AAAAAA.png", ".2.png", "3.png", "4.png"], b"x")
    path = as_zip(tmp_path / "a.zip", files)
    path.write_bytes(path.read_bytes().replace(b"AAAAAA", "größ".encode()))
    before = "größ.png".encode().decode("cp437")
    assert rest(path, "zip", ["#recycle/1.png", before, ".2.png"]) == ["3.png", "4.png"]
    assert rest(path, "zip", ["größ.png"]) == ["3.png", "4.png"]
    with pytest.raises(ArchiveError, match="was changed while it was listed"):
        rest(path, "zip", ["#recycle/1.png", "other.png"])


def test_a_list_goes_on_behind_names_that_are_clutter_or_written_otherwise(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "é.png")
    as_folder(tmp_path, dict.fromkeys([".1.png", apart, "#recycle/3.png", "4.png"], b"x"))
    path = tmp_path / "list.txt"
    path.write_text(f".1.png\n{unicodedata.normalize('NFC', apart)}\n#recycle/3.png\n4.png\n")
    assert rest(path, "list", [".1.png"]) == [apart, "4.png"], "a line with # is a comment"
    written = unicodedata.normalize("NFC", apart)  # as older releases listed it
    assert rest(path, "list", [".1.png", written]) == ["4.png"]
    with pytest.raises(ArchiveError, match="was changed while it was listed"):
        rest(path, "list", [".1.png", "other.png"])
