"""This machine, as `pneumoq doctor` sees it: software, processor and disk.

Each check is a function that returns what it found; nothing heavy is imported and nothing is made.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from scheduler.checks.finding import Finding, ok, problem, warning
from worker import config
from worker.config import Settings
from worker.decoding import jail
from worker.machine import landlock

#: Less free disk than this is a problem, and a warning, in GiB.
DISK_PROBLEM_GIB, DISK_WARNING_GIB = 1, 10
#: The oldest SQLite whose SQL the schema keeps to; JetPack 6 has it.
SQLITE_OLDEST = (3, 37, 0)
#: What each extra brings, by distribution.
EXTRAS = {
    "train": (("torch", "torchvision"), "this machine cannot train"),
    "postgres": (("psycopg",), "this machine cannot use PostgreSQL"),
}
#: What decodes DICOM, by distribution, and which transfer syntaxes.
DICOM = {
    "pydicom": "uncompressed",
    "pylibjpeg-rle": "RLE",
    "pillow": "JPEG",
    "python-gdcm": "JPEG lossless and of 12 bits",
    "pyjpegls": "JPEG-LS",
    "pylibjpeg-openjpeg": "JPEG 2000",
}
#: Instructions that make a precision faster than fp32; one of them is enough.
FAST = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
}
#: Instructions that the CPU engine computes int8 and bf16 with.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
                "asimddp", "i8mm", "bf16")  # fmt: skip


def python() -> Finding:
    """The interpreter and the operating system."""
    return ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def libraries() -> Iterator[Finding]:
    """What PneumoQ requires, and whether it is installed; versions come from metadata only."""
    try:
        own = importlib.metadata.distribution("pneumoq")
    except importlib.metadata.PackageNotFoundError:
        yield problem("pneumoq", "not installed", "pip install pneumoq")
        return
    yield ok("pneumoq", own.version)
    found, absent = [], []
    for requirement in own.requires or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]
        version = version_of(name)
        if version is None:
            absent.append(name)
        else:
            found.append(f"{name} {version}")
    yield ok("libraries", ", ".join(found))
    if absent:
        yield problem("libraries", f"{', '.join(absent)} missing", "pip install pneumoq again")
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        yield problem(
            "sqlite", sqlite3.sqlite_version, f"PneumoQ needs {oldest}; use a newer Python build"
        )
    else:
        yield ok("sqlite", sqlite3.sqlite_version)


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, which is not imported."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def extras(settings: Settings) -> Iterator[Finding]:
    """Optional parts: what is installed, and what this machine cannot do without the rest."""
    for extra, (distributions, without) in EXTRAS.items():
        versions = {name: version_of(name) for name in distributions}
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        absent = [name for name, version in versions.items() if version is None]
        name = f"extra {extra}"
        if not absent:
            yield ok(name, found)
            continue
        advice = f"{without}; if it should: pip install 'pneumoq[{extra}]'"
        if extra == "postgres" and settings.database_url.startswith("postgres"):
            yield problem(name, "not installed", f"pip install 'pneumoq[{extra}]'")
        elif found:
            yield warning(name, f"{found}, but not {', '.join(absent)}", advice)
        else:
            yield ok(name, "not installed", advice)


def dicom() -> Finding:
    """Whether every transfer syntax that chest films come in can be decoded."""
    versions = {name: version_of(name) for name in DICOM}
    absent = [DICOM[name] for name, version in versions.items() if version is None]
    if absent:
        return problem(
            "dicom",
            f"no decoder of {', '.join(absent)}",
            "install PneumoQ anew: pip install pneumoq",
        )
    return ok("dicom", f"read with pydicom {versions['pydicom']}: {', '.join(DICOM.values())}")


def cpu() -> Iterator[Finding]:
    """The processor, and the precisions that it has instructions for."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        yield ok("cpu", platform.processor() or platform.machine())
        return
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    features = [feature for feature in CPU_FEATURES if feature in flags]
    using = f", with {', '.join(features)}" if features else ""
    yield ok("cpu", f"{model[1] if model else platform.machine()}{using}")
    fast = [precision for precision, needs in FAST.items() if flags.intersection(needs)]
    slow = [precision for precision in FAST if precision not in fast]
    yield ok(
        "precisions",
        f"fast here: {', '.join(['fp32', *fast])}",
        f"{' and '.join(slow)} would gain little on this processor" if slow else "",
    )


def decoders() -> Finding:
    """Whether this kernel can keep decoders from all that a film could make them do."""
    lacking = jail.lacking()
    if not lacking:
        return ok("decoders", f"locked up by seccomp and Landlock (ABI {landlock.abi()})")
    return warning(
        "decoders",
        "; ".join(lacking),
        "use Linux 5.13 or newer with CONFIG_SECCOMP_FILTER and with landlock among `lsm=`, and a "
        "container runtime that lets its calls through",
    )


def disk(settings: Settings) -> Finding:
    """Free space where PneumoQ keeps its files."""
    folder = nearest(settings.home)
    free_gib = shutil.disk_usage(folder).free / 2**30
    found = f"{free_gib:,.1f} GiB free in {folder}"
    advice = f"free some, or move {config.PREFIX}HOME"
    if free_gib < DISK_PROBLEM_GIB:
        return problem("disk", found, advice)
    if free_gib < DISK_WARNING_GIB:
        return warning("disk", found, advice)
    return ok("disk", found)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
