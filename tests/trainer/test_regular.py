"""What is no file is never waited for, whoever opens it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer import regular, table
from trainer.checking import checkup, contact, preview
from trainer.checking.acquired import Alike
from trainer.data import dataset, decoding, manifest
from trainer.data.decoding import Wanted
from trainer.data.labelled import Film
from trainer.errors import DatasetError, FilmError, ImportRefused
from trainer.film import rules
from trainer.modelfile import jetson_import


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


Make = Callable[[Path], None]
NO_FILES = [os.mkfifo, a_socket, a_device]

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_file_in_a_class_folder_is_left_out(tmp_path: Path, make: Make) -> None:
    samples.fill(tmp_path, patients=4)
    make(tmp_path / "NORMAL" / "x.jpeg")
    data = dataset.read(tmp_path)
    (left,) = data.left_out
    assert (left.path, left.code) == ("NORMAL/x.jpeg", "unreadable")
    assert left.reason == f"the file cannot be opened: {regular.NO_FILE}"
    assert len(data.films) == 16
    assert checkup.check([tmp_path]).unreadable == ("NORMAL/x.jpeg",)


@pytest.mark.parametrize("make", NO_FILES)
def test_a_table_that_is_no_file_is_an_error(tmp_path: Path, make: Make) -> None:
    samples.fill(tmp_path / "films", patients=3)
    made = tmp_path / "m.csv"
    make(made)
    with pytest.raises(DatasetError, match=f"m.csv cannot be read: {regular.NO_FILE}"):
        manifest.read(made)
    with pytest.raises(DatasetError, match=regular.NO_FILE):
        dataset.read(tmp_path / "films", corrections=made)
    with pytest.raises(OSError, match=regular.NO_FILE), table.opened(made):
        pass
    with pytest.raises(ImportRefused, match=regular.NO_FILE):
        jetson_import.labels_of(made)


def test_a_pipe_that_took_a_film_s_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    (found,) = decoding.threads(1)(
        [Wanted(file=tmp_path / "x.png")], size=32, rule=rules.DEFAULT_RULE
    )
    assert found is not None
    assert isinstance(found.outcome, FilmError)
    assert found.outcome.code == "unreadable"
    film = Film(path="x.png", label=0, patient="x", sha256="", split="train")
    _, (left,) = preview.at(tmp_path, [film], looks=[])
    assert left.code == "unreadable"
    alike = Alike(
        look="mark", what="a mark", label="NORMAL", films={"NORMAL": ("x.png",)}, patients=1,
        chance=0.0, boxes={},
    )  # fmt: skip
    with pytest.raises(OSError, match=regular.NO_FILE):
        contact.draw(tmp_path, [alike])


def test_a_file_and_a_folder_are_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to("a")
    assert regular.contents(tmp_path / "link") == b"a"
    with pytest.raises(IsADirectoryError):
        regular.contents(tmp_path)
