"""classify: films, folders and archives here and now, with the options of imagenet.py."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scheduler.submitting import imagenet
from tests.scheduler.console import only_line, run
from tests.support import drawn


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of films in folders, one of them broken."""
    folder = tmp_path / "films"
    drawn.write_folder(folder, 4)
    (folder / "NORMAL" / "broken.jpeg").write_bytes(b"\xff\xd8\xff no film")
    return folder


def good(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.*") if path.stem != "broken")


def test_a_folder_in_is_a_folder_out_of_the_answers_that_each_film_has_alone(
    model_id: int, films: Path, tmp_path: Path
) -> None:
    out = tmp_path / "annotated"
    result = run("classify", films, out, "--json")
    assert result.exit_code == 3
    answers = json.loads(result.stdout)
    broken = [one for one in answers if "error" in one]
    assert [one["name"] for one in broken] == ["NORMAL/broken.jpeg"]
    scored = {one["name"]: one for one in answers if "error" not in one}
    paths = {str(path.relative_to(films)): path for path in good(films)}
    assert set(scored) == set(paths)
    for name in list(paths)[:3]:
        alone = json.loads(run("classify", paths[name], "--json").stdout)
        assert alone["probability"] == scored[name]["probability"]
        assert alone["scores"] == scored[name]["scores"]
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == sorted(paths)
    with Image.open(out / written[0]) as picture, Image.open(paths[written[0]]) as film:
        assert picture.size == film.size
        apart = np.abs(np.asarray(picture.convert("L"), int) - np.asarray(film.convert("L"), int))
        assert 0 < apart.mean() < 60


def test_an_archive_and_a_pattern_are_films_too(model_id: int, films: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as file:
        for path in good(films):
            file.write(path, path.relative_to(films))
    packed = json.loads(run("classify", tmp_path / "films.zip", "--json").stdout)
    named = json.loads(run("classify", films / "**" / "*_1.*", "--json").stdout)
    assert len(packed) == len(good(films))
    assert 0 < len(named) < len(packed)
    by_content = {round(one["probability"], 9) for one in packed}
    assert {round(one["probability"], 9) for one in named} <= by_content


def test_the_options_of_imagenet_are_understood(model_id: int, films: Path, tmp_path: Path) -> None:
    film = good(films)[0]
    result = run(
        "classify", "--topK=0", "--threshold=0", "--input-blob=input_0", "--output_blob=output_0",
        "--labels=labels.txt", "--headless", "--log-level=error", "--verbose", "--smoothing=0",
        f"file://{film}", f"file://{tmp_path / 'out.jpg'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "class #0 (NORMAL)" in result.stdout and "class #1 (PNEUMONIA)" in result.stdout
    shown = [float(line.split("%")[0]) for line in result.stdout.splitlines() if "class #" in line]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == pytest.approx(100, abs=0.02)
    said = [line.split(" is not needed: ")[0] for line in result.stderr.splitlines()]
    assert sorted(said) == [
        "--headless", "--input-blob", "--labels", "--log-level", "--output-blob", "--verbose",
    ]  # fmt: skip
    assert (tmp_path / "out.jpg").stat().st_size
    (tmp_path / "numbered").mkdir()
    result = run("classify", "--profile", films / "PNEUMONIA", tmp_path / "numbered" / "%03i.jpg")
    assert result.exit_code == 0
    assert "films/s" in result.stderr
    assert "000.jpg" in [path.name for path in (tmp_path / "numbered").iterdir()]
    lines = [line for line in result.stdout.splitlines() if "% PNEUMONIA" in line]
    assert len(lines) == len(good(films / "PNEUMONIA"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network=googlenet", "FILM"], "--model"),
        (["--smoothing=5", "FILM"], "films are single pictures"),
        (["--input-width=640", "--output_codec=h264", "FILM"], "--input-width, --output-codec: of"),
        (["--smoothing=0", "--input-loop=-1", "FILM"], "--input-loop: of videos"),
        (["--camera=0", "FILM"], "--camera: of videos"),
        (["csi://0"], "csi://0: of videos"),
        (["/dev/video0", "out.jpg"], "/dev/video0: of videos"),
        (["RTSP://ward:554/live"], "name a film, a folder"),
        (["ward.MP4"], "ffmpeg -i video.mp4"),
        (["FILM", "display://0"], "display://0: of videos"),
        (["FILM", "out.mkv"], "out.mkv: of videos"),
        (["file://nowhere.jpeg"], "nowhere.jpeg"),
        (["--model=MODEL", "FILM"], "pneumoq models import"),
        (["nowhere.jpeg"], "nowhere.jpeg"),
        (["EMPTY"], "the folder is empty"),
        (["FILMS", "FILMS"], "is there and not empty"),
        (["FILMS", "annotated_%s_%s.jpg"], "one place for a number"),
        (["BROKEN"], "broken.jpeg"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    model_id: int, films: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "resnet18.onnx").write_bytes(b"not registered")
    places = {
        "FILM": good(films)[0], "FILMS": films, "EMPTY": tmp_path / "empty",
        "BROKEN": films / "NORMAL" / "broken.jpeg", "MODEL": tmp_path / "resnet18.onnx",
    }  # fmt: skip
    for name in sorted(places, key=len, reverse=True):
        words = [
            word.replace(name, str(places[name])) if word in (name, f"--model={name}") else word
            for word in words
        ]
    result = run("classify", *words)
    assert result.exit_code == 2, result.output
    assert said in only_line(result.stderr)


def test_every_option_of_imagenet_is_taken_in_both_spellings(model_id: int, films: Path) -> None:
    film = good(films)[0]
    expected = run("classify", film).stdout
    for name in imagenet.VIDEO:
        for spelled in {name, name.replace("-", "_")}:
            result = run("classify", f"--{spelled}=h264", film)
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"--{name}: of videos" in only_line(result.stderr)
    every = [
        f"--{name.replace('-', '_')}=0" for name in (*imagenet.VIDEO, *imagenet.WITHOUT_MEANING)
    ]
    result = run("classify", *every, *(f"--{name}" for name in imagenet.FLAGS), film)
    assert (result.exit_code, result.stdout) == (0, expected)


def test_names_cannot_leave_the_folder_that_is_written_to(
    model_id: int, films: Path, tmp_path: Path
) -> None:
    data = good(films)[0].read_bytes()
    names = ["a/film.jpeg", "b\x1b[31m.jpeg", "n" * 240 + ".jpeg", "film", "\u4e2d" * 84]
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as file:
        for name in names:
            file.writestr(name, data)
    out = tmp_path / "out"
    result = run("classify", tmp_path / "odd.zip", out)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == [
        "a/film.jpeg",
        "film-000001.png",
        "film-000002.png",
        "film-000004.png",
        "film.png",
    ]
