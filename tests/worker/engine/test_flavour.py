"""Which TensorRT is here, and what becomes of what it says."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from worker.engine import flavour as flavours
from worker.engine.flavour import Flavour
from worker.errors import EngineError


def test_what_tensorrt_logs_is_logged_and_its_errors_are_kept(
    rtx: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    messages, trt = rtx.messages, rtx.module
    assert rtx.messages is messages  # TensorRT keeps the first that it is given
    with caplog.at_level(logging.DEBUG, "worker.engine.flavour"), messages.errors() as errors:
        with messages.errors() as inner:
            messages.log(trt.ILogger.ERROR, "first\n  line")
        messages.log(trt.ILogger.INTERNAL_ERROR, "second")
        messages.log(trt.ILogger.WARNING, "third")
        messages.log(trt.ILogger.INFO, "fourth")
        messages.log(trt.ILogger.VERBOSE, "fifth")
    messages.log(trt.ILogger.ERROR, "sixth")
    assert list(errors) == ["first line", "second"]
    assert list(inner) == ["first line"]
    levels = [(r.levelname, r.getMessage()) for r in caplog.records][:4]
    assert levels == [
        ("WARNING", "TensorRT: first line"),
        ("WARNING", "TensorRT: second"),
        ("INFO", "TensorRT: third"),
        ("DEBUG", "TensorRT: fourth"),
    ]


def test_which_tensorrt_is_here_is_told_without_importing_it() -> None:
    script = (
        "import sys; from worker.engine import flavour, build, plans;"
        "print(*(flavour.available() or ()));"
        "assert not {'tensorrt', 'tensorrt_rtx', 'pycuda', 'onnx', 'torch'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = flavours.available()
    assert ran.stdout.split() == list(found or ())
    if found is not None:
        flavour = flavours.load()
        assert found == (flavour.name, flavour.version)


def package(folder: Path, text: str) -> None:
    """A package named tensorrt, as a system's package manager leaves it: without metadata."""
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(text)


def nothing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make packages impossible to import."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which is imported first."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    return tmp_path


def test_jetpacks_own_tensorrt_is_found_and_comes_first(path: Path) -> None:
    package(path, '__version__ = "10.3.0"\n')
    assert flavours.available() == ("tensorrt", "10.3.0")
    assert "tensorrt" not in sys.modules
    flavour = flavours.load()
    del sys.modules["tensorrt"]
    assert (flavour.name, flavour.version) == ("tensorrt", "10.3.0")


def test_the_preferred_flavour_comes_first_and_the_other_serves_where_it_is_missing(
    path: Path, rtx: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(path, '__version__ = "10.3.0"\n')
    assert flavours.load("tensorrt_rtx").name == "tensorrt_rtx"
    nothing(monkeypatch, "tensorrt_rtx")
    assert flavours.load("tensorrt_rtx").name == "tensorrt"
    del sys.modules["tensorrt"]


def test_a_tensorrt_that_is_too_old_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(path, '__version__ = "8.5.2.2"\n')
    nothing(monkeypatch, "tensorrt_rtx")
    assert flavours.available() is None
    with pytest.raises(EngineError, match=r"tensorrt: 8\.5\.2\.2 is older than 10\.3"):
        flavours.load()
    del sys.modules["tensorrt"]


def test_a_tensorrt_whose_libraries_are_missing_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(path, "raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    nothing(monkeypatch, "tensorrt_rtx")
    with pytest.raises(EngineError) as refusal:
        flavours.load()
    assert str(refusal.value) == (
        "TensorRT cannot be loaded (tensorrt: libnvinfer.so.10: cannot open shared object file; "
        "tensorrt_rtx: import of tensorrt_rtx halted; None in sys.modules); on a Jetson make the "
        "virtual environment with --system-site-packages, which shows it JetPack's; elsewhere: "
        "pip install tensorrt, or tensorrt-rtx for an RTX card"
    )


def test_no_tensorrt_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing(monkeypatch, *flavours.NAMES)
    assert flavours.available() is None
    with pytest.raises(EngineError, match="pip install tensorrt"):
        flavours.load()
