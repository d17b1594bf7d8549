"""The Dockerfiles: linted, pinned, of files that are there, and never root."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))

each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)


def instructions(file: Path) -> list[str]:
    """A Dockerfile's instructions, each as one line."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def arguments(file: Path) -> dict[str, str]:
    """Build arguments, with their defaults."""
    found = [line[4:].partition("=") for line in instructions(file) if line.startswith("ARG ")]
    return {name: default.strip('"') for name, _, default in found}


def test_there_is_an_image_for_each_kind_of_machine() -> None:
    assert [file.stem for file in DOCKERFILES] == ["control", "worker-jetson-jp6", "worker-x86"]


@each
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [hadolint, "--no-color", "--config", DOCKER / ".hadolint.yaml", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@each
def test_every_image_that_it_begins_from_is_pinned_to_a_version(file: Path) -> None:
    values = arguments(file)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", "\n".join(instructions(file)), re.MULTILINE)
    images = []
    for line in instructions(file):
        if line.startswith("FROM "):
            image = re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], line.split()[1])
            if image not in stages:
                images.append(image)
    assert images
    for image in images:
        assert re.fullmatch(
            r"(docker\.io|nvcr\.io)/[a-z0-9/-]+:[a-z]?\d+\.\d+\.\d+[a-z0-9.-]*", image
        )


@each
def test_no_index_is_named(file: Path) -> None:
    assert "://" not in file.read_text()
    assert all(not default for name, default in arguments(file).items() if name.endswith("_INDEX"))


@each
def test_it_copies_files_that_are_there_and_not_ignored(file: Path) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().split() if line[:1] != "#"]
    assert "*" in rules
    allowed = [line[1:] for line in rules if line.startswith("!")]
    copied = [
        name
        for line in instructions(file)
        if line.startswith("COPY ") and "--from=" not in line
        for name in line.split()[1:-1]
    ]
    assert {"db", "scheduler", "trainer", "worker", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert any(fnmatch(name, rule) for rule in allowed), f"{name} is ignored"


def test_nothing_enters_an_image_that_no_dockerfile_copies() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    copied = {
        name
        for file in DOCKERFILES
        for line in instructions(file)
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    }
    assert {rule[1:] for rule in rules if rule.startswith("!")} <= copied


@each
def test_a_change_of_the_code_installs_no_library_anew(file: Path) -> None:
    lines = instructions(file)
    code = lines.index("COPY worker worker")
    libraries = [n for n, line in enumerate(lines) if "-c constraints.txt" in line]
    assert libraries
    assert max(libraries) < code


@each
def test_it_runs_as_a_numbered_user_that_is_not_root(file: Path) -> None:
    lines = instructions(file)
    last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert users == ["10001:10001"]
    assert f"useradd --uid {users[0].split(':')[0]} " in "".join(last_stage)
    after = last_stage[last_stage.index(f"USER {users[0]}") :]
    assert not [line for line in after if line.startswith(("RUN", "COPY"))]


@each
def test_it_says_whether_it_is_healthy_and_ends_on_a_signal(file: Path) -> None:
    lines = instructions(file)
    health = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert len(health) == 1
    assert 'CMD ["python", "/opt/pneumoq/healthy.py"]' in health[0]
    assert 'ENTRYPOINT ["tini", "--"]' in lines
    assert lines[-1].startswith("CMD [")


@each
def test_apt_brings_only_what_is_asked_for_and_leaves_no_lists(file: Path) -> None:
    runs = [line for line in instructions(file) if "apt-get install" in line]
    assert runs
    for line in runs:
        assert "--no-install-recommends" in line
        assert "rm -rf /var/lib/apt/lists/*" in line


def test_a_jetson_has_jetpacks_tensorrt_and_no_other() -> None:
    text = "".join(instructions(DOCKER / "worker-jetson-jp6.Dockerfile"))
    assert arguments(DOCKER / "worker-jetson-jp6.Dockerfile")["BASE"] == (
        "nvcr.io/nvidia/l4t-jetpack:r36.4.0"
    )
    assert "venv --system-site-packages" in text
    installed = "".join(re.findall(r"pip install[^;&]*", text))
    assert "pycuda" in installed
    assert "tensorrt" not in installed
    assert "python3-libnvinfer" in text


def test_pycuda_is_compiled_in_a_version_that_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^pycuda==", pins, re.MULTILINE)
    for file in DOCKERFILES:
        if file.stem.startswith("worker-"):
            text = "".join(instructions(file))
            assert "pip install -c constraints.txt --no-build-isolation pycuda" in text
            # It finds CUDA, and links its stub of the driver, beside the nvcc in the path.
            assert "/usr/local/cuda/bin:$PATH" in text


def test_the_flavour_for_rtx_cards_is_the_one_that_is_tested() -> None:
    (named,) = re.findall(r"tensorrt-rtx==[0-9.]+", (DOCKER / "worker-x86.Dockerfile").read_text())
    assert named in re.split(r"[\n ]", (ROOT / "constraints.txt").read_text())


def test_images_carry_the_version_of_what_is_in_them() -> None:
    version = metadata.version("pneumoq")
    for file in [*DOCKERFILES, DOCKER / "compose.yaml"]:
        named = re.findall(r"pneumoq/(?:control|worker-[a-z0-9-]+):(\S+)", file.read_text())
        assert named
        assert set(named) == {version}
