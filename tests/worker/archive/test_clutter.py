"""A share with what systems leave on it has the same films for all that looks at it."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer import clutter
from trainer.checking import checkup
from trainer.data import gathering
from worker import archive
from worker.archive.names import skipped_as
from worker.schedules import inbox

#: Folders that systems leave, with all that is in them.
FOLDERS = (
    "@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", ".snapshot", "#snapshot",
    "~snapshot", ".zfs", "@Recycle", "@Recently-Snapshot", ".@__thumb", ".ipynb_checkpoints",
    "System Volume Information", "lost+found", ".Trashes", ".Trash-1000", ".AppleDouble",
    "__MACOSX", ".Spotlight-V100", ".fseventsd", "Network Trash Folder", "Temporary Items",
    "__pycache__", ".git", ".hidden", "@tmp", "FOUND.000",
)  # fmt: skip

#: Files that systems leave.
FILES = (
    "Thumbs.db", "thumbs.db", "ehthumbs.db", "Desktop.ini", ".DS_Store", "._1.png", ".directory",
    ".hidden.png", "Icon\r", "~$films.png", ".nfs000001", "Picasa.ini",
)  # fmt: skip

FILMS = [f"{name}/{n}.png" for name in ("NORMAL", "PNEUMONIA") for n in range(4)]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share of labelled films, with leavings at its top, among its classes and in them."""
    root = tmp_path / "share"
    samples.write(root, *FILMS, "NORMAL/ward 1/@eaDir.png/film.png")
    for place in ("", "NORMAL/", "PNEUMONIA/ward 2/"):
        samples.write(root, *(f"{place}{name}/NORMAL/film.png" for name in FOLDERS))
        samples.write(root, *(f"{place}{name}" for name in FILES))
    return root


def test_a_share_with_leavings_has_the_same_films_everywhere(share: Path, tmp_path: Path) -> None:
    films = {*FILMS, "NORMAL/ward 1/@eaDir.png/film.png"}
    trained = gathering.gather([share])
    assert {film.path for film in trained.films} == films
    checked = checkup.check([share])
    assert sum(n for split in checked.films.values() for n in split.values()) == len(films)
    watched = [entry for entry in inbox.files(str(share)) if entry is not None]
    assert {str(Path(entry.path).relative_to(share)) for entry in watched} == films
    for uri in (str(share), f"{share}/**", f"{share}/**/*"):
        kind: archive.Kind = "glob" if archive.is_pattern(uri) else "folder"
        with archive.open_source(uri, kind) as source:
            assert {member.name for member in source.members()} == films, kind
            assert {"trash", "nas_metadata", "snapshot", "notebook", "hidden"} <= {*source.skipped}

    everything = sorted(path for path in share.rglob("*") if path.is_file())
    with (
        zipfile.ZipFile(tmp_path / "share.zip", "w") as zipped,
        tarfile.open(tmp_path / "share.tar", "w") as tarred,
    ):
        for path in everything:
            zipped.write(path, path.relative_to(share))
            tarred.add(path, path.relative_to(share))
    for packed in ("share.zip", "share.tar"):
        with archive.open_source(str(tmp_path / packed)) as source:
            assert {member.name for member in source.members()} == films, packed
            skipped = sum(source.skipped.values())
        assert skipped == len(everything) - len(films)


def test_all_that_systems_leave_is_told_by_its_name_in_any_case() -> None:
    for name in FOLDERS:
        for written in (name, name.upper(), name.lower()):
            assert clutter.reason(f"a/{written}/b.png") in clutter.REASONS, written
            assert clutter.reason(f"{written}\\b.png") in clutter.REASONS, written
    for name in FILES:
        assert skipped_as(f"a/{name}") in clutter.REASONS, name


def test_linked_folders_are_entered_by_none_and_counted_by_each(
    share: Path, tmp_path: Path
) -> None:
    samples.write(tmp_path / "elsewhere", "film.png")
    (share / "NORMAL" / "more").symlink_to(tmp_path / "elsewhere")
    (share / "PNEUMONIA" / "loop").symlink_to(share)
    gathered = gathering.gather([share])
    assert len(gathered.films) == len(FILMS) + 1
    assert gathered.notes[0].startswith("2 linked folders")
    with archive.open_source(str(share)) as source:
        assert sum(1 for _ in source.members()) == len(FILMS) + 1
        assert source.skipped["linked_directory"] == 2
    watched = [entry for entry in inbox.files(str(share)) if entry is not None]
    assert sum(entry.size == inbox.LINKED for entry in watched) == 2
    assert len(watched) == len(FILMS) + 1 + 2
