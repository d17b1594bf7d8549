"""Keyed hashes: equal under one key, unlike under another, and made once for a home."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker import config
from worker.errors import ConfigError
from worker.machine import privacy
from worker.machine.privacy import Privacy


def test_equal_values_have_equal_hashes_under_one_key_only() -> None:
    one, other = Privacy(b"the key of one site"), Privacy(b"the key of another")
    assert one.hash("study", "1.2.3") == Privacy(b"the key of one site").hash("study", "1.2.3")
    assert one.hash("study", "1.2.3") != other.hash("study", "1.2.3")
    assert len(one.hash("study", "1.2.3")) == 32


def test_the_same_text_as_a_patient_and_as_a_study_cannot_be_connected() -> None:
    site = Privacy(b"the key of one site")
    assert len({site.hash(what, "77") for what in ("patient", "study", "accession", "name")}) == 4


def test_a_home_gets_one_key_whoever_asks_first_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = config.load({"PNEUMOQ_HOME": str(tmp_path / "home")})
    with ThreadPoolExecutor(8) as pool:
        hashes = set(pool.map(lambda _: privacy.load(settings).hash("name", "x"), range(32)))
    assert len(hashes) == 1
    path = privacy.key_path(settings.home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in settings.home.iterdir()] == ["site.key"]


def test_a_key_that_could_be_guessed_or_was_damaged_is_refused(tmp_path: Path) -> None:
    given = {"PNEUMOQ_HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="openssl rand"):
        privacy.load(config.load(given | {"PNEUMOQ_SITE_KEY": "short"}))
    privacy.key_path(tmp_path).write_bytes(b"")
    with pytest.raises(ConfigError, match="damaged"):
        privacy.load(config.load(given))


def test_a_key_that_is_set_is_the_same_on_every_machine(tmp_path: Path) -> None:
    hashes = {
        privacy.load(
            config.load({"PNEUMOQ_HOME": str(tmp_path / n), "PNEUMOQ_SITE_KEY": "k" * 32})
        ).hash("name", "x")
        for n in "ab"
    }
    assert len(hashes) == 1
    assert not list(tmp_path.iterdir())


def test_the_map_of_hashed_names_is_kept_for_its_owner_and_grows(tmp_path: Path) -> None:
    privacy.keep_names(tmp_path, 3, [(0, "#aa", "SMITH, JOHN.dcm")])
    privacy.keep_names(tmp_path, 3, [(1, "#bb", "x\udcff.dcm")])
    path = tmp_path / "names" / "job-3.csv"
    assert path.read_text().splitlines() == ['0,#aa,"SMITH, JOHN.dcm"', "1,#bb,x\\udcff.dcm"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_seal_is_opened_by_the_site_that_made_it_and_by_nobody_else() -> None:
    one, other = Privacy(b"the key of one site"), Privacy(b"the key of another")
    for data in (b"", b"x", bytes(100_000)):
        sealed = one.seal(data)
        assert one.unseal(sealed) == data
        assert other.unseal(sealed) is None
        assert one.unseal(sealed[:-1]) is None
        assert one.unseal(sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:]) is None
    assert one.seal(b"the same") != one.seal(b"the same")


def test_training_hashes_under_a_key_that_is_not_the_site_s() -> None:
    one = Privacy(b"the key of one site")
    assert one.key_of_manifests() == Privacy(b"the key of one site").key_of_manifests()
    assert one.key_of_manifests() != Privacy(b"the key of another").key_of_manifests()
