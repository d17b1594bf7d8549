"""The systemd units: systemd itself reads them, and what they start is what this code starts."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.local import stack
from tests.support.paths import ROOT
from worker import app, config

UNITS = sorted((ROOT / "docker" / "systemd").glob("*.service"))

each = pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)


def service(file: Path) -> dict[str, str]:
    """The unit's [Service] section; of a key given several times, all values."""
    values: dict[str, str] = {}
    section = ""
    for line in re.sub(r"\\\n\s*", "", file.read_text()).splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values[key] = f"{values[key]} {value}" if key in values else value
    return values


def test_there_are_units_for_one_machine_and_for_several() -> None:
    assert [unit.stem for unit in UNITS] == ["pneumoq-beat", "pneumoq-worker@", "pneumoq"]


@each
def test_systemd_reads_it_without_a_word(file: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    # Where the environment of this test stands for the one of the unit.
    text = file.read_text().replace("/opt/pneumoq/bin/", f"{Path(sys.executable).parent}/")
    text = text.replace("User=pneumoq", "User=root").replace("Group=pneumoq", "Group=root")
    unit = tmp_path / file.name.replace("@.", "@score.")
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    # Units of this machine that it looks at too may be at fault.
    own = [line for line in done.stderr.splitlines() if unit.stem.partition("@")[0] in line]
    assert own == []


@each
def test_it_is_no_root_and_may_write_only_where_it_must(file: Path) -> None:
    unit = service(file)
    assert (unit["User"], unit["NoNewPrivileges"], unit["ProtectSystem"]) == (
        "pneumoq", "yes", "strict",
    )  # fmt: skip
    assert unit["StateDirectory"] == "pneumoq"
    # Of the lease of a GPU; without it scoring and training would not see each other's.
    assert unit["ReadWritePaths"] == "-/run/lock"


@each
def test_the_gpu_stays_visible(file: Path) -> None:
    hiding = {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MemoryDenyWriteExecute",
    }
    assert service(file).keys() & hiding == set()


def test_what_they_start_is_what_up_starts() -> None:
    settings = config.load({"PNEUMOQ_HOME": "/var/lib/pneumoq"})
    units = {file.stem: service(file)["ExecStart"].split() for file in UNITS}
    for queue in app.QUEUES:
        command = stack.command_of_worker(settings, queue)
        command[command.index("--hostname") + 1] = f"{queue}@%%h"
        worker = [word.replace("%i", queue) for word in units["pneumoq-worker@"]]
        assert worker == ["/opt/pneumoq/bin/celery", *command[3:]]
    beat = stack.command_of_beat(settings)
    assert units["pneumoq-beat"] == ["/opt/pneumoq/bin/celery", *beat[3:]]
    assert units["pneumoq"] == ["/opt/pneumoq/bin/pneumoq", "up"]


def test_the_example_of_settings_is_all_comments_and_real_settings(tmp_path: Path) -> None:
    lines = (UNITS[0].parent / "pneumoq.env").read_text().splitlines()
    assert all(line == "" or line.startswith("#") for line in lines)
    given = configparser.ConfigParser()
    given.optionxform = str  # type: ignore[assignment]
    given.read_string("[env]\n" + "\n".join(line[1:] for line in lines if line[:9] == "#PNEUMOQ_"))
    values = dict(given["env"])
    assert len(values) > 3
    for name in [name for name in values if name.endswith("_FILE")]:
        file = tmp_path / name
        scheme = {
            "HOOK_URL": "https",
            "DATABASE_URL": "postgresql",
            "READER_URL": "postgresql",
        }.get(name.removeprefix("PNEUMOQ_").removesuffix("_FILE"), "redis")
        file.write_text(f"{scheme}://server.example/0")
        values[name] = str(file)
    config.load(values)
