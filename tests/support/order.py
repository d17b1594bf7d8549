"""In which order tests run, and which of the soak's tests are in which part: by recorded durations.

`tests/data/durations.json` holds, for `make test` and for `make soak`, the seconds of each long
test and of each file's short ones together, and how many processes ran them at once. `make test
ARGS=--record-durations` and `make soak ARGS=--record-durations` write it anew.

Run as a program it prints how many parts the soak has, or which of them goes with a commit:
`python -m tests.support.order HASH`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tests.support.paths import ROOT

FILE = ROOT / "tests" / "data" / "durations.json"

#: A test that takes longer itself, in seconds, is recorded by its name and need not run with its
#: file. What was set up for it does not count: the file's other tests use that as well.
LONG_S = 5.0

#: What a file that is not recorded takes, in seconds: more than most, so that it begins early.
UNKNOWN_S = 10.0

#: What a part of the soak may take, in seconds, on a machine like the one that was measured.
PART_S = 480.0

#: So much of it is planned for: set-up, an uneven end, a slower day.
PLANNED = 0.7


def recorded(run: str) -> dict[str, Any]:
    """`processes` and `seconds` (by file or test) of `make test` ("test") or of the soak."""
    if not FILE.exists():
        return {"processes": 1, "seconds": {}}
    found: dict[str, Any] = json.loads(FILE.read_text()).get(run, {})
    return {"processes": 1, "seconds": {}} | found


def plain(nodeid: str) -> str:
    """A test's name without the group that xdist appends."""
    at = nodeid.rfind("@")
    return nodeid[:at] if at > nodeid.rfind("]") else nodeid


def group(item: pytest.Item, seconds: Mapping[str, float]) -> str:
    """What must run in one process: what the test's marker says, else its file without the long.

    A long test stays with its file where it uses a fixture of the module: apart it would have that
    made for itself alone.
    """
    marker = item.get_closest_marker("xdist_group")
    if marker is not None:
        return str(marker.args[0])
    name = plain(item.nodeid)
    file = name.partition("::")[0]
    if seconds.get(name, 0.0) < LONG_S or _of_module(item):
        return file
    # Behind a bracket xdist takes no group for one.
    return name.replace("[", "(").replace("]", ")")


def _of_module(item: pytest.Item) -> bool:
    """Whether a test uses what is made once for its file."""
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return any(made.scope == "module" for every in known.values() for made in every)


def longest_first(items: Sequence[pytest.Item], run: str) -> list[pytest.Item]:
    """The tests, each marked with its group, those groups first that take longest."""
    groups = grouped(items, recorded(run)["seconds"])
    return [item for name in ordered(groups) for item in groups[name][1]]


def ordered(groups: Mapping[str, tuple[float, list[pytest.Item]]]) -> list[str]:
    """The groups' names, longest first; the same in every process."""
    return sorted(groups, key=lambda name: (-groups[name][0], name))


def grouped(
    items: Iterable[pytest.Item], seconds: Mapping[str, float]
) -> dict[str, tuple[float, list[pytest.Item]]]:
    """Group → its seconds and its tests; each test is marked for xdist."""
    members: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        name = group(item, seconds)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(name))
        members[name].append(item)
    return {name: (_seconds(tests, seconds), tests) for name, tests in members.items()}


def _seconds(items: Sequence[pytest.Item], seconds: Mapping[str, float]) -> float:
    names = {plain(item.nodeid) for item in items}
    files = {name.partition("::")[0] for name in names if name not in seconds}
    # Exact, so that it is the same in every process: a set has another order in each.
    return math.fsum(
        [seconds[name] for name in names if name in seconds]
        + [seconds.get(file, UNKNOWN_S) for file in files]
    )


def parts() -> int:
    """Into how many parts the soak is cut."""
    soak = recorded("soak")
    total = sum(soak["seconds"].values()) / soak["processes"]
    return max(1, math.ceil(total / (PLANNED * PART_S)))


def part(items: Sequence[pytest.Item], number: int) -> list[pytest.Item]:
    """The tests of one part of the soak, 1 to `parts()`; each test is in one of them.

    The longest group left goes to the part that has least to do.
    """
    if not 1 <= number <= parts():
        raise pytest.UsageError(f"the soak has the parts 1 to {parts()}")
    groups = grouped(items, recorded("soak")["seconds"])
    loads = [0.0] * parts()
    chosen: list[pytest.Item] = []
    for name in ordered(groups):
        least = min(range(len(loads)), key=loads.__getitem__)
        loads[least] += groups[name][0]
        if least == number - 1:
            chosen += groups[name][1]
    return chosen


def record(run: str, processes: int, reports: Iterable[tuple[str, str, float]]) -> None:
    """Write what tests took: `reports` are each one's name, phase (`call` or other) and seconds."""
    whole: dict[str, float] = defaultdict(float)
    itself: dict[str, float] = defaultdict(float)
    for nodeid, phase, took in reports:
        whole[plain(nodeid)] += took
        itself[plain(nodeid)] += took if phase == "call" else 0.0
    seconds: dict[str, float] = defaultdict(float)
    for name, took in whole.items():
        seconds[name if itself[name] >= LONG_S else name.partition("::")[0]] += took
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[run] = {
        "processes": processes,
        "seconds": {name: round(seconds[name], 1) for name in sorted(seconds)},
    }
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def of_commit(commit: str) -> int:
    """Which part goes with a commit's hash."""
    return int(commit[:8], 16) % parts() + 1


if __name__ == "__main__":
    print(of_commit(sys.argv[1]) if len(sys.argv) > 1 else parts())
