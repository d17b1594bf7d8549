"""What a check of `pneumoq doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    #: `ok`, `warning` (it works, with a limit) or `problem` (it does not work).
    status: str
    found: str
    #: What to do; empty where nothing need be done.
    advice: str = ""


def ok(name: str, found: str, advice: str = "") -> Finding:
    """It is as it should be."""
    return Finding(name=name, status="ok", found=found, advice=advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """It works, with a limit."""
    return Finding(name=name, status="warning", found=found, advice=advice)


def problem(name: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name=name, status="problem", found=found, advice=advice)
