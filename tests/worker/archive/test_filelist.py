"""Lists and patterns as archives: every path named is an item, and no film is named by chance."""

from __future__ import annotations

import os
import tracemalloc
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worker.archives import as_folder
from worker import archive
from worker.archive import Kind
from worker.errors import ArchiveError, MemberError

FILMS = {"a.png": b"1", "ward 1/b,c.png": b"2", "ward 1/größe.png": b"3", "z.png": b"4"}


def read(kind: Kind, uri: str) -> list[tuple[str, str]]:
    """Each item's name, and its bytes or the code of its error."""
    found = []
    with archive.open_source(uri, kind) as source:
        assert source.kind == kind
        members = list(source.members())
        assert list(source.members()) == members
    reader = archive.open_reader(kind, uri)
    for member in members:
        try:
            found.append((member.name, reader.read(member).decode()))
        except MemberError as error:
            found.append((member.name, error.code))
    reader.close()
    return found


def skipped(kind: Kind, uri: str) -> dict[str, int]:
    """What is skipped, by reason."""
    with archive.open_source(uri, kind) as source:
        list(source.members())
        return dict(source.skipped)


def refusal(kind: Kind, uri: str) -> ArchiveError:
    """The error of listing."""
    with pytest.raises(ArchiveError) as caught, archive.open_source(uri, kind) as source:
        list(source.members())
    return caught.value


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Relative paths begin there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of films."""
    return as_folder(tmp_path / "films", FILMS)


def write(folder: Path, content: str | bytes, name: str = "list.txt") -> str:
    """A list file."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_text_names_one_file_a_line(films: Path, end: str, bom: bytes) -> None:
    lines = ["# films of ward 1", "z.png", "", f"{films}/ward 1/b,c.png", "  ", " a.png\t", "a.png"]
    uri = write(films, bom + end.join(lines).encode())
    assert read("list", uri) == [
        ("z.png", "4"),
        (f"{films}/ward 1/b,c.png", "2"),
        ("a.png", "1"),
    ]
    assert skipped("list", uri) == {"comment": 1, "blank_line": 2, "named_twice": 1}


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_path_that_a_list_names_again_is_counted_and_no_other_item(
    films: Path, name: str
) -> None:
    (films / "link").symlink_to("a.png")
    (films / "there").symlink_to("ward 1")
    again = ["./a.png", f"{films}/a.png", "ward 1/../a.png", f"{films}//./z.png", "./gone.png"]
    # A link is a name like any other, and what it leads to has a parent of its own.
    once = ["a.png", "z.png", "gone.png", "link", "there/../a.png"]
    uri = write(films, "\n".join(["path", *once, *again]), name)
    listed = [name for name, _ in read("list", uri)]
    assert [path for path in listed if path != "path"] == once[:-1]
    assert skipped("list", uri) == {"named_twice": len(again) + 1}
    with archive.open_source(uri, "list") as source:
        kept = source.listed()
    with archive.open_source(uri, "list", listed=kept) as source:
        assert [member.name for member in source.members()] == listed
        assert source.skipped == {"named_twice": len(again) + 1}


def test_a_path_that_cannot_be_read_is_an_item_too(films: Path) -> None:
    (films / "dangling").symlink_to("nothing")
    (films / "link").symlink_to("a.png")
    names = ["gone.png", "ward 1", "dangling", "link", "../films/a.png", "x" * 300, "a.png/b"]
    assert read("list", write(films, "\n".join(names))) == [
        ("gone.png", "missing"),
        ("ward 1", "no_file"),
        ("dangling", "missing"),
        ("link", "1"),
        ("../films/a.png", "1"),
        ("x" * 300, "unreadable"),
        ("a.png/b", "missing"),
    ]
    assert read("list", write(films, "#" * 5_000 + "\na\0b.png\n")) == [("a\0b.png", "missing")]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_what_a_list_named_is_what_is_listed_once_its_file_is_another_or_gone(
    films: Path, name: str
) -> None:
    odd = Path(os.fsdecode(os.fsencode(films) + b"/caf\xe9 \n.png"))
    odd.write_bytes(b"odd")
    lines: list[str | bytes] = ["z.png", "", f"{films}/ward 1/b,c.png", "gone.png", "ward 1"]
    if name.endswith(".csv"):
        lines = ["id,path", "1,z.png", ",", f'2,"{films}/ward 1/b,c.png"', "3,gone.png", "4,ward 1"]
        lines += [b'5,"caf\xe9 \n.png"', "6,"]
    text = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    uri = write(films, text, name)
    with archive.open_source(uri, "list") as source:
        there, skipped = list(source.members()), dict(source.skipped)
        kept = source.listed()
        assert list(source.members()) == there
    for change in ("cut", "changed", "gone"):
        match change:
            case "cut":
                Path(uri).write_bytes(text[:-9])
            case "changed":
                Path(uri).write_text("a.png\n")
            case _:
                Path(uri).unlink()
        with archive.open_source(uri, "list", listed=kept) as source:
            assert source.kind == "list"
            assert not source.has_changed("that of the list's file")
            for _ in range(2):
                assert list(source.members()) == there, change
            assert dict(source.skipped) == skipped
    reader = archive.open_reader("list", uri)
    assert reader.read(there[0]) == b"4"
    reader.close()


def test_only_a_list_has_what_it_names_kept(films: Path) -> None:
    with archive.open_source(str(films)) as source:
        assert source.listed() is None


def test_a_damaged_end_of_a_list_is_told_of_when_it_is_to_be_kept(films: Path) -> None:
    uri = write(films, "path\n" + "a.png\n" * 5_000 + '"a\n', "list.csv")
    with archive.open_source(uri, "list") as source:
        assert next(source.members()).name == "a.png"
        with pytest.raises(ArchiveError) as caught:
            source.listed()
    assert caught.value.code == "corrupt"


def test_a_path_that_is_too_long_to_be_opened_is_refused_when_it_is_listed(films: Path) -> None:
    long = "ward/" + "é" * 3_000 + ".dcm"
    with archive.open_source(write(films, f"a.png\n{long}\nz.png\n"), "list") as source:
        first, refused, last = source.members()
    assert (first.name, last.name) == ("a.png", "z.png")
    assert (refused.name[:6], refused.name[-5:], len(refused.name)) == ("ward/é", "é.dcm", 201)
    reader = archive.open_reader("folder", str(films))
    with pytest.raises(MemberError, match="more than 4,096 bytes") as caught:
        reader.read(refused)
    reader.close()
    assert caught.value.code == "no_file"


def test_a_path_keeps_blanks_that_belong_to_it_and_bytes_that_are_no_text(films: Path) -> None:
    (films / " spaced ").write_bytes(b"spaced")
    Path(os.fsdecode(os.fsencode(films) + b"/caf\xe9")).write_bytes(b"latin")
    uri = write(films, b" spaced \ncaf\xe9\n")
    assert read("list", uri) == [(" spaced ", "spaced"), ("caf\udce9", "latin")]


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ('id,path,age\n1,a.png,30\n2,"ward 1/b,c.png",40\n', "list.csv"),
        ('id;Filename;age\r\n1;a.png;30\r\n2;"ward 1/b,c.png";40\r\n', "list.csv"),
        ("\ufeffFILE\tid\ra.png\t1\rward 1/b,c.png\t2\r", "list.tsv"),
        ('a.png,1\n\n,,\n"ward 1/b,c.png",2\n', "list.csv"),
        ('film,label\na.png,1\n"ward 1/b,c.png",2\n', "list.csv"),
        ('file_path\n"a.png"\n"ward 1/b,c.png"', "list.csv"),
        ('path,label\na.png,1\n"ward 1/b,c.png",2\n', "list.txt"),
        ("# films\n\npath;label\na.png;1\nward 1/b,c.png;2\n", "list.txt"),
        ("sep=;\r\na.png;1\r\nward 1/b,c.png;2\r\n", "list.txt"),
    ],
)
def test_a_table_names_files_in_its_column_of_paths(films: Path, table: str, name: str) -> None:
    uri = write(films, table, name)
    assert read("list", uri) == [("a.png", "1"), ("ward 1/b,c.png", "2")]


def test_a_path_is_known_however_a_spreadsheet_or_another_system_writes_it(films: Path) -> None:
    (films / unicodedata.normalize("NFD", "é.png")).write_bytes(b"apart")
    written = ["ward 1\\größe.png", " ward 1/b,c.png", unicodedata.normalize("NFC", "é.png")]
    for encoding in ("utf-8", "utf-16", "cp1252"):
        uri = write(films, "\r\n".join(written).encode(encoding))
        assert [data for _, data in read("list", uri)] == ["3", "2", "apart"]


def test_a_row_of_a_table_without_its_file_is_an_item_too(films: Path) -> None:
    uri = write(films, "id,path\n1,gone.png\n2\n3,\n4,a.png\n\n", "list.csv")
    assert read("list", uri) == [
        ("gone.png", "missing"),
        ("", "missing"),
        ("", "missing"),
        ("a.png", "1"),
    ]
    assert skipped("list", uri) == {"blank_line": 1}
    headless = write(films, "gone.png,1\na.png,1\n", "headless.csv")
    assert read("list", headless) == [("gone.png", "missing"), ("a.png", "1")]


@pytest.mark.parametrize(
    ("content", "name", "code", "says"),
    [
        (b"", "list.txt", "empty", "0 bytes"),
        ("id,age\n1,30\n2,40\n", "list.csv", "unsupported", "without a column named `path`"),
        ("a.png\nb".encode("utf-16")[:-1], "list.txt", "corrupt", "line 2 is no row"),
        ("path\nb".encode("utf-16")[:-1], "list.csv", "corrupt", "line 2 is no row"),
        ('path\n"a"b.png\n', "list.csv", "corrupt", "line 2 is no row"),
        (b"PK\x03\x04\0\0", "list.txt", "unsupported", "without --list"),
        (b"x" * 70_000, "list.txt", "unsupported", "line 1 is too long"),
        (b'path\n"' + b"a" * 200_000 + b'"\n', "list.csv", "corrupt", "no row of a CSV"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_what_to_do(
    films: Path, content: str | bytes, name: str, code: str, says: str
) -> None:
    uri = write(films, content, name)
    error = refusal("list", uri)
    assert error.code == code
    assert uri in str(error)
    assert says in str(error)


def test_a_list_that_is_a_folder_or_absent_is_refused(films: Path) -> None:
    assert "without --list" in str(refusal("list", str(films)))
    assert refusal("list", str(films / "gone.txt")).code == "not_found"


def test_a_list_given_without_saying_so_is_refused_with_how_to(films: Path) -> None:
    uri = write(films, "a.png\n")
    with pytest.raises(ArchiveError, match="--list"):
        archive.open_source(uri)


def test_a_list_changes_with_its_content(films: Path) -> None:
    uri = write(films, "a.png\n")
    with archive.open_source(uri, "list") as source:
        before = source.fingerprint()
    os.utime(uri, (0, 0))
    with archive.open_source(uri, "list") as source:
        assert source.fingerprint() == before
    write(films, "b.png\n")
    with archive.open_source(uri, "list") as source:
        assert source.fingerprint() != before


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_long_list_is_listed_in_little_memory(films: Path, name: str) -> None:
    uri = write(films, "path\n" + "".join(f"gone{n}.png\n" for n in range(30_000)), name)
    with archive.open_source(uri, "list") as source:
        tracemalloc.start()
        count = sum(1 for _ in source.members())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 30_000 + (name == "list.txt")  # where "path" is but a path
    assert peak < 500_000


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_what_a_long_list_names_is_kept_and_listed_in_little_memory(films: Path, name: str) -> None:
    uri = write(films, "path\n" + "".join(f"gone{n}.png\n" for n in range(30_000)), name)
    tracemalloc.start()
    with archive.open_source(uri, "list") as source:
        kept = source.listed()
    assert kept is not None
    with archive.open_source(uri, "list", listed=kept) as source:
        count = sum(1 for _ in source.members())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30_000 + (name == "list.txt")
    assert len(kept) < 120_000
    assert peak < 700_000


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", "a.png z.png"),
        ("**/*.png", "a.png w1/b.png w1/x/c.png w2/d.png z.png"),
        ("**", "a.png w1/b.png w1/x/c.png w1/x/e.jpg w2/d.png z.png"),
        ("w?/*", "w1/b.png w2/d.png"),
        ("w[!1]/*.png", "w2/d.png"),
        ("w1/**/*", "w1/b.png w1/x/c.png w1/x/e.jpg"),
        ("w1/**/x/*.jpg", "w1/x/e.jpg"),
        ("**/x/**/c.*", "w1/x/c.png"),
        ("[az].png", "a.png z.png"),
        ("./w*//b.png", "w1/b.png"),
    ],
)
def test_a_pattern_gives_the_files_that_it_matches(
    tmp_path: Path, pattern: str, expected: str
) -> None:
    names = ["a.png", "z.png", "w1/b.png", "w1/x/c.png", "w1/x/e.jpg", "w2/d.png"]
    films = as_folder(tmp_path / "films", {name: name.encode() for name in names})
    for uri in (f"{films}/{pattern}", pattern):
        with working_in(films):
            assert archive.is_pattern(uri)
            found = read("glob", uri)
    base = "w1/" if pattern.startswith("w1/") else ""
    assert [base + name for name, _ in found] == expected.split()
    assert [data for _, data in found] == expected.split()


def test_a_pattern_that_matches_only_what_is_skipped_says_so(tmp_path: Path) -> None:
    films = as_folder(tmp_path / "films", {".cache/1.png": b"", "#recycle/2.png": b""})
    error = refusal("glob", f"{films}/**/*.png")
    assert (error.code, "all that matches" in str(error)) == ("no_match", True)
    assert read("glob", f"{films}/.cache/*.png") == [("1.png", "")]


def test_a_pattern_counts_what_it_matches_and_passes_over(tmp_path: Path) -> None:
    films = as_folder(tmp_path / "films", {"a/1.png": b"", "a/._1.png": b"", "Thumbs.db": b""})
    (films / "loop").symlink_to(films)
    os.mkfifo(films / "pipe")
    assert read("glob", f"{films}/**") == [("a/1.png", "")]
    assert skipped("glob", f"{films}/**") == {
        "directory": 1,
        "linked_directory": 1,
        "macos_metadata": 1,
        "special_file": 1,
        "windows_metadata": 1,
    }


def test_a_linked_folder_is_entered_where_the_pattern_names_its_level(tmp_path: Path) -> None:
    films = as_folder(tmp_path / "films", {"1.png": b"1"})
    (films / "loop").symlink_to(films)
    assert read("glob", f"{films}/*/*.png") == [("loop/1.png", "1")]
    assert read("glob", f"{films}/**/*.png") == [("1.png", "1")]
    assert [n for n, _ in read("glob", f"{films}/**/l*/**/*.png")] == ["loop/1.png"]


@pytest.mark.parametrize(
    ("pattern", "code", "says"),
    [
        ("*.tif", "no_match", "no file matches this pattern"),
        ("w*", "no_match", "`**/*` takes in all that is below"),
        ("gone/*.png", "not_found", "no such file or folder"),
        ("*/../*.png", "unsupported", "cannot climb"),
        ("*" * 5_000, "unsupported", "a pattern of more than 4,096 bytes"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(
    tmp_path: Path, pattern: str, code: str, says: str
) -> None:
    films = as_folder(tmp_path / "films", {"w1/b.png": b""})
    error = refusal("glob", f"{films}/{pattern}")
    assert error.code == code
    assert says in str(error)


def test_an_archive_that_became_another_kind_was_changed(films: Path) -> None:
    with pytest.raises(ArchiveError, match=r"was changed: it is no longer a zip but a folder"):
        archive.open_source(str(films), "zip")
