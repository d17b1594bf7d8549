"""What an installation brings may be passed on: the licences of every library at run time.

The libraries are those that the project and its extras `train` and `postgres` need, with what those
need, as they are installed here. Their metadata says under which licence they are; which words mean
what is written down below, and what is not written down fails.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

#: Extras whose libraries are looked at; those of `dev` are passed on by nobody.
EXTRAS = ("postgres", "train")

#: Libraries that are used although their licence alone would fail, and why.
EXCEPTIONS = {
    "cuda-toolkit": "states no licence and has no code: it only names NVIDIA's libraries",
}


class Kind(enum.IntEnum):
    """What follows from a licence; of several that hold together, the greatest."""

    FREE = 0
    #: May be used; NOTICE names the library.
    NAMED = 1
    UNKNOWN = 2
    #: Would bind whoever passes on an image to the same licence for the whole of it.
    FORBIDDEN = 3


WORDS = {
    Kind.FORBIDDEN: r"\bAGPL|Affero|\bGPL|(?<!Lesser )(?<!Library )General Public License",
    Kind.NAMED: r"\bLGPL|(?:Lesser|Library) General Public License|\bMPL|Mozilla|Proprietary",
    Kind.FREE: r"\bMIT\b|0?BSD\b|Apache|\bISC\b|\bPSF\b|\bZlib\b|\bCC0\b|\bBSL-1\.0"
    # The texts of MIT and BSD do not say their names.
    r"|Permission is hereby granted, free of charge|Redistribution and use in source and binary",
}


def of_words(text: str) -> Kind | None:
    """What one or several names of licences mean; None where they mean nothing known."""
    return max((k for k, words in WORDS.items() if re.search(words, text, re.I)), default=None)


def of_text(text: str) -> Kind | None:
    """What the text of a licence is: whatever it names first, for it may go on to name others."""
    found = [(m.start(), k) for k, words in WORDS.items() if (m := re.search(words, text, re.I))]
    return min(found, default=(0, None))[1]


def of_expression(expression: str) -> Kind:
    """What an SPDX expression asks for; of a choice, the least."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)

    def either() -> Kind:
        kind = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            kind = min(kind, both())
        return kind

    def both() -> Kind:
        kind = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            kind = max(kind, one())
        return kind

    def one() -> Kind:
        token = tokens.pop(0)
        if token == "(":
            kind = either()
            assert tokens.pop(0) == ")"
            return kind
        if tokens and tokens[0] == "WITH":  # an exception from a licence does not change its kind
            del tokens[:2]
        known = of_words(token)
        return Kind.UNKNOWN if known is None else known

    kind = either()
    assert not tokens, expression
    return kind


def kind_of(library: metadata.Distribution) -> Kind:
    """By the library's SPDX expression; else by all that its metadata says; else by its files."""
    said = library.metadata
    expression = said.get("License-Expression")
    if expression:
        return of_expression(expression)
    field = said.get("License") or ""
    kinds = [of_text(field) if "\n" in field else of_words(field)]
    for classifier in said.get_all("Classifier") or ():
        if classifier.startswith("License :: "):
            kinds.append(of_words(classifier))
    if not any(kind is not None for kind in kinds):
        for file in library.files or ():
            if ".dist-info" in str(file) and re.match(r"licen[cs]e|copying", file.name, re.I):
                kinds.append(of_text(file.read_text()))
    return max((kind for kind in kinds if kind is not None), default=Kind.UNKNOWN)


Find = Callable[[str], metadata.Distribution]


def needed(name: str, extras: Iterable[str], find: Find) -> Iterator[metadata.Distribution]:
    """The libraries that a project needs with some extras, and what those need; not itself."""
    looked_at: set[tuple[str, str]] = set()
    found: dict[str, metadata.Distribution] = {}
    due = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while due:
        one = due.pop()
        if one in looked_at:
            continue
        looked_at.add(one)
        library, extra = one
        found.setdefault(library, find(library))
        for line in found[library].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                due += [(canonicalize_name(wanted.name), e) for e in ("", *wanted.extras)]
    del found[canonicalize_name(name)]
    yield from (found[library] for library in sorted(found))


def faults(libraries: Iterable[metadata.Distribution], notice: str) -> list[str]:
    """What is wrong with the licences of the libraries, beside what a NOTICE says of them."""
    named = set(notice.split())
    wrong = []
    for library in libraries:
        name, kind = canonicalize_name(library.name), kind_of(library)
        if kind is Kind.UNKNOWN and name not in EXCEPTIONS:
            wrong.append(f"{name}: its licence is unknown")
        elif kind is Kind.FORBIDDEN and name not in EXCEPTIONS:
            wrong.append(f"{name}: GPL or AGPL")
        elif kind is not Kind.FREE and not any(fnmatch(name, word) for word in named):
            wrong.append(f"{name}: not named in NOTICE")
    return wrong


def test_every_library_at_run_time_may_be_passed_on() -> None:
    libraries = list(needed("pneumoq", EXTRAS, metadata.distribution))

    names = {canonicalize_name(library.name) for library in libraries}
    assert {"celery", "torch", "psycopg-binary", "markupsafe"} <= names, (
        "the whole tree, extras too"
    )
    assert names.isdisjoint({"pytest", "pneumoq"})
    assert faults(libraries, (ROOT / "NOTICE").read_text()) == []


def test_no_exception_outlives_its_reason() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}

    assert EXCEPTIONS.keys() <= pinned
    for library in needed("pneumoq", EXTRAS, metadata.distribution):
        if canonicalize_name(library.name) in EXCEPTIONS:
            assert kind_of(library) in (Kind.UNKNOWN, Kind.FORBIDDEN), library.name


def test_the_notice_names_what_only_the_tests_bring_under_the_mozilla_licence() -> None:
    certifi = metadata.distribution("certifi")

    assert kind_of(certifi) is Kind.NAMED
    assert faults([certifi], (ROOT / "NOTICE").read_text()) == []
    assert faults([certifi], "") == ["certifi: not named in NOTICE"]


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ("License-Expression: MIT", Kind.FREE),
        ("License-Expression: MIT-CMU", Kind.FREE),
        ("License-Expression: BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", Kind.FREE),
        ("License-Expression: Apache-2.0 WITH LLVM-exception AND BSL-1.0", Kind.FREE),
        ("License-Expression: LGPL-3.0-only", Kind.NAMED),
        ("License-Expression: MPL-2.0 AND MIT", Kind.NAMED),
        ("License-Expression: LicenseRef-NVIDIA-Proprietary", Kind.NAMED),
        ("License-Expression: GPL-3.0-or-later OR MIT", Kind.FREE),
        ("License-Expression: MIT AND (GPL-2.0-only OR LGPL-2.1-only)", Kind.NAMED),
        ("License-Expression: MIT AND GPL-2.0-only", Kind.FORBIDDEN),
        ("License-Expression: (MIT OR BSD-2-Clause) AND GPL-2.0-only", Kind.FORBIDDEN),
        ("License-Expression: GPL-2.0-only WITH Classpath-exception-2.0", Kind.FORBIDDEN),
        ("License-Expression: AGPL-3.0-only", Kind.FORBIDDEN),
        ("License-Expression: SSPL-1.0", Kind.UNKNOWN),
        ("License-Expression: MIT AND BUSL-1.1", Kind.UNKNOWN),
        ("License: New BSD", Kind.FREE),
        ("License: 3-Clause BSD License", Kind.FREE),
        ("License: GPL V3.0", Kind.FORBIDDEN),
        ("License: GNU GPLv2", Kind.FORBIDDEN),
        ("License: GNU Library General Public License", Kind.NAMED),
        ("License: Free for everybody", Kind.UNKNOWN),
        ("License: UNKNOWN", Kind.UNKNOWN),
        ("", Kind.UNKNOWN),
        ("License: MIT\nClassifier: License :: OSI Approved", Kind.FREE),
        (
            "License: MIT License\n        Permission is hereby granted, free of charge, …\n"
            "        The GPL is another licence.",
            Kind.FREE,
        ),
        (
            "License: Dual License\nClassifier: License :: OSI Approved :: BSD License\n"
            "Classifier: License :: OSI Approved :: Apache Software License",
            Kind.FREE,
        ),
        (
            "License: MIT\n"
            "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            Kind.FORBIDDEN,
        ),
        (
            "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
            Kind.FORBIDDEN,
        ),
        (
            "Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)",
            Kind.NAMED,
        ),
        (
            "Classifier: License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",
            Kind.NAMED,
        ),
        ("License: Apache 2.0\nClassifier: License :: Other/Proprietary License", Kind.NAMED),
    ],
)
def test_metadata_tells_the_kind_of_a_licence(stated: str, kind: Kind, tmp_path: Path) -> None:
    assert kind_of(_made_up(tmp_path, "library", stated)) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Copyright X\n\nRedistribution and use in source and binary forms, with …", Kind.FREE),
        ("Copyright X\n\nPermission is hereby granted, free of charge, to any …", Kind.FREE),
        ("        GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", Kind.FORBIDDEN),
        (
            "GNU LESSER GENERAL PUBLIC LICENSE\n\nThis version incorporates the terms of version 3 "
            "of the GNU General Public License",
            Kind.NAMED,
        ),
        ("Do with it what you like.", Kind.UNKNOWN),
    ],
)
def test_where_metadata_says_nothing_the_licence_file_does(
    text: str, kind: Kind, tmp_path: Path
) -> None:
    assert kind_of(_made_up(tmp_path, "library", "License: See the file", text)) is kind
    assert kind_of(_made_up(tmp_path, "another", "License: GPL", text)) is Kind.FORBIDDEN


def test_faults_are_found_anywhere_in_the_tree(tmp_path: Path) -> None:
    for name, stated in {
        "project": "Requires-Dist: middle\nRequires-Dist: unwanted; extra == 'dev'\n"
        "Requires-Dist: wanted[fast]; extra == 'train'",
        "middle": "License: MIT\nRequires-Dist: deep\nRequires-Dist: no; sys_platform == 'amiga'",
        "deep": "License: GPLv3\nRequires-Dist: middle",
        "wanted": "License: BSD\nRequires-Dist: quick; extra == 'fast'\nRequires-Dist: Weak_Link",
        "quick": "License: whatever",
        "weak-link": "License-Expression: LGPL-3.0-only",
        "unwanted": "License: AGPL",
    }.items():
        _made_up(tmp_path, name, stated)

    libraries = list(needed("project", ["train"], lambda name: _found(tmp_path, name)))

    tree = ["deep", "middle", "quick", "wanted", "weak-link"]
    assert [library.name for library in libraries] == tree
    assert faults(libraries, "deep middle") == [
        "deep: GPL or AGPL",
        "quick: its licence is unknown",
        "weak-link: not named in NOTICE",
    ]
    assert faults(libraries, "  weak-*  LGPL") == faults(libraries, "weak-link")
    assert len(faults(libraries, "weak-link")) == 2


def test_an_exception_must_be_named_too(tmp_path: Path) -> None:
    library = _made_up(tmp_path, "cuda-toolkit", "Summary: no more than names")

    assert faults([library], "") == ["cuda-toolkit: not named in NOTICE"]
    assert faults([library], "cuda-toolkit  NVIDIA proprietary") == []


def test_no_required_library_is_under_the_gpl() -> None:
    required = [library.name for library in needed("pneumoq", EXTRAS, metadata.distribution)]
    assert "pylibjpeg-libjpeg" not in required
    assert not any("GPL" in why for why in EXCEPTIONS.values())


def test_a_library_that_is_not_installed_is_not_passed_over(tmp_path: Path) -> None:
    _made_up(tmp_path, "project", "Requires-Dist: absent")

    with pytest.raises(metadata.PackageNotFoundError):
        list(needed("project", [], lambda name: _found(tmp_path, name)))


def _found(folder: Path, name: str) -> metadata.Distribution:
    for library in metadata.distributions(name=name, path=[str(folder)]):
        return library
    raise metadata.PackageNotFoundError(name)


def _made_up(folder: Path, name: str, stated: str, text: str = "") -> metadata.Distribution:
    """A library as it looks when installed: its metadata and, where there is one, its licence."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", stated]).strip() + "\n"
    )
    if text:
        (info / "licenses" / "LICENSE").write_text(text)
        (info / "RECORD").write_text(f"{info.name}/licenses/LICENSE,,\n")
    return _found(folder, name)
