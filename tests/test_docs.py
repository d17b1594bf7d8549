"""README and docs/: what they name is there, and what is there is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from db.base import views
from tests.support import typed
from tests.support.paths import ROOT
from worker import config

#: The pages that people read, docker/README.md among them.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "docker" / "README.md"])

#: Those that speak of today only: a change log names what is gone too.
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

#: What is typed after `pneumoq`, at the beginning of a line or after variables set for it.
TYPED = re.compile(r"^(?:\$ )?(?:[A-Z_]+=(?:'[^']*'|\S+) )*pneumoq ([a-z].*)")


def _spans(text: str) -> list[str]:
    """What stands in single backticks, outside of fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def _anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each(TODAY)
def test_the_commands_and_options_that_are_typed_exist(page: Path) -> None:
    text = page.read_text()
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    for line in [*lines, *_spans(text)]:
        found = TYPED.match(line)
        # `pneumoq models` alone names a group.
        if found and "…" not in line:
            typed.check(found[1].replace("\\", "").split())


@each(TODAY)
def test_an_option_that_is_named_is_one_of_some_command(page: Path) -> None:
    options = {"--help"} | {
        option
        for _, command in typed.commands()
        for parameter in command.params
        for option in parameter.opts + parameter.secondary_opts
    }
    if page.is_relative_to(ROOT / "docs") or page == ROOT / "README.md":
        named = {span.split()[0].split("=")[0] for span in _spans(page.read_text())}
        assert {name for name in named if name.startswith("--")} <= options


def test_the_page_of_commands_has_every_command_and_no_other() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    named = set()
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        # `jobs ls` `show` names two commands of one group.
        first, *others = (span.split() for span in re.findall(r"`([^`]+)`", row))
        words = [word for word in first if word.islower() and word.isalpha()]
        named.add(" ".join(words))
        named |= {f"{words[0]} {other[0]}" for other in others}

    assert named == {name for name, _ in typed.commands()}


@each(TODAY)
def test_settings_views_and_targets_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    settings = {row["variable"] for row in config.describe(config.load({}))}
    settings |= {f"PNEUMOQ_{name.upper()}_FILE" for name in config.SECRETS}
    settings |= {f"PNEUMOQ_{name.upper()}" for name in config.PAYLOAD}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"\bPNEUMOQ_[A-Z_]+\b", text)) <= settings
    assert set(re.findall(r"\bv_[a-z_]+\b", text)) <= {view.name for view in views.VIEWS}
    assert {span.split()[1] for span in _spans(text) if span.startswith("make ")} <= targets
    made = re.findall(r"^make ([a-z-]+)", "\n".join(FENCE.findall(text)), re.MULTILINE)
    assert set(made) <= targets


def test_what_is_named_is_looked_for_at_all() -> None:
    texts = "\n".join(page.read_text() for page in PAGES)
    lines = [line for block in FENCE.findall(texts) for line in block.splitlines()]

    assert len([line for line in lines if TYPED.match(line)]) > 20
    assert len([span for span in _spans(texts) if span.startswith("--")]) > 20
    assert len(set(re.findall(r"\bv_[a-z_]+\b", texts))) > 10
    assert len(LINK.findall(texts)) > 40


@each(TODAY)
def test_files_and_modules_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    # What a reader makes, and what git therefore does not keep.
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    for span in _spans(text):
        if span.strip("/") not in made and re.fullmatch(
            r"(db|docker|docs|scheduler|tests|trainer|worker)/[\w./@-]*", span
        ):
            assert (ROOT / span).exists(), span
    for name in re.findall(r"(?<![\w./-])(?:db|scheduler|tests|trainer|worker)(?:\.\w+)+", text):
        module, (*parents, last) = ROOT.joinpath(*name.split(".")), name.split(".")
        if not (module.is_dir() or module.with_suffix(".py").exists()):
            inside = ROOT.joinpath(*parents)
            file = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
            assert file.exists() and re.search(rf"\b{last}\b", file.read_text()), name


@each(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in _anchors(target), link


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}

    assert set(PAGES) - {index} <= linked


def test_no_page_is_empty() -> None:
    for page in PAGES:
        lines = page.read_text().splitlines()
        assert lines[0].startswith("# "), page
        assert len([line for line in lines if line and not line.startswith("#")]) > 3, page


def test_the_readme_is_short_and_warns() -> None:
    text = (ROOT / "README.md").read_text()

    assert len(text.splitlines()) <= 150
    assert "Research software, not a medical device." in text


def test_pictures_are_small_and_shown() -> None:
    texts = "\n".join(page.read_text() for page in PAGES)
    pictures = [p for p in (ROOT / "docs").rglob("*") if p.is_file() and p.suffix != ".md"]

    assert pictures
    for picture in pictures:
        assert picture.name in texts
        assert picture.stat().st_size < 200_000
        with Image.open(picture) as image:
            image.load()
            assert image.format == "PNG"


def test_the_citation_is_a_valid_citation_file() -> None:
    pytest.importorskip("check_jsonschema")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_licence_is_what_the_project_states() -> None:
    licence = (ROOT / "LICENSE").read_text()

    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in licence
    assert '\nlicense = "Apache-2.0"\n' in (ROOT / "pyproject.toml").read_text()
    assert "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text()
