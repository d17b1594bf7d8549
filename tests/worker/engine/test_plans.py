"""Plans that are kept: found by what they are made of, built once, never loaded unverified."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.broken.disk import fill, small_disk
from tests.worker import samples
from tests.worker.engine.rtx import GPU
from tests.worker.engine.rtx import options as build_options
from trainer.errors import Stopped
from worker.engine import build as building
from worker.engine import plans, signed
from worker.engine.build import Built, Options
from worker.engine.flavour import Flavour
from worker.engine.plans import Plan
from worker.errors import EngineError
from worker.machine.gpu import Gpu

Obtain = Callable[..., Plan]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def obtain(rtx: Flavour, tiny_file: Path, home: Path) -> Obtain:
    """`plans.obtain` of the smallest network, with what is given in its stead."""

    def ask(
        onnx: Path = tiny_file, gpu: Gpu = GPU, options: Options | None = None, **other: Any
    ) -> Plan:
        options = options or build_options()
        return plans.obtain(other.pop("home", home), onnx, sha256(onnx), rtx, gpu, options, **other)

    return ask


def names(home: Path) -> list[str]:
    """What is in the folder, besides locks."""
    return sorted(
        path.name for path in (home / "engines").iterdir() if not path.name.endswith(".lock")
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return found


@contextmanager
def child(home: Path, network: Path, what: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the same plan, see `plan_child`; killed at the block's end."""
    folder.mkdir(exist_ok=True)
    arguments = (str(home), str(network), what, str(folder))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.worker.engine.plan_child", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_plan_is_built_once_and_then_kept(obtain: Obtain, home: Path) -> None:
    first = obtain()
    again = obtain()
    assert (first.built, again.built) == (True, False)
    assert again.data == first.data
    assert again.signature == first.signature
    assert again.seconds == pytest.approx(first.seconds, abs=1e-3)
    assert names(home) == sorted([f"{first.key}.plan", "key"])


@pytest.mark.parametrize("precision", building.PRECISIONS)
def test_plans_of_every_precision_are_kept(
    obtain: Obtain, files: dict[str, Path], precision: str
) -> None:
    options = build_options(precision)
    first = obtain(files[precision], options=options)
    assert first.built
    again = obtain(files[precision], options=options)
    assert not again.built
    assert again.data == first.data


def test_nobody_else_can_read_what_is_kept(obtain: Obtain, home: Path) -> None:
    home.mkdir()
    (home / "engines").mkdir(mode=0o755)
    plan = obtain()
    folder = home / "engines"
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "key", plan.path)}
    assert modes == {"engines": 0o700, "key": 0o600, plan.path.name: 0o600}


@pytest.mark.parametrize("damage", [
    "magic", "signature", "about", "first byte", "middle", "last byte", "longer", "empty", "head",
    "half", "all but one",
])  # fmt: skip
def test_a_damaged_plan_is_built_anew_and_the_log_says_so(
    obtain: Obtain, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    plan = obtain()
    whole = bytearray(plan.path.read_bytes())
    data = len(whole) - len(plan.data)
    flipped = {
        "magic": 3, "signature": len(signed.MAGIC) + 5, "about": len(signed.MAGIC) + 80,
        "first byte": data, "middle": data + len(plan.data) // 2, "last byte": len(whole) - 1,
    }  # fmt: skip
    cut = {"empty": 0, "head": data - 9, "half": len(whole) // 2, "all but one": len(whole) - 1}
    if damage in flipped:
        whole[flipped[damage]] ^= 1
    elif damage in cut:
        del whole[cut[damage] :]
    else:
        whole += b"x"
    plan.path.write_bytes(whole)
    again = obtain()
    assert again.built
    (warning,) = warnings(caplog)
    assert warning.startswith(f"engine {plan.path.name} is not loaded but built anew: it is ")
    assert not obtain().built


def test_the_plan_of_another_machine_is_built_anew(
    obtain: Obtain, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = obtain(home=tmp_path / "other")
    ours = obtain()
    assert theirs.key == ours.key
    shutil.copy(theirs.path, ours.path)
    assert obtain().built
    (warning,) = warnings(caplog)
    assert warning.endswith("it is damaged, or another machine built it")


def test_a_plan_of_ours_under_the_name_of_another_is_built_anew(
    obtain: Obtain, caplog: pytest.LogCaptureFixture
) -> None:
    plan, other = obtain(), obtain(options=build_options(max_batch=2))
    shutil.copy(other.path, plan.path)
    again = obtain()
    assert again.built
    (warning,) = warnings(caplog)
    assert warning.endswith("it was built of something else")


@pytest.mark.parametrize("harm", ["open to others", "cut short", "gone"])
def test_a_secret_that_is_none_is_made_anew_and_so_are_the_plans(
    obtain: Obtain, home: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    obtain()
    key = home / "engines" / "key"
    before = key.read_bytes()
    if harm == "open to others":
        key.chmod(0o644)
    elif harm == "cut short":
        key.write_bytes(before[:-1])
    else:
        key.unlink()
    assert obtain().built
    assert key.read_bytes() != before
    assert len(key.read_bytes()) == signed.SECRET_BYTES
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    said = warnings(caplog)
    assert len(said) == (1 if harm == "gone" else 2)
    assert not obtain().built


def test_the_secret_is_made_once_whoever_asks_at_the_same_time(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(signed.secret, [folder] * 32))
    assert found == {(folder / "key").read_bytes()}


def test_a_model_file_that_changed_since_it_was_hashed_is_refused(
    rtx: Flavour, tiny_file: Path, home: Path
) -> None:
    with pytest.raises(EngineError, match=r"tiny\.onnx has changed since it was fetched"):
        plans.obtain(home, tiny_file, "0" * 64, rtx, GPU, build_options())
    with pytest.raises(EngineError, match=r"gone\.onnx cannot be read: No such file"):
        plans.obtain(home, home / "gone.onnx", "0" * 64, rtx, GPU, build_options())


def test_a_home_in_which_nothing_can_be_kept_is_refused(obtain: Obtain, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"engines cannot be kept in .*: Not a directory; give"):
        obtain(home=tmp_path / "file")


def test_a_plan_for_which_there_is_no_room_serves_all_the_same(
    obtain: Obtain, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(8) as disk:
        first = obtain(home=disk)
        first.path.unlink()
        fill(disk)
        plan = obtain(home=disk)
        assert plan.built
        assert len(plan.data) > 1000
        (warning,) = warnings(caplog)
        assert "cannot be kept, and will be built anew: [Errno 28]" in warning
        assert [n for n in names(disk) if n != "key"] == []
        (disk / "ballast").unlink()
        assert obtain(home=disk).built
        assert not obtain(home=disk).built


def test_a_refused_build_leaves_nothing(rtx: Flavour, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot build"):
        plans.obtain(home, path, sha256(path), rtx, GPU, build_options())
    assert names(home) == ["key"]


def test_a_forgotten_plan_is_built_anew(obtain: Obtain) -> None:
    plan = obtain()
    plans.forget(obtain())
    assert not plan.path.exists()
    plans.forget(plan)  # another process may have been first
    assert obtain().built


def test_a_plan_that_was_built_since_is_not_forgotten(obtain: Obtain) -> None:
    before = obtain()
    plans.forget(before)
    newer = dataclasses.replace(before, signature="0" * 64)
    plan = obtain()
    plans.forget(newer)
    assert plan.path.exists()


def test_a_builder_that_is_killed_leaves_nothing_that_is_taken_for_a_plan(
    obtain: Obtain, tiny_file: Path, home: Path, tmp_path: Path
) -> None:
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        with child(home, tiny_file, "build", folder) as builder:
            samples.wait((folder / "building").exists, "the child's build")
            assert names(home) == ["key"]
        assert builder.returncode == -signal.SIGKILL
        assert plans.ls(home) == []
    plan = obtain()
    assert plan.built
    assert names(home) == sorted([plan.path.name, "key"])


def test_what_a_killed_builder_had_begun_to_write_is_removed_by_the_next(
    obtain: Obtain, tiny_file: Path, home: Path, tmp_path: Path
) -> None:
    with child(home, tiny_file, "write", tmp_path / "files") as builder:
        samples.wait((tmp_path / "files" / "writing").exists, "the child's writing")
    assert builder.returncode == -signal.SIGKILL
    (half,) = [name for name in names(home) if name != "key"]
    assert half.startswith(".")
    assert (home / "engines" / half).stat().st_size > 100
    assert plans.ls(home) == []
    plan = obtain()
    assert plan.built
    assert names(home) == sorted([plan.path.name, "key"])


def test_half_files_of_others_are_removed_when_they_are_old(obtain: Obtain, home: Path) -> None:
    obtain()
    old, new = (home / "engines" / name for name in (".old.plan.1f", ".new.plan.1f"))
    for path in (old, new):
        path.touch()
    os.utime(old, times=(time.time() - 7200, time.time() - 7200))
    obtain(options=build_options(max_batch=3))
    assert (old.exists(), new.exists()) == (False, True)


def test_two_processes_at_once_build_a_plan_once(
    tiny_file: Path, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    with child(home, tiny_file, "wait", folder) as first:
        samples.wait((folder / "building").exists, "the first child's build")
        with child(home, tiny_file, "plain", folder) as second:
            answers = [p.communicate(timeout=samples.PATIENCE_S)[0] for p in (first, second)]
    assert [answer.split()[0] for answer in answers] == ["built", "kept"]
    assert answers[0].split()[1] == answers[1].split()[1]


def test_threads_at_once_build_a_plan_once(obtain: Obtain) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [task.result() for task in [pool.submit(obtain) for _ in range(4)]]
    assert [plan.built for plan in found].count(True) == 1
    assert len({plan.signature for plan in found}) == 1


def test_who_waits_for_another_process_says_so_and_stops_when_told_to(
    obtain: Obtain, tiny_file: Path, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    said: list[tuple[str, int, int]] = []
    with child(home, tiny_file, "build", folder) as builder:
        samples.wait((folder / "building").exists, "the child's build")
        with pytest.raises(Stopped, match="stopped while another process built the engine"):
            obtain(report=lambda *now: said.append(now), stop=lambda: len(said) >= 2)
        assert said == [("another process is building it", 0, 0)] * 2
        # Its death is the end of its lock.
        threading.Timer(0.5, builder.kill).start()
        assert obtain().built


def test_a_build_that_is_stopped_can_be_asked_for_again(obtain: Obtain, home: Path) -> None:
    with pytest.raises(Stopped):
        obtain(stop=lambda: True)
    assert names(home) == ["key"]
    assert obtain().built


def key(
    flavour: tuple[str, str] = ("tensorrt", "10.3.0"),
    sha256: str = "a" * 64,
    options: Options | None = None,
    **gpu: Any,
) -> str:
    """The key of a plan, of a GPU that differs from GPU in `gpu`."""
    name, version = flavour
    return plans._key(
        plans._ingredients(
            sha256,
            Flavour(module=ModuleType(name), name=name, version=version),
            dataclasses.replace(GPU, **gpu),
            options or build_options(),
        )
    )


@pytest.mark.parametrize("changed", [
    {"sha256": "b" * 64},
    {"flavour": ("tensorrt_rtx", "10.3.0")},
    {"flavour": ("tensorrt", "10.3.1")},
    {"name": "NVIDIA GeForce RTX 4080"},
    {"compute_capability": (8, 6)},
])  # fmt: skip
def test_each_ingredient_changes_the_key(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Options)])
def test_each_option_changes_the_key(field: str) -> None:
    options = build_options()
    value = getattr(options, field)
    changed = dataclasses.replace(options, **{field: "fp16" if value == "fp32" else value + 1})
    assert key(options=changed) != key(options=options)


def test_the_recipe_and_the_platform_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {key()}
    monkeypatch.setattr(plans, "RECIPE", plans.RECIPE + 1)
    found.add(key())
    monkeypatch.setattr("platform.machine", lambda: "another")
    found.add(key())
    assert len(found) == 3


def test_the_board_of_an_integrated_gpu_changes_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "model"
    monkeypatch.setattr(plans, "_BOARD", board)
    found = {key(integrated=True)}  # no board says what it is
    for name in ("NVIDIA Jetson AGX Orin Developer Kit", "NVIDIA Jetson Orin Nano Developer Kit"):
        board.write_text(f"{name}\0")
        found.add(key(integrated=True))
        assert key() == key(integrated=False)
    assert len(found) == 3


def test_another_card_of_the_same_kind_has_the_same_key() -> None:
    other = {"index": 3, "uuid": "GPU-1", "memory_bytes": 1, "driver": "12.6"}
    assert key(**other) == key()


ingredients = st.fixed_dictionaries(
    {
        "sha256": st.sampled_from(["a" * 64, "b" * 64]),
        "flavour": st.tuples(st.sampled_from(["tensorrt", "tensorrt_rtx"]), st.text(max_size=3)),
        "name": st.text(max_size=3),
        "compute_capability": st.tuples(st.integers(7, 12), st.integers(0, 9)),
        "options": st.builds(
            build_options,
            st.sampled_from(building.PRECISIONS),
            max_batch=st.integers(1, 128),
            size=st.sampled_from([64, 224]),
        ),
    }
)


@given(ingredients, ingredients)
def test_what_differs_in_anything_has_another_key(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert key(**one) == key(**dict(one))
    assume(one != two)
    assert key(**one) != key(**two)


def test_kept_plans_are_listed_the_last_used_first_and_removed(
    obtain: Obtain, home: Path, tiny_file: Path, rtx: Flavour
) -> None:
    assert plans.ls(home) == []
    first, second = obtain(), obtain(options=build_options(max_batch=2))
    os.utime(first.path, times=(0, 0))
    assert [entry.key for entry in plans.ls(home)] == [second.key, first.key]
    os.utime(second.path, times=(1, 1))
    obtain()
    entry, other = plans.ls(home)
    assert entry == plans.Entry(
        path=first.path, key=first.key, sha256=sha256(tiny_file), flavour="tensorrt_rtx",
        version=rtx.version, gpu=GPU.name, precision="fp32", options=build_options().as_dict(),
        size_bytes=first.path.stat().st_size, seconds=round(first.seconds, 3),
        built_at=entry.built_at, used_at=entry.used_at,
    )  # fmt: skip
    assert time.time() - 60 < entry.built_at <= entry.used_at + 0.1
    plans.remove(other)
    plans.remove(other)
    assert [entry.key for entry in plans.ls(home)] == [first.key]
    assert not (home / "engines" / f"{second.key}.lock").exists()
    assert obtain(options=build_options(max_batch=2)).built


def test_a_damaged_plan_is_listed_too_so_that_it_can_be_removed(obtain: Obtain, home: Path) -> None:
    plan = obtain()
    for damage in (b"", b"nothing", signed.MAGIC + b"00\n[1]\n", signed.MAGIC + b"\xff\n{\n"):
        plan.path.write_bytes(damage)
        (entry,) = plans.ls(home)
        assert (entry.key, entry.sha256, entry.precision) == (plan.key, "", "")
    plans.remove(entry)
    assert plans.ls(home) == []


def test_timings_help_later_builds_on_the_same_gpu_and_no_others(
    obtain: Obtain, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorRT-RTX has none, so what is built is real and its timings are not.
    real, given = building.build, []

    def timed(*arguments: Any, timing: bytes | None, **named: Any) -> Built:
        given.append(timing)
        built = real(*arguments, **named)
        return dataclasses.replace(built, timing=b"timings %d" % len(given))

    monkeypatch.setattr(building, "build", timed)
    obtain()
    obtain(options=build_options(max_batch=2))
    obtain(gpu=dataclasses.replace(GPU, name="another"))
    (path,) = [p for p in (home / "engines").glob("*.timing") if b"timings 2" in p.read_bytes()]
    path.write_bytes(path.read_bytes()[:-1])
    obtain(options=build_options(max_batch=3))
    (warning,) = warnings(caplog)
    assert warning == (
        f"timings {path.name} are not used but measured anew: it is damaged, or another machine "
        "built it"
    )
    obtain(options=build_options(max_batch=4))
    assert given == [None, b"timings 1", None, None, b"timings 4"]
