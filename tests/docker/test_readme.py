"""docker/README.md: its shell lines parse, and name what is there.

`tests/test_docs.py` looks at this page too, as at every other.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.typed import check
from worker import config

DOCKER = ROOT / "docker"
TEXT = (DOCKER / "README.md").read_text()
SNIPPETS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

#: Everything that a person or a program reads in docker/.
FILES = sorted(path for path in DOCKER.rglob("*") if path.is_file() and "secrets" not in path.parts)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_its_shell_lines_parse(number: int) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=SNIPPETS[number], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_shell_line_is_marked_as_such() -> None:
    assert len(SNIPPETS) > 10
    assert TEXT.count("```") == 2 * len(SNIPPETS)


def test_the_commands_that_it_names_exist() -> None:
    lines = "\n".join(SNIPPETS).replace("\\\n", " ").splitlines()
    typed = [
        match[1].split()
        for line in lines
        for match in re.finditer(
            r"(?:--rm control|(?<![/\w@-])(?<!-[gu] )pneumoq|/opt/pneumoq/bin/pneumoq) +([a-z].*)",
            line,
        )
        if not re.search("useradd|pg_|systemctl", line)
    ]
    assert len(typed) > 10
    for words in typed:
        check(words)


def test_the_files_that_it_names_are_there() -> None:
    for name in re.findall(r"docker/[\w.@/*-]+\.(?:service|env|yaml|sh|Dockerfile)", TEXT):
        assert list(ROOT.glob(name)), name
    for file in FILES:
        if file.suffix == ".Dockerfile" or file.suffix == ".service":
            assert file.stem.partition("@")[0] in TEXT


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_setting_that_is_named_exists(file: Path) -> None:
    known = {row["variable"] for row in config.describe(config.load({}))}
    known |= {f"PNEUMOQ_{name.upper()}_FILE" for name in config.SECRETS}
    assert set(re.findall(r"\bPNEUMOQ_[A-Z_]+\b", file.read_text())) <= known


@pytest.mark.parametrize("name", ["make-secrets.sh", "try-control.sh"])
def test_scripts_parse_and_can_be_run(name: str) -> None:
    file = DOCKER / name
    assert file.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", file], check=True)
