"""Names and texts of films stand only where docs/concepts/patient-data.md says that they may."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.privacy import hospital, places
from tests.support import servers, soak
from tests.support.tokens import Tokens
from tests.worker.whole import card as card
from tests.worker.whole import model_file as model_file

database_url = soak.database_url


@pytest.mark.timeout(900)
def test_names_and_texts_of_films_stand_only_where_they_may(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model_file: Path
) -> None:
    with hospital.opened(database_url, valkey, tmp_path, model_file, Tokens()) as site:
        site.here.worker("score,train")
        jobs = site.score()
        site.watch()
        site.fail_to_train()
        site.nights("hidden", "hidden", hash_names=True)
        jobs.append(site.train("film", "dicom"))
        site.export(2)
        site.delivered()
        faults = places.wrong(site)
    assert not faults, "\n".join(faults)
