"""Names and texts of films stand only where docs/concepts/patient-data.md says that they may."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.privacy import hospital, places
from tests.support import servers, soak
from tests.support.tokens import Tokens
from tests.worker import samples

database_url = soak.database_url


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of two classes at 32 pixels."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1, size=32)
    return path


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("hidden", "hidden"), id="hashed names"),
        pytest.param(("film", "dicom"), id="in the clear", marks=soak.ONLY),
    ],
)
def test_names_and_texts_of_films_stand_only_where_they_may(
    database_url: str,
    valkey: servers.Valkey,
    tmp_path: Path,
    small: Path,
    kinds: tuple[str, str],
) -> None:
    with hospital.opened(database_url, valkey, tmp_path, small, Tokens()) as site:
        site.here.worker("score,train")
        site.score()
        site.watch()
        site.fail_to_train()
        site.nights(*kinds, hash_names=kinds[0] == "hidden")
        if soak.RUN is not soak.Run.QUICK:  # a second training takes what all else takes
            site.train("film", "dicom")
        site.export(2)
        site.delivered()
        faults = places.wrong(site)
    assert not faults, "\n".join(faults)
